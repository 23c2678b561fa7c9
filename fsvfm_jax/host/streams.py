"""Standard output and error whose writes never raise: what cannot be written is dropped.

A pipe whose reader has gone, a full disk or a terminal that has hung up must not end a run, nor
change a command's exit code.
"""

import contextlib
import errno
import io
import os
import select
import sys
from typing import TextIO

STDERR = 2
_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": STDERR}


class _Unfailing(io.FileIO):
    """A file descriptor; bytes that it does not take are dropped.

    Where the descriptor does not block and has no room, standard error drops the bytes, and
    standard output, which may be a command's result, waits for room.

    Attributes:
        failure: The last error of a write, but for one where the reader has gone.
    """

    failure: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            written = super().write(data)
            while written is None and self.fileno() != STDERR:
                select.select([], [self.fileno()], [])
                written = super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.failure = error
            written = None
        return memoryview(data).nbytes if written is None else written


def drop_what_cannot_be_written() -> None:
    """Replaces sys.stdout and sys.stderr by streams whose writes never raise.

    A stream that is not the one Python started with stays as it is, such as one of a test. A
    descriptor from 0 to 2 that is closed becomes the null device: the next file opened would
    otherwise get its number, and with it what libraries write to stderr.
    """
    for number in _NUMBERS.values():
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is getattr(sys, f"__{name}__"):
            setattr(sys, name, _unfailing(name, getattr(sys, name)))


def lost_output() -> OSError | None:
    """Returns why a part of what was printed is lost, or None.

    A reader that went away wanted no more: that is no loss.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Unfailing) else None


def write_last_words(text: str) -> None:
    """Writes to stderr just before the process ends, without waiting and without any lock.

    A thread that hangs may hold the lock of sys.stderr, and the reader of the pipe may be what
    hangs. What is not taken is lost.
    """
    with contextlib.suppress(OSError):
        os.set_blocking(STDERR, False)
        try:
            os.write(STDERR, text.encode(errors="backslashreplace"))
        finally:
            # The pipe or terminal is also that of the parent process.
            os.set_blocking(STDERR, True)


def _unfailing(name: str, old: TextIO | None) -> TextIO:
    # File names need not be text: what has no bytes in the encoding is printed escaped.
    stream = io.TextIOWrapper(
        io.BufferedWriter(_Unfailing(_NUMBERS[name], "w", closefd=False)),
        encoding=getattr(old, "encoding", "utf-8"),
        errors="backslashreplace",
        # What a message says must be out before `os._exit`; an unbuffered stream (`python -u`)
        # has no buffer of its own, and this one has.
        line_buffering=name == "stderr" or old is None or old.line_buffering or old.write_through,
    )
    stream.mode = "w"
    return stream
