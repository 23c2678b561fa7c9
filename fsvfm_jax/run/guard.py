"""Guards a training run: holds its lock, handles signals, limits its time and injects faults."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

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
    """Locks the workdir, handles signals, and limits the time of each part of a run.

    Between `__enter__` and `__exit__` the workdir belongs to this run. If the run fails before the
    end of its first step, `__exit__` removes the files and folders that the run has written.

    Args:
        workdir: The run's folder, which is made if it is missing.
        limits: The config's watchdog section, in seconds.

    Attributes:
        workdir: The run's folder.
        watchdog: Enforces the time limits.
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
        # No process makes the workdir before all processes have opened their data.
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

    def __exit__(self, *exception: Any) -> None:
        self._entered.__exit__(*exception)

    def limit_start(self) -> None:
        """Begins to handle signals, and limits the time until the first step has been made."""
        self._entered.enter_context(self._preemption)
        self._entered.enter_context(self.watchdog)
        seconds = self._limits.start_seconds
        self.watchdog.beat("the start (config.watchdog.start_seconds)", seconds)

    def begin_steps(self) -> None:
        """Begins to remember signals, because from now on there is a state to save."""
        self._preemption.begin_steps()
        self._preemption.requested()

    def next(self, batches: Iterator[HostBatch], step: int) -> HostBatch | None:
        """Waits for the batch of a step and returns it, or None if a signal asks the run to stop.

        Args:
            batches: The batches of the run.
            step: The step's number.
        """
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
        """Ends the start of the run: from the first step on, a failure removes no files."""
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
        """Returns whether to stop now; all processes must call it equally often."""
        return self._preemption.requested()

    def limit_step(self, step: int) -> None:
        """Limits the time of a step; the limit ends with the next call, or with a save."""
        seconds = self._limits.step_seconds
        self.watchdog.beat(f"step {step} (config.watchdog.step_seconds)", seconds)

    @contextlib.contextmanager
    def validating(self, step: int, *, stoppable: bool) -> Iterator[Callable[[], None]]:
        """Limits the time of a validation, batch by batch.

        Args:
            step: The step whose parameters are validated.
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
        """Injects the fault that `FSVFM_FAULT` names for this point and step, if there is one."""
        fault(point, step, process=self._process)

    def values(self, schedule: Schedule, step: int) -> StepValues:
        """Returns the schedule's values of a step, with the fault that is injected there."""
        factor = np.float32(poison(step, process=self._process))
        return schedule.values(step)._replace(fault=factor)
