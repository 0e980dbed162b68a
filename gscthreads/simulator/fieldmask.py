"""Partial answers: the standard query parameter ``fields`` (gsc-api.md 1)."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from .errors import invalid_parameter

#: Field name -> the fields wanted of it; None means all of it.
Mask = Dict[str, Optional[Dict[str, Any]]]


def parse(text: str) -> Mask:
    """Read a mask such as ``rows(keys,clicks),metadata/firstIncompleteDate``; raises Refusal (400)."""
    pieces: List[str] = []
    depth = start = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
        if letter == "," and not depth:
            pieces.append(text[start:at])
            start = at + 1
    pieces.append(text[start:])
    mask: Mask = {}
    for piece in map(str.strip, pieces):
        name, opened, rest = piece.partition("(")
        if depth or not name or (opened and not rest.endswith(")")):
            raise invalid_parameter(f"Invalid field selection {text}", "fields")
        inner: Optional[Mask] = parse(rest[:-1]) if opened else None
        for step in reversed(name.split("/")):
            mask_here: Mask = {step: inner}
            inner = mask_here
        _merge(mask, inner or {})
    return mask


def _merge(mask: Mask, more: Mask) -> None:
    for name, wanted in more.items():
        have = mask.get(name)
        if name in mask and have is not None and wanted is not None:
            _merge(have, wanted)
        elif name not in mask or wanted is None:
            mask[name] = wanted


def apply(value: Any, mask: Optional[Mask]) -> Any:
    """The part of a JSON value that a mask asks for; lists are gone through item by item."""
    if mask is None or "*" in mask:
        return value
    if isinstance(value, list):
        return [apply(item, mask) for item in value]
    if isinstance(value, dict):
        return {name: apply(item, mask[name]) for name, item in value.items() if name in mask}
    return value
