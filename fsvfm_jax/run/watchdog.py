"""Ends a process in which a part takes longer than its limit, and prints the threads' stacks."""

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

WATCHDOG_EXIT_CODE = 71

STDERR = 2
TICK = 0.5  # seconds
# A longer tick means that the process was stopped or the machine slept, so it counts as this long.
LONGEST_TICK = 1.0


class _Limit(NamedTuple):
    what: str
    seconds: float | int
    deadline: float  # on the watchdog's clock


class Watchdog:
    """Runs a thread that ends the process within 2 s after a limit has passed.

    The thread runs between `__enter__` and `__exit__`. Limits may nest, and several threads may
    have limits at the same time; 0 seconds is no limit. Time counts only while the process runs. A
    call that never releases Python's global lock is not noticed, because no thread runs then.
    (`faulthandler.dump_traceback_later` would notice it, but it also ends a process that was merely
    stopped, and it exits with code 1, after which no launcher starts the run again.)
    """

    def __init__(self) -> None:
        # Single operations on a dict are atomic, so there is no lock that a hung thread could hold.
        self._armed: dict[object, _Limit] = {}
        self._clock = 0.0
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._thread.join()

    @contextlib.contextmanager
    def limit(self, what: str, seconds: float | int) -> Iterator[None]:
        """Limits the time of the `with` statement's body.

        Args:
            what: Name of the body for the message.
            seconds: The limit; 0 is no limit.
        """
        key = object()
        self._arm(key, what, seconds)
        try:
            yield
        finally:
            self._armed.pop(key, None)

    def beat(self, what: str, seconds: float | int) -> None:
        """Marks the loop as alive and limits the time until its next `beat` or `rest`.

        Args:
            what: Name of what the loop begins, for the message.
            seconds: The limit; 0 is no limit.
        """
        self._arm(self, what, seconds)

    def rest(self) -> None:
        """Ends the limit of the last `beat`: no further one is expected."""
        self._armed.pop(self, None)

    def _arm(self, key: object, what: str, seconds: float | int) -> None:
        if seconds:
            # The clock may be one tick behind.
            deadline = self._clock + LONGEST_TICK + seconds
            self._armed[key] = _Limit(what, seconds, deadline)
        else:
            self._armed.pop(key, None)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._left.wait(TICK):
            now = time.monotonic()
            self._advance(min(now - before, LONGEST_TICK))
            before = now

    def _advance(self, seconds: float) -> None:
        """Adds seconds to the clock, and ends the process if a limit has passed."""
        self._clock += seconds
        for limit in sorted(self._armed.values(), key=lambda limit: limit.deadline):
            if limit.deadline <= self._clock:
                _end_process(limit)


def _end_process(limit: _Limit) -> NoReturn:
    """Writes the message and all stacks to stderr, and exits without clean-up.

    It uses neither `logging` nor `sys.stderr`, because a hung thread may hold their locks.
    """
    try:
        # The reader of the pipe may itself hang. What the pipe does not accept at once is lost.
        os.set_blocking(STDERR, False)
        sentence = (
            f"error: {limit.what} has not ended within {limit.seconds:g} s: it hangs or the limit"
            " is too short, all threads' stacks follow; the same command goes on from the newest"
            f" checkpoint; exit code {WATCHDOG_EXIT_CODE}\n"
        )
        with contextlib.suppress(BlockingIOError):
            os.write(STDERR, sentence.encode())
        faulthandler.dump_traceback(STDERR, all_threads=True)
        # The process that started this one uses the same pipe or terminal, which must block again.
        os.set_blocking(STDERR, True)
    finally:
        os._exit(WATCHDOG_EXIT_CODE)
