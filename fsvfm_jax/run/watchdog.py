"""No run hangs silently: what takes longer than its limit ends the process, with all stacks."""

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
# A longer tick means that the process was stopped or the machine slept: the rest does not count.
LONGEST_TICK = 1.0


class _Limit(NamedTuple):
    what: str
    seconds: float | int
    deadline: float  # on the watchdog's clock


class Watchdog:
    """While entered, a thread that ends the process soon (2 s) after a limit has passed.

    Limits may nest, and several threads may have some at once; 0 seconds is no limit. Time counts
    only while the process runs. A call that never releases Python's lock is not noticed, as no
    thread runs then. (faulthandler's timer would, but it also ends who was merely stopped, and with
    code 1, which nothing starts again.)
    """

    def __init__(self) -> None:
        # Single operations on a dict are atomic: no lock that a hung thread could hold.
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
        """The body, called `what` in the message, must end within `seconds`."""
        key = object()
        self._arm(key, what, seconds)
        try:
            yield
        finally:
            self._armed.pop(key, None)

    def beat(self, what: str, seconds: float | int) -> None:
        """The loop is alive and begins `what`; its next beat or rest must come within `seconds`."""
        self._arm(self, what, seconds)

    def rest(self) -> None:
        """No further beat is to be expected."""
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
        """Moves the clock on, and ends the process if a limit has passed."""
        self._clock += seconds
        for limit in sorted(self._armed.values(), key=lambda limit: limit.deadline):
            if limit.deadline <= self._clock:
                _end_process(limit)


def _end_process(limit: _Limit) -> NoReturn:
    """Neither logging nor sys.stderr, whose locks a hung thread may hold, nor any clean-up."""
    try:
        # Whoever should read may be what hangs: what the pipe does not take is lost, not awaited.
        os.set_blocking(STDERR, False)
        sentence = (
            f"error: {limit.what} has not ended within {limit.seconds:g} s: it hangs or the limit"
            " is too short, all threads' stacks follow; the same command goes on from the newest"
            f" checkpoint; exit code {WATCHDOG_EXIT_CODE}\n"
        )
        with contextlib.suppress(BlockingIOError):
            os.write(STDERR, sentence.encode())
        faulthandler.dump_traceback(STDERR, all_threads=True)
        # The pipe or terminal is also that of whoever started us.
        os.set_blocking(STDERR, True)
    finally:
        os._exit(WATCHDOG_EXIT_CODE)
