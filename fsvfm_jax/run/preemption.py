"""Handles SIGTERM and SIGINT: the run finishes its step, saves and ends, and can be continued.

Before the first step these signals end a command at once (`host.signals`). SIGHUP is handled like
SIGTERM.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from fsvfm_jax.host import signals


class StopWaiting(Exception):
    """A signal asks the run to stop while the run only waits."""


class Preemption:
    """Remembers SIGTERM and SIGINT between `__enter__` and `__exit__` instead of ending at once.

    A second SIGINT ends the process as usual, for a user who does not want to wait. In a run of
    several processes JAX itself handles SIGTERM, since `jax.distributed.initialize`: if one process
    receives it, all processes stop. SIGINT ends the process that receives it.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._waiting = False
        self._asked = 0
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        if jax.process_count() > 1:
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def begin_steps(self) -> None:
        """Marks that from now on a signal must not end the process before it has saved."""
        if jax.process_count() == 1:
            signals.save_first()
        else:
            signals.save_together()

    def requested(self) -> bool:
        """Returns whether to stop now.

        All processes must call it equally often, and all get the same answer.
        """
        if jax.process_count() > 1 and not self._signalled:
            self._asked += 1
            self._signalled = multihost_utils.reached_preemption_sync_point(self._asked)
        return self._signalled

    def check(self) -> None:
        """Raises StopWaiting if `requested`."""
        if self.requested():
            raise StopWaiting

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Lets a signal interrupt the `with` statement's body, which only waits, maybe for ever.

        In a run of several processes nothing interrupts the body, because the processes can stop
        only together, where all of them call `requested`.

        Raises:
            StopWaiting: A signal arrives in the body, or has arrived before.
        """
        self._waiting = True
        try:
            if self._signalled:
                raise StopWaiting
            yield
        finally:
            self._waiting = False

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signalled = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._waiting:
            raise StopWaiting
