"""Standard output and standard error whose writes never raise.

Text that cannot be written is dropped. A pipe without a reader, a full disk or a closed terminal
must neither end a run nor change the exit code of a command.
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
    """A file descriptor that drops the bytes it cannot write.

    If the descriptor does not block and has no room, standard error drops the bytes. Standard
    output waits for room instead, because it may carry the result of a command.

    Attributes:
        failure: The last error of a write, other than the error for a pipe without a reader.
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
    """Replaces sys.stdout and sys.stderr with streams whose writes never raise.

    A stream that differs from the one Python started with is kept, such as a stream of a test. A
    closed descriptor from 0 to 2 is opened on the null device. Otherwise the next file that is
    opened would get its number, and would receive what libraries write to stderr.
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
    """Returns the error because of which printed text was lost, or None.

    Text that a reader did not wait for does not count as lost.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Unfailing) else None


def write_last_words(text: str) -> None:
    """Writes to stderr just before the process ends, without waiting and without any lock.

    A thread that hangs may hold the lock of sys.stderr, or the reader of the pipe may hang. Text
    that the descriptor does not take at once is lost. On a terminal the text begins on a new line,
    below a bar that shows the progress.

    Args:
        text: The text, including its line break.
    """
    with contextlib.suppress(OSError):
        text = f"\n{text}" if os.isatty(STDERR) else text
        os.set_blocking(STDERR, False)
        try:
            os.write(STDERR, text.encode(errors="backslashreplace"))
        finally:
            # The parent process uses the same pipe or terminal.
            os.set_blocking(STDERR, True)


def _unfailing(name: str, old: TextIO | None) -> TextIO:
    # File names need not be valid text: characters that the encoding lacks are printed escaped.
    stream = io.TextIOWrapper(
        io.BufferedWriter(_Unfailing(_NUMBERS[name], "w", closefd=False)),
        encoding=getattr(old, "encoding", "utf-8"),
        errors="backslashreplace",
        # A message must be written before `os._exit`. An unbuffered stream (`python -u`) is
        # replaced by this one, which has a buffer.
        line_buffering=name == "stderr" or old is None or old.line_buffering or old.write_through,
    )
    stream.mode = "w"
    return stream
