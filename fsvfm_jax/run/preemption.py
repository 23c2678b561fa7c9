"""SIGTERM and SIGINT as a wish: finish the step, save, and end so that one can start again.

Until the first step a command ends at once instead (`host.signals`), and SIGHUP is a SIGTERM to it.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from fsvfm_jax.host import signals


class StopWaiting(Exception):
    """The wish came while nothing was being done that must be finished."""


class Preemption:
    """While entered, SIGTERM and SIGINT are remembered instead of ending the process.

    A second SIGINT ends it as usual, for whoever cannot wait. Of several processes JAX itself hears
    SIGTERM, since `jax.distributed.initialize`: all stop if one is told to. SIGINT ends the process
    that receives it.
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
        """From here on there is something to save before the process ends."""
        if jax.process_count() == 1:
            signals.save_first()
        else:
            signals.save_together()

    def requested(self) -> bool:
        """Whether to stop now; all processes ask equally often and get the same answers."""
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
        """The body only waits, perhaps for ever: the wish ends it.

        Several processes go on waiting, since they can stop only together: where all ask.

        Raises:
            StopWaiting: The wish came, or is there already.
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
