"""Threads nobody waits for at exit, in every Python there is."""

from __future__ import annotations

import concurrent.futures.thread
import glob
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gscthreads import pool

GUARD = 30

HANGS = """
import importlib.util, sys, threading
spec = importlib.util.spec_from_file_location("pool", sys.argv[1])
pool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pool)
hangs = threading.Event()

def hang():
    hangs.set()
    threading.Event().wait()

def use():
    kept.append(pool.LooseThreadPool(2))
    assert kept[0].submit(int).result() == 0
    kept[0].submit(hang)

kept = []
user = threading.Thread(target=use, daemon=True)
user.start()
user.join()
assert hangs.wait(30)
"""


def pythons():
    versions = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
    found = [sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{each}.*/bin/python"))) for each in versions]
    return [sys.executable] + [each[-1] for each in found if each]


@pytest.mark.parametrize("python", pythons())
def test_a_thread_that_hangs_does_not_keep_the_interpreter(python):
    assert subprocess.run([python, "-c", HANGS, str(Path(pool.__file__))], timeout=GUARD).returncode == 0


def test_shutdown_ends_all_threads():
    before, together = threading.active_count(), threading.Barrier(3)
    loose = pool.LooseThreadPool(3)
    for future in [loose.submit(together.wait, GUARD) for _ in range(3)]:
        future.result(GUARD)
    assert threading.active_count() == before + 3
    loose.shutdown(wait=True)
    assert threading.active_count() == before


def test_without_the_private_names_it_is_an_ordinary_pool(monkeypatch):
    ordinary = pool.LooseThreadPool(1)
    with monkeypatch.context() as changed:
        queues = concurrent.futures.thread._threads_queues
        changed.setattr(pool.concurrent.futures, "thread", object())
        assert ordinary.submit(int).result(GUARD) == 0
    assert set(queues) & set(ordinary._threads)
    ordinary.shutdown(wait=True)
