"""What can end a training run from outside its steps: its lock, signals, time limits, faults."""

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from fsvfm_jax.data.pipeline import HostBatch
from fsvfm_jax.devices import distributed
from fsvfm_jax.host.signals import released_at_once
from fsvfm_jax.optim import Schedule
from fsvfm_jax.run.failed_start import Start
from fsvfm_jax.run.faults import fault, poison
from fsvfm_jax.run.lock import RunLock
from fsvfm_jax.run.preemption import Preemption, StopWaiting
from fsvfm_jax.run.watchdog import Watchdog
from fsvfm_jax.train_state import StepValues


class Guard:
    """Holds the workdir's lock and the signals of the process, and limits the time of each part.

    While it is entered, the workdir belongs to this run. If the run fails before its first step
    has been made, the files and folders that it has written are removed on leaving.

    Args:
        workdir: The run's folder; made if it is missing.
        limits: The config's watchdog section, in seconds.

    Attributes:
        workdir: The run's folder.
        watchdog: The time limits.
        waited: Seconds that `next` waited for the newest batch.
    """

    def __init__(self, workdir: epath.Path, limits: ConfigDict) -> None:
        self.workdir = workdir
        self.watchdog = Watchdog()
        self.waited = 0.0
        self._limits = limits
        self._process = jax.process_index()
        self._preemption = Preemption()
        self._lock = RunLock(workdir)

    def __enter__(self) -> "Guard":
        # No process makes the workdir before all processes have come here with their data.
        multihost_utils.sync_global_devices("the workdir is entered")
        self._start = Start(self.workdir, active=self._process == 0)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._start.folders())
            distributed.share_workdir(self.workdir)
            distributed.on_first_process(
                lambda: stack.enter_context(released_at_once(self._lock)),
                refusal=f"{self.workdir} cannot be locked",
            )
            stack.enter_context(self._start.files())
            self._entered = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered.__exit__(kind, error, traceback)

    def limit_start(self) -> None:
        """Limits the time until the first `limit_step`."""
        self._entered.enter_context(self._preemption)
        self._entered.enter_context(self.watchdog)
        seconds = self._limits.start_seconds
        self.watchdog.beat("the start (config.watchdog.start_seconds)", seconds)

    def begin_steps(self) -> None:
        """Begins to remember signals: from here on there is something to save."""
        self._preemption.begin_steps()
        self._preemption.requested()

    def next(self, batches: Iterator[HostBatch], step: int) -> HostBatch | None:
        """Waits for the batch of a step; returns None where a signal asks the run to stop."""
        began = time.monotonic()
        try:
            with self._preemption.waiting():
                self.fault("data", step)
                rows = next(batches)
        except StopWaiting:
            return None
        self.waited = time.monotonic() - began
        return rows

    def after_step(self, step: int) -> None:
        """Takes note of a step: from the first one on, a failure of the run removes nothing."""
        self._start.is_over()
        self.fault("step", step)

    def check(self) -> None:
        """Checks that the workdir still belongs to this run.

        Raises:
            StorageError: Another run has taken the workdir.
        """
        if self._process == 0:
            self._lock.check()

    def stop_requested(self) -> bool:
        """Returns whether to stop now; all processes call it equally often."""
        return self._preemption.requested()

    def limit_step(self, step: int) -> None:
        """Limits the time until the next call, which is that of the step after `step`."""
        seconds = self._limits.step_seconds
        self.watchdog.beat(f"step {step} (config.watchdog.step_seconds)", seconds)

    @contextlib.contextmanager
    def validating(self, step: int, *, stoppable: bool) -> Iterator[Callable[[], None]]:
        """Limits the time of a validation, batch by batch.

        Args:
            step: The step that is validated.
            stoppable: Whether a signal stops the validation.

        Yields:
            A function to call after every batch.

        Raises:
            StopWaiting: A signal asks the run to stop.
        """
        limits = self._limits

        def after_batch() -> None:
            self.watchdog.beat(
                "a batch of the validation (config.watchdog.step_seconds)", limits.step_seconds
            )
            self.fault("validation", step)
            if stoppable:
                self._preemption.check()

        self.watchdog.beat(
            "the validation's first batch (config.watchdog.start_seconds)", limits.start_seconds
        )
        try:
            with self._preemption.waiting() if stoppable else contextlib.nullcontext():
                yield after_batch
        finally:
            self.watchdog.rest()

    def fault(self, point: str, step: int) -> None:
        """Injects the fault that `run/faults.py` has for this point, if there is one."""
        fault(point, step, process=self._process)

    def values(self, schedule: Schedule, step: int) -> StepValues:
        """Returns the schedule's values of a step, with the fault that is injected there."""
        factor = np.float32(poison(step, process=self._process))
        return schedule.values(step)._replace(fault=factor)
