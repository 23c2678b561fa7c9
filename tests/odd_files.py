"""Lists what a test can put in place of a file of a run."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

# None of these is the content of a file of a run, and each is of another kind.
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a number": b"7",
    "a string": b'"7"',
    "a list": b"[]",
    "an object": b"{}",
    "a list of null": b"[null]",
    "torn": b'{"step": 1, "files": {"a": ',
    "deep": b"[" * 100_000,
    "a huge number": b"1" * 5000,
    "not UTF-8": b"\xff\xfe\x00{",
    "control codes": b"\x1b]0;title\x07\r\n\x00",
}
KINDS = ("folder", "pipe", "socket", "sparse", "device")

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["step", "files", "score", "fingerprint", "²", "../../x", "7"])
)
JSON = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("step", "score", "files", "sizes", "fingerprint", "accepted", "skip_ranges"),
                    *("host", "boot", "pid_namespace", "pid", "started", "token", "renewed"),
                ]
            )
            | st.text(max_size=8),
            inner,
            max_size=7,
        )
    ),
    max_leaves=12,
)
BYTES = st.binary(max_size=60) | st.sampled_from(list(CONTENTS.values()))


@contextmanager
def in_place_of(file: Path, kind: str) -> Iterator[None]:
    """Replaces a file by an entry of another kind or size within the `with` statement."""
    if file.exists():
        file.unlink()
    file.parent.mkdir(parents=True, exist_ok=True)
    listener = None
    if kind == "folder":
        (file / "inner").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "sparse":
        with file.open("wb") as opened:
            opened.truncate(50 * 2**30)
    else:
        here = os.open(file.parent, os.O_RDONLY)
        listener = socket.socket(socket.AF_UNIX)
        # A socket's path is at most 107 characters long.
        listener.bind(f"/proc/self/fd/{here}/{file.name}")
        os.close(here)
    try:
        yield
    finally:
        if listener is not None:
            listener.close()
