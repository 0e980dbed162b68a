"""Multipart batches: requests to bytes, and bytes, as they arrive, to parts.  Pure: no sockets, no clock.

Format and its observed variants: gsc-api.md 4.1 to 4.3.  Not thread-safe: one parser per answer.
"""

from __future__ import annotations

import re
import urllib.parse
import uuid
import zlib
from typing import Iterable, Iterator, List, MutableMapping, NamedTuple, Optional, Sequence, Tuple

from requests.structures import CaseInsensitiveDict

from .errors import Transient

#: Most bytes of one header block.
MAX_HEADERS = 64 * 1024

#: Most bytes of one part's body: far above 25,000 rows of the longest keys ever seen.
MAX_PART = 64 * 1024 * 1024

#: Most parts of one answer: 1,000 calls (gsc-api.md 4.1), and as many again doubled.
MAX_PARTS = 2000

#: Most white space after a boundary that still belongs to it.
_MAX_PADDING = 256

#: Most bytes kept, compressed, of parts without Content-ID.
_MAX_HELD = 64 * 1024 * 1024

_STATUS_LINE = re.compile(rb"HTTP/\d{1,3}(?:\.\d{1,3})?[ \t]{1,99}(\d{3})(?!\S)")  # bounded: it looks at whole parts


class Part(NamedTuple):
    """One call's answer.  ``content_id`` is bare (no brackets, no "response-"), None when the part has none;
    ``status`` 0 when the part isn't an HTTP answer; ``headers`` are the inner ones and ignore case."""

    content_id: Optional[str]
    status: int
    headers: MutableMapping[str, str]
    body: bytes


def compose(parts: Sequence[Tuple[str, str, bytes]], boundary: str) -> bytes:
    """The multipart body that asks for *parts*: (content id, "POST /path", JSON body) each."""
    chunks: List[bytes] = []
    for content_id, method_path, body in parts:
        head = (
            f"--{boundary}\r\n"
            "Content-Type: application/http\r\n"
            "Content-Transfer-Encoding: binary\r\n"
            f"Content-ID: <{content_id}>\r\n"
            "\r\n"
            f"{method_path} HTTP/1.1\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            "\r\n"
        )
        chunks += [head.encode("ascii"), body, b"\r\n"]
    chunks.append(f"--{boundary}--\r\n".encode("ascii"))
    return b"".join(chunks)


def boundary_of(content_type: str) -> Optional[str]:
    """The boundary that a multipart Content-Type names; None when it isn't multipart or names none."""
    kind, _, parameters = content_type.partition(";")
    if not kind.strip().lower().startswith("multipart/"):
        return None
    found = re.search(r';\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]+))', ";" + parameters, re.I)
    if not found:
        return None
    boundary = re.sub(r"\\(.)", r"\1", found.group(1)) if found.group(1) is not None else found.group(2)
    return boundary if 1 <= len(boundary) <= 200 and boundary.isascii() else None


class PartParser:
    """Feed it an answer in pieces of any size; each piece gives the parts it completed.

    A part counts only once the delimiter after it has been seen whole.  Time is linear in the bytes fed and memory
    is bounded by the largest part.  Line ends may be LF or CRLF; text before the first and after the last delimiter
    is skipped.
    """

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\n--" + boundary.encode("ascii")
        self._buffer = bytearray(b"\n")  # so that a delimiter at the very start also follows a line end
        self._scanned = 0  # no delimiter begins before this place of the buffer
        self._in_part = False  # the buffer begins with the line end of the delimiter before a part
        self._closed = False
        self._count = 0
        self._fault: Optional[Transient] = None

    def feed(self, chunk: bytes) -> List[Part]:
        """The parts that *chunk* completed.  Raises Transient (``tooLarge``) once a limit was passed, but only on
        the call after, so that parts found before are not lost."""
        if self._fault is not None:
            raise self._fault
        if self._closed:
            return []
        self._buffer += chunk
        parts: List[Part] = []
        start = 0
        while not self._closed and self._fault is None:
            found = self._buffer.find(self._delimiter, max(self._scanned, start))
            end = self._delimiter_end(found) if found >= 0 else None
            if found >= 0 and end == -1:  # the boundary goes on: only text that begins like it
                self._scanned = found + 1
                continue
            if found < 0:
                self._scanned = max(start, self._scanned, len(self._buffer) - len(self._delimiter) + 1)
            else:
                self._scanned = found
            if self._in_part and self._scanned - start > MAX_PART + 2 * MAX_HEADERS:
                self._fault = Transient(f"answer larger than {MAX_PART // 2**20} MiB", reason="tooLarge")
            elif found < 0 or end is None:
                break
            else:
                self._end_part(parts, start, found)
                start = self._scanned = end
        if self._closed or self._fault is not None:
            self._buffer = bytearray()
        else:
            self._forget(start if self._in_part else self._scanned)
        return parts

    def finish(self) -> None:
        """Say that the answer has ended.  Raises Transient when its last delimiter was missing or a limit passed."""
        if self._fault is not None:
            raise self._fault
        if not self._closed:
            raise Transient("the batch answer ends before its last boundary", reason="broken")

    def _delimiter_end(self, found: int) -> Optional[int]:
        """Where the next part begins (at the delimiter's LF); None when more bytes are needed, -1 when this is no
        delimiter.  Sets ``_closed`` at the last one."""
        place = found + len(self._delimiter)
        after = bytes(self._buffer[place : place + _MAX_PADDING])
        if after.startswith(b"--"):
            self._closed = True
            return place + 2
        if after in (b"", b"-"):
            return None
        rest = after.lstrip(b" \t")
        if rest.startswith(b"\r"):
            rest = rest[1:]
        if rest.startswith(b"\n"):
            return place + len(after) - len(rest)
        return None if not rest and len(after) < _MAX_PADDING else -1

    def _end_part(self, parts: List[Part], start: int, found: int) -> None:
        if self._in_part:
            self._count += 1
            if self._count > MAX_PARTS:
                self._fault = Transient(f"more than {MAX_PARTS} parts in one answer", reason="tooLarge")
                return
            end = found - 1 if found > start and self._buffer[found - 1 : found] == b"\r" else found
            parts.append(_read_part(self._buffer, min(start + 1, end), end))
        self._in_part = True

    def _forget(self, place: int) -> None:
        del self._buffer[:place]
        self._scanned = max(0, self._scanned - place)


