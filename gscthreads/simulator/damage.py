"""What the faults of HTTP requests do to a body on its way out."""

from __future__ import annotations

from typing import Iterable, Iterator, NamedTuple, Optional

from .squeeze import HEAD, GzipStream, squeeze

#: Bytes changed by corrupt_gzip.
CORRUPTED = 16

#: Bytes sent at a time by huge and gzip_bomb, before compression.
BLOCK = 1 << 20


class Piece(NamedTuple):
    """Bytes of an answer's body; ``part`` says whose body they are, None for what lies between bodies."""

    data: bytes
    part: Optional[int]


class Cut(Exception):
    """The answer ends here: by "reset", by a "stall", or by an early "close"."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


#: Faults that stop in the middle of a body, and how.
CUTS = {"reset_body": "reset", "stall_body": "stall", "wrong_length": "close"}


def damaged(pieces: Iterable[Piece], fault: Optional[str], victim: int) -> Iterator[bytes]:
    """The bytes that really go out.  The fault strikes in the middle of part ``victim``'s body."""
    for data, part in pieces:
        if part != victim or fault is None or not data:
            yield data
            continue
        middle = len(data) // 2
        if fault in CUTS:
            yield data[:middle]
            raise Cut(CUTS[fault])
        if fault == "truncated_gzip":
            yield data[:middle]
            return
        if fault == "corrupt_gzip":
            wrong = bytes(byte ^ 0xA5 for byte in data[middle:middle + CORRUPTED])
            yield data[:middle] + wrong + data[middle + CORRUPTED:]
        else:
            yield data


def huge(total: int, gzipped: bool) -> Iterator[bytes]:
    """Valid JSON, apart from its length: ``total`` bytes of rows, as gzip or not."""
    row = b'{"keys":["https://example.com/","again"],"clicks":0,"impressions":1,"ctr":0,"position":1},'
    rows = row * (BLOCK // len(row))
    blocks = [b'{"rows":[', rows, row[:-1] + b'],"responseAggregationType":"byPage"}']
    first, middle, last = [squeeze(block, 9) for block in blocks]
    stream = GzipStream()
    yield HEAD + stream.add(first) if gzipped else blocks[0]
    for _ in range(max(1, total // len(rows))):
        yield stream.add(middle) if gzipped else rows
    yield stream.add(last) + stream.tail() if gzipped else blocks[2]
