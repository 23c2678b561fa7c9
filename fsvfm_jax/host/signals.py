"""Ends a command at once on SIGTERM, SIGHUP or Ctrl-C, as long as it has nothing to save.

A handler written in Python runs only after the current call has returned, and a compilation can
take minutes. A thread therefore receives the signals: Python's own handler, written in C, writes
the number of each signal to a pipe at any moment, and the thread reads that pipe.
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
# The longest time, in seconds, that releasing the held contexts may delay the end of the process.
SECONDS_TO_RELEASE = 5.0
_NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class _Mode(enum.Enum):
    """What a signal does at present.

    Attributes:
        END: It ends the process.
        SAVE_FIRST: It is left to the main thread, which saves.
        SAVE_TOGETHER: It is left to JAX, and all processes save.
        SETTLED: It has no effect, because the command is about to end.
    """

    END = enum.auto()
    SAVE_FIRST = enum.auto()
    SAVE_TOGETHER = enum.auto()
    SETTLED = enum.auto()


class _Listener:
    """Receives the signals of this process in a thread.

    Args:
        sentence: The text to write when a signal ends the process.
    """

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence
        self._mode = _Mode.END
        self._asked = False
        self._held: list[Callable[..., object]] = []
        # The lock is held while the process ends, so that the main thread waits and does not begin
        # to save.
        self._mutex = threading.Lock()

    def set_mode(self, mode: _Mode) -> None:
        with self._mutex:
            self._mode = mode
            if mode is _Mode.END and self._asked:
                self._end(Preempted.exit_code, self._sentence)

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
            # With several processes JAX handles SIGTERM but not SIGHUP.
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
    """Lets SIGTERM, SIGHUP and Ctrl-C end this process with the code of `Preempted` from now on.

    Call this function in the main thread of a command's own process. Signals that are ignored stay
    ignored, such as SIGHUP under `nohup` and SIGINT in the background of a script.

    Args:
        sentence: The text to write to stderr when a signal ends the process.
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
    """Enters `held` and yields its value; exits `held` also when a signal ends the process.

    Args:
        held: A context manager, such as a lock.
    """
    with contextlib.ExitStack() as stack:
        value = stack.enter_context(held)
        if _listener is not None:
            stack.enter_context(_listener.releasing(held.__exit__))
        yield value


def save_first() -> None:
    """Lets the main thread save before the process ends, from now on.

    The main thread's handlers receive the first signal. A second Ctrl-C ends the process at once.
    """
    if _listener is not None:
        _listener.set_mode(_Mode.SAVE_FIRST)


def end_again() -> None:
    """Lets a signal end this process at once again, after the work that had to be saved.

    A signal that came too late to be noticed by that work ends the process now.
    """
    if _listener is not None:
        _listener.set_mode(_Mode.END)


def save_together() -> None:
    """Leaves SIGTERM to JAX from now on, so that all processes save.

    Ctrl-C ends this process at once.
    """
    if _listener is not None:
        _listener.set_mode(_Mode.SAVE_TOGETHER)


def settle() -> None:
    """Makes SIGTERM and SIGHUP have no effect from now on, because the exit code is decided."""
    if _listener is not None:
        _listener.set_mode(_Mode.SETTLED)
        # When Python ends, it restores the default action, with which the signal kills the process.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # JAX may still wait for other processes; Ctrl-C lets a person end that wait.
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _give_signals_back() -> None:
    """Restores the usual handlers in a forked child, where no thread reads the shared pipe."""
    signal.set_wakeup_fd(-1)
    for number in _NUMBERS:
        if signal.getsignal(number) is _leave_it_to_the_thread:
            signal.signal(number, signal.SIG_DFL)


def _leave_it_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Does nothing: Python writes a signal to the pipe only if the signal has a handler."""
