"""One gzip stream put together from pieces compressed earlier.

Every piece is raw deflate that ends on a byte and refers to nothing before it, so pieces can be kept and joined in
any order.  Several gzip members in a row would be simpler, but not every client reads past the first: httplib2,
which google-api-python-client uses, does not.  The stream's checksum is combined from those of its pieces, the way
zlib's ``crc32_combine`` does it: arithmetic on polynomials over GF(2), bit-reversed.
"""

from __future__ import annotations

import functools
import struct
import zlib
from typing import NamedTuple, Tuple

#: A gzip header without name or time, and the empty last block of a deflate stream.
HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
LAST_BLOCK = b"\x03\x00"

#: The polynomial of CRC-32, bit-reversed.
POLYNOMIAL = 0xEDB88320


class Squeezed(NamedTuple):
    """A compressed piece: deflate bytes, and checksum and number of the bytes before compression."""

    data: bytes
    crc: int
    length: int


def squeeze(data: bytes, level: int = 1) -> Squeezed:
    """Compress a piece."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)
    return Squeezed(packed, zlib.crc32(data), len(data))


class GzipStream:
    """Keeps the account of a gzip stream while its pieces go out: HEAD, data of each piece, ``tail()``."""

    def __init__(self) -> None:
        self._crc = 0
        self._length = 0

    def add(self, piece: Squeezed) -> bytes:
        """Count a piece in; returns its bytes."""
        self._crc = _multiplied(_shift(piece.length), self._crc) ^ piece.crc
        self._length += piece.length
        return piece.data

    def tail(self) -> bytes:
        """What ends the stream."""
        return LAST_BLOCK + struct.pack("<II", self._crc, self._length & 0xFFFFFFFF)


def gzip_whole(piece: Squeezed) -> bytes:
    """A gzip stream of one piece."""
    stream = GzipStream()
    return HEAD + stream.add(piece) + stream.tail()


def _multiplied(one: int, two: int) -> int:
    """The product of two polynomials modulo that of CRC-32."""
    product, mask = 0, 1 << 31
    while mask:
        if one & mask:
            product ^= two
        mask >>= 1
        two = (two >> 1) ^ POLYNOMIAL if two & 1 else two >> 1
    return product


@functools.lru_cache(maxsize=None)
def _squares() -> Tuple[int, ...]:
    """x to the power of 1, 2, 4, 8, ..."""
    powers = [1 << 30]
    for _ in range(31):
        powers.append(_multiplied(powers[-1], powers[-1]))
    return tuple(powers)


@functools.lru_cache(maxsize=4_096)
def _shift(length: int) -> int:
    """What a checksum is multiplied with when ``length`` bytes follow: x to the power of 8 * length."""
    power, exponent, result = 3, length, 1 << 31
    while exponent:
        if exponent & 1:
            result = _multiplied(_squares()[power & 31], result)
        exponent >>= 1
        power += 1
    return result
