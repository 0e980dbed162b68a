"""The checks of test_fuzz, led by coverage: ``python tests/fuzz_with_atheris.py -max_total_time=900 [folder]``.

Needs atheris (Linux, CPython up to 3.13), which is no part of the test extra; pytest doesn't collect this file.
The first byte chooses what the rest is: a part's bodies, a batch answer as it comes, one slice's JSON, a token answer.
What it finds becomes an example in test_fuzz, and the file it writes repeats it: give its name as argument.
"""

import gzip
import os
import sys
import tempfile

import atheris

sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.path.abspath(__file__))]

with atheris.instrument_imports(include=["gscthreads"]):
    import gscthreads.auth  # noqa: F401
    import gscthreads.client  # noqa: F401
    import gscthreads.rows  # noqa: F401

import test_fuzz as checks  # noqa: E402

#: What it begins from.
SEEDS = [
    b"\0" + checks.body_of(0), b"\1" + b"".join(checks.part_of(i, checks.body_of(i)) for i in range(3)) + b"--B--\r\n",
    b"\2" + checks.http(checks.body_of(0), "application/json"), b"\3" + checks.body_of(0, 5),
    b"\4" + checks.http(b'{"access_token":"a.b-c","expires_in":3599}', "application/json"),
]

WORDS = [b'"rows":', b'"keys":', b'"clicks":', b"\r\n--B\r\n", b"HTTP/1.1 200 OK", b"Content-ID: <response-",
         b"Content-Encoding: gzip", b"Transfer-Encoding: chunked", b'"error":', b"\\ud800", b"1e400", b"NaN"]


def one(data: bytes) -> None:
    kind, data = data[:1], data[1:]
    if kind == b"\0":
        checks.check_single(checks.http(data, "application/json", chunked=len(data) % 2 == 1))
    elif kind == b"\1":
        checks.check_parser(data, range(0, len(data), 7))
        packed = gzip.compress(data, 1)
        checks.check_batch(checks.http(packed, checks.MULTIPART, b"Content-Encoding: gzip"))
    elif kind == b"\2":
        checks.check_single(data)
        checks.check_batch(data)
    elif kind == b"\3":
        checks.check_decoders(data)
    elif kind == b"\4":
        checks.check_token(data)


def main() -> None:
    for folder in filter(os.path.isdir, sys.argv[1:]):
        for number, seed in enumerate(SEEDS):
            with open(os.path.join(folder, f"seed-{number}"), "wb") as file:
                file.write(seed)
    with tempfile.NamedTemporaryFile("w", suffix=".words") as file:
        file.writelines('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS)
        file.flush()
        atheris.Setup([*sys.argv, f"-dict={file.name}"], one)  # reads the file
        atheris.Fuzz()


if __name__ == "__main__":
    main()
