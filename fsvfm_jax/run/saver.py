"""When a training run saves: report, sync, validate, save, in this order."""

import math
from dataclasses import dataclass

from fsvfm_jax.errors import Preempted
from fsvfm_jax.run.checkpoint import Checkpoints
from fsvfm_jax.run.guard import Guard
from fsvfm_jax.run.preemption import StopWaiting
from fsvfm_jax.run.reports import Reports
from fsvfm_jax.train_state import TrainState, Validate


@dataclass
class Saver:
    """Saves every few steps, at the last step, and where the run is asked to stop.

    Attributes:
        checkpoints: The saved steps.
        reports: The numbers of the steps.
        guard: Signals and time limits.
        validate: Scores parameters on the validation faces; None where there are none.
        start_step: The step that this start began with, which is saved or is 0.
        total_steps: The last step.
        every: Steps from one checkpoint to the next.
    """

    checkpoints: Checkpoints
    reports: Reports
    guard: Guard
    validate: Validate | None
    start_step: int
    total_steps: int
    every: int

    def __post_init__(self) -> None:
        self._saved_step = self.start_step

    def after(self, step: int, state: TrainState, samples_seen: int) -> None:
        """Saves if this is a step to save, such as the last one.

        Raises:
            StorageError: The checkpoint before could not be saved, or there is no room.
        """
        if step == self.total_steps or step % self.every == 0:
            self._save(step, state, samples_seen, scored=True)

    def check(self) -> None:
        """Checks after a step that nothing forbids to go on.

        Raises:
            StorageError: A save has failed, or another run has taken the workdir.
        """
        self.checkpoints.check()
        self.guard.check()

    def finish(self, state: TrainState, samples_seen: int) -> None:
        """Ends the loop: saves what is not saved yet, unless the last step was made.

        Raises:
            Preempted: The run was asked to stop before its last step.
            StorageError: The checkpoint could not be saved.
        """
        step = int(state.step)
        if step < self.total_steps:
            self._stop(step, state, samples_seen)
        self.guard.watchdog.rest()

    def _stop(self, step: int, state: TrainState, samples_seen: int) -> None:
        if step == self.start_step:
            raise Preempted("stopped before the first step: nothing new was saved")
        if step > self._saved_step:
            # The few steps since the last checkpoint make no score that compares with others.
            self._save(step, state, samples_seen, scored=False)
        self.guard.watchdog.rest()
        self.checkpoints.wait()
        raise Preempted(
            f"stopped at step {step} and saved; the same command with"
            f" --workdir={self.guard.workdir} goes on"
        )

    def _save(self, step: int, state: TrainState, samples_seen: int, *, scored: bool) -> None:
        # A step is saved only once it is known to be finite. What was reported until then is
        # stored first, so that a run that is killed leaves no gap.
        self.reports.flush()
        self.reports.tracker.sync()
        mean_loss = self.reports.take_mean_loss()
        self.guard.watchdog.rest()
        score = mean_loss if scored else math.nan
        if self.validate is not None and scored:
            score = self._validation_loss(step, state)
        # This may wait for the save before, which has a limit of its own.
        self.checkpoints.save(state, step=step, samples_seen=samples_seen, score=score)
        self._saved_step = step

    def _validation_loss(self, step: int, state: TrainState) -> float:
        # No later start would validate the last step: a signal does not stop that validation.
        try:
            with self.guard.validating(step, stoppable=step < self.total_steps) as after_batch:
                found = self.validate(state.params, after_batch)
        except StopWaiting:
            return math.nan
        finally:
            self.guard.watchdog.rest()
        self.reports.tracker.validation(step, found)
        return found["val_loss"]
