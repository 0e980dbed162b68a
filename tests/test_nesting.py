"""JSON that is nested so deeply that parsing it could abort an old interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gscthreads import body, client, nesting, refusals, rows, tokenserver
from gscthreads.errors import Transient
from gscthreads.model import Dataset, Report, Slice, SliceKey
from gscthreads.nesting import MOST, is_deep
from tests.properties import examples

SLICE = Slice(Dataset("sc-domain:a.com", Report("page_query", ("page", "query")), "web"), SliceKey(None, 0))
DEEP = b'{"error":' * 100_000


@pytest.fixture(autouse=True)
def old(monkeypatch):
    monkeypatch.setattr(nesting, "_CAN_ABORT", True)


def test_as_deep_as_allowed_and_deeper():
    def nested(depth):
        return b"[" * (depth - 1) + b'[{"a": "]"}]' + b"]" * (depth - 1)

    assert not is_deep(nested(MOST - 1))
    assert is_deep(nested(2 * MOST)) and is_deep(b'{"a":[' * MOST + b"]}" * MOST + b"[[")
    assert is_deep(b'["]",' * 1000) and is_deep(b'["\\"]",' * 1000)  # closed only in the texts
    assert is_deep(DEEP) and is_deep(b'{"rows":[],"x":' + b"[" * 100_000) and is_deep(b'{"a":[' * 1000)


@examples(100)
@given(st.text("[]{}\"\\ax", max_size=20))
def test_brackets_in_texts_do_not_count(text):
    answer = {"rows": [{"keys": [text, "b"], "clicks": 1} for _ in range(300)]}
    assert not is_deep(json.dumps(answer).encode())
    assert is_deep(b"".join(b"[%b," % json.dumps(text).encode() for _ in range(2 * MOST)))


def test_an_answer_that_is_cut_off_is_not_deep():
    whole = json.dumps({"rows": [{"keys": ["a[", "b"], "clicks": 1} for _ in range(300)]}).encode()
    assert not any(is_deep(whole[:end]) for end in range(0, len(whole), 7))


def test_where_nothing_aborts_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(nesting, "_CAN_ABORT", False)
    assert not is_deep(DEEP)


@pytest.mark.parametrize("module", [refusals, rows, body, client, tokenserver])
def test_who_parses_what_others_send_looks_first(module):
    assert getattr(module, "loads", None) is nesting.loads or module.is_deep is is_deep


def test_rows_that_are_too_deep_are_not_parsed(monkeypatch):
    def parse(*values, **named):
        raise AssertionError("it was parsed")

    monkeypatch.setattr(json, "loads", parse)
    with pytest.raises(Transient, match="nested too deeply"):
        rows.decode(b'{"rows":[{"keys":["a","b"]},{"x":' + b"[" * 1000, SLICE, fast=[parse])
    assert refusals.classify(500, DEEP, {}).status == 500


COLLECTED = """
import gc, sys
from gscthreads import refusals

def deep(frames):
    return frames and deep(frames - 1)

gc.callbacks.append(lambda phase, info: deep(60))
gc.set_threshold(1)
print(type(refusals.classify(500, b'{"error":' * 100_000, {})).__name__)
"""


def test_a_collector_that_calls_somebody_meanwhile_aborts_no_process():
    done = subprocess.run([sys.executable, "-c", COLLECTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "Transient\n"), done.stderr[:300]