class Matcher:
    """Tells which call of one batch a part answers.  Its content ids can't be guessed, so nothing matches by chance."""

    def __init__(self, count: int) -> None:
        unguessable = uuid.uuid4().hex
        self.content_ids = [f"{unguessable}-{index}" for index in range(count)]
        self._index = {content_id: index for index, content_id in enumerate(self.content_ids)}

    def match(self, chunks: Iterable[bytes], boundary: str) -> Iterator[Tuple[int, Part]]:
        """(index of the call, its part) as the parts of an answer arrive; parts with an unknown id are ignored.

        When none has an id and all are there, they count in the order of the calls (gsc-api.md 4.1), at the end.
        Raises Transient when the answer breaks a limit, or breaks off.
        """
        parser = PartParser(boundary)
        held: List[Part] = []  # those without id, compressed: their number is known only at the end
        size = labelled = dropped = 0
        for chunk in chunks:
            for part in parser.feed(chunk):
                if part.content_id is not None:
                    labelled += 1
                    held.clear()
                    if part.content_id in self._index:
                        yield self._index[part.content_id], part
                elif not labelled and size <= _MAX_HELD:
                    held.append(part._replace(body=zlib.compress(part.body, 1)))
                    size += len(held[-1].body)
                else:
                    dropped += 1
        parser.finish()
        if not dropped and len(held) == len(self.content_ids):
            for index, part in enumerate(held):
                yield index, part._replace(body=zlib.decompress(part.body))


def _read_part(data: bytearray, start: int, end: int) -> Part:
    """The part in ``data[start:end]``, delimiters excluded."""
    outer: MutableMapping[str, str] = CaseInsensitiveDict()
    lines: List[bytes] = []
    place = start
    if not _STATUS_LINE.match(data, start, end):  # else: the part's own headers are missing altogether
        lines, place = _header_block(data, start, end)
        outer = _headers(lines)
    content_id = _bare_id(outer.get("Content-ID", ""))
    lines, place = _header_block(data, place, end)
    found = _STATUS_LINE.match(lines[0]) if lines else None
    if found is None:
        return Part(content_id, 0, CaseInsensitiveDict(), b"")
    with memoryview(data) as view, view[place:end] as slice_:  # one copy, not two
        body = bytes(slice_)
    return Part(content_id, int(found.group(1)), _headers(lines[1:]), body)


def _header_block(data: bytearray, start: int, end: int) -> Tuple[List[bytes], int]:
    """The lines up to the next empty one, and the place after it.  No lines when the block is over the limit."""
    lines: List[bytes] = []
    place, limit = start, min(end, start + MAX_HEADERS)
    while place < end:
        stop = data.find(b"\n", place, limit)
        if stop < 0:
            if limit < end:
                return [], end
            stop = end
        line = bytes(data[place:stop]).rstrip(b"\r")
        place = min(stop + 1, end)
        if not line:
            break
        lines.append(line)
    return lines, place


def _headers(lines: Sequence[bytes]) -> MutableMapping[str, str]:
    """Header lines -> values; folded lines are joined, the first of several wins, broken lines are skipped."""
    unfolded: List[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and unfolded:
            unfolded[-1] += b" " + line.strip()
        else:
            unfolded.append(line)
    headers: MutableMapping[str, str] = CaseInsensitiveDict()
    for line in unfolded:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon and name.strip():
            headers.setdefault(name.strip(), value.strip())
    return headers


def _bare_id(value: str) -> Optional[str]:
    """``<response-X>``, in any of the spellings seen -> ``X``."""
    text = urllib.parse.unquote(value.strip().lstrip("<").rstrip(">")).strip().lstrip("<").rstrip(">")
    if text.lower().startswith("response-"):
        text = text[len("response-") :]
    return text or None
