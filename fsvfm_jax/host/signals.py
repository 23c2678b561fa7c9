"""SIGTERM, SIGHUP and Ctrl-C end a command at once, for as long as it has nothing to save.

A handler written in Python runs only when the call that is going on returns, and a compilation can
take minutes. Therefore a thread hears the signals: the handler that Python has in C writes the
number of each signal to a pipe, at any moment.
"""

import contextlib
import enum
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import NoReturn, TypeVar

from fsvfm_jax.errors import Preempted
from fsvfm_jax.host.streams import write_last_words

T = TypeVar("T")

INTERRUPTED = 130
INTERRUPTED_SENTENCE = "interrupted: nothing since the newest checkpoint was saved"
# How long the release of what is held may take when the process ends.
SECONDS_TO_RELEASE = 5.0
_NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class _Mode(enum.Enum):
    """What a signal does: ends the process, is left to the main thread or to JAX, or is late."""

    END = enum.auto()
    SAVE_FIRST = enum.auto()
    SAVE_TOGETHER = enum.auto()
    SETTLED = enum.auto()


class _Listener:
    """The thread that hears the signals of this process.

    Args:
        sentence: What is written when a signal ends the process.
    """

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence
        self._mode = _Mode.END
        self._asked = False
        self._held: list[Callable[..., object]] = []
        # Held while the process ends: the main thread then waits instead of beginning to save.
        self._mutex = threading.Lock()

    def set_mode(self, mode: _Mode) -> None:
        with self._mutex:
            self._mode = mode

    @contextlib.contextmanager
    def releasing(self, release: Callable[..., object]) -> Iterator[None]:
        self._held.append(release)
        try:
            yield
        finally:
            self._held.remove(release)

    def listen(self, pipe: int) -> None:
        while True:
            for number in os.read(pipe, 64):
                self._hear(number)

    def _hear(self, number: int) -> None:
        if number == signal.SIGHUP:
            # JAX, where it hears SIGTERM for several processes, knows no SIGHUP.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if number not in (signal.SIGTERM, signal.SIGINT):
            return
        with self._mutex:
            if self._mode is _Mode.END:
                self._end(Preempted.exit_code, self._sentence)
            interrupts = self._mode is _Mode.SAVE_TOGETHER or (
                self._mode is _Mode.SAVE_FIRST and self._asked
            )
            if interrupts and number == signal.SIGINT:
                self._end(INTERRUPTED, INTERRUPTED_SENTENCE)
            self._asked = True

    def _end(self, code: int, sentence: str) -> NoReturn:
        timer = threading.Timer(SECONDS_TO_RELEASE, os._exit, (code,))
        timer.daemon = True
        timer.start()
        write_last_words(f"{sentence}\n")
        for release in reversed(self._held):
            with contextlib.suppress(Exception):
                release(None, None, None)
        os._exit(code)


_listener: _Listener | None = None


def end_at_once(sentence: str) -> None:
    """From here on SIGTERM, SIGHUP and Ctrl-C end this process with the code of `Preempted`.

    To be called in the main thread of a command's own process. SIGHUP and SIGINT stay ignored
    where they are, as under `nohup` and in the background of a script.

    Args:
        sentence: What is written to stderr then.
    """
    global _listener
    _listener = _Listener(sentence)
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    threading.Thread(target=_listener.listen, args=(readable,), name="signals", daemon=True).start()
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_give_signals_back)
    for number in _NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave_it_to_the_thread)


@contextlib.contextmanager
def released_at_once(held: AbstractContextManager[T]) -> Iterator[T]:
    """A `with` of `held` that is also left when a signal ends the process."""
    with contextlib.ExitStack() as stack:
        value = stack.enter_context(held)
        if _listener is not None:
            stack.enter_context(_listener.releasing(held.__exit__))
        yield value


def save_first() -> None:
    """From here on the main thread saves before the process ends; a second Ctrl-C ends it at once.

    The main thread's handlers receive the first signal.
    """
    if _listener is not None:
        _listener.set_mode(_Mode.SAVE_FIRST)


def save_together() -> None:
    """From here on JAX hears SIGTERM, and all processes save; Ctrl-C ends this process at once."""
    if _listener is not None:
        _listener.set_mode(_Mode.SAVE_TOGETHER)


def settle() -> None:
    """How the command ends is decided: from here on SIGTERM and SIGHUP change nothing."""
    if _listener is not None:
        _listener.set_mode(_Mode.SETTLED)
        # Python gives back the default action when it ends, which would be death by the signal.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # JAX may still wait for other processes, and a person need not.
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _give_signals_back() -> None:
    """A forked child shares the pipe but has no thread that hears it: signals end it as usual."""
    signal.set_wakeup_fd(-1)
    for number in _NUMBERS:
        if signal.getsignal(number) is _leave_it_to_the_thread:
            signal.signal(number, signal.SIG_DFL)


def _leave_it_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Python writes to the pipe only for signals that have a handler."""
