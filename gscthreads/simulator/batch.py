"""The multipart/mixed protocol of HTTP batches (gsc-api.md 4): reading requests, writing answers."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from .errors import Refusal, legacy

#: Most calls in one batch (gsc-api.md 4.1).
MAX_PARTS = 1_000


class Part(NamedTuple):
    """One request inside a batch.  Header names are lowercase."""

    content_id: Optional[str]
    method: str
    target: str
    headers: Dict[str, str]
    body: bytes


def bad_batch(message: str) -> Refusal:
    """400 for the batch as a whole."""
    return Refusal("bad_batch", 400, legacy(400, message, "global", "badRequest"))


def boundary_of(content_type: str) -> bytes:
    """The boundary of a multipart/mixed content type, quoted or not."""
    found = re.search(r';\s*boundary=(?:"([^"]+)"|([^;\s]+))', content_type, re.IGNORECASE)
    if not content_type.lower().startswith("multipart/mixed") or found is None:
        raise bad_batch("Failed to parse batch request, error: no boundary in the Content-Type of multipart/mixed.")
    return (found.group(1) or found.group(2)).encode("latin-1")


def parse(content_type: str, body: bytes) -> List[Part]:
    """The parts of a batch request; lines may end in LF or CRLF."""
    delimiter = re.escape(b"--" + boundary_of(content_type))
    pieces = re.split(rb"(?:\A|\r?\n)" + delimiter + rb"(--)?[ \t]*(?=\r?\n|\Z)", body)
    # Split with one group yields: preamble, (end mark or None, text) ...
    parts = []
    closed = False
    for end, text in zip(pieces[1::2], pieces[2::2]):
        if end:
            closed = True
            break
        parts.append(_part(re.sub(rb"\A\r?\n", b"", text, count=1)))
    if not closed:
        raise bad_batch("Failed to parse batch request, error: the closing boundary is missing.")
    if not parts:
        raise bad_batch("Failed to parse batch request, error: the batch is empty.")
    if len(parts) > MAX_PARTS:
        raise bad_batch(f"The batch request could not be processed. The batch exceeds {MAX_PARTS} calls.")
    return parts


def _part(text: bytes) -> Part:
    outer, inner = _headers(text)
    if not outer.get("content-type", "").lower().startswith("application/http"):
        raise bad_batch("Failed to parse batch request, error: a part is not application/http.")
    line, _, rest = inner.lstrip(b"\r\n").partition(b"\n")
    words = line.decode("latin-1").split()
    if len(words) not in (2, 3) or not words[1].startswith("/"):
        raise bad_batch("Failed to parse batch request, error: a part's request line is not 'METHOD /path'.")
    headers, body = _headers(rest)
    length = headers.get("content-length", "")
    if length.isdigit():
        body = body[:int(length)]
    return Part(outer.get("content-id"), words[0].upper(), words[1], headers, body)


def _headers(text: bytes) -> Tuple[Dict[str, str], bytes]:
    """Headers up to the first empty line (folded ones unfolded), and what follows it."""
    found = re.search(rb"(?:\A|\r?\n)\r?\n", text)
    head, rest = (text[:found.start()], text[found.end():]) if found else (text, b"")
    unfolded = re.sub(r"\r?\n[ \t]+", " ", head.decode("latin-1"))
    headers = {}
    for line in unfolded.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return headers, rest


def answer_id(content_id: Optional[str]) -> Optional[str]:
    """The Content-ID an answer part carries: ``<X>`` comes back as ``<response-X>`` (gsc-api.md 4.1)."""
    if content_id is None:
        return None
    if content_id.startswith("<") and content_id.endswith(">"):
        return f"<response-{content_id[1:-1]}>"
    return f"response-{content_id}"


def part_head(boundary: str, content_id: Optional[str], status: int, reason: str,
              headers: Sequence[Tuple[str, str]], first: bool) -> bytes:
    """Everything of an answer part before its body, from the boundary on."""
    lines = [f"--{boundary}", "Content-Type: application/http"]
    if content_id is not None:
        lines.append(f"Content-ID: {content_id}")
    lines += ["", f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return ("" if first else "\r\n").encode() + "\r\n".join(lines).encode("latin-1", "replace")


def empty_part(boundary: str, content_id: Optional[str], first: bool) -> bytes:
    """A part without any content."""
    lines = [f"--{boundary}", "Content-Type: application/http"]
    if content_id is not None:
        lines.append(f"Content-ID: {content_id}")
    return ("" if first else "\r\n").encode() + "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def closing(boundary: str, first: bool) -> bytes:
    """The end of a batch answer."""
    return f"{'' if first else chr(13) + chr(10)}--{boundary}--\r\n".encode()
