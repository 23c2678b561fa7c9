"""Decides when a training run saves, and then reports, syncs, validates and saves in this order."""

import math
from dataclasses import dataclass

from etils import epath
from ml_collections import ConfigDict

from fsvfm_jax.errors import Preempted
from fsvfm_jax.run.checkpoint import Checkpoints
from fsvfm_jax.run.failed_start import CHECKPOINTS
from fsvfm_jax.run.guard import Guard
from fsvfm_jax.run.preemption import StopWaiting
from fsvfm_jax.run.reports import Reports
from fsvfm_jax.train_state import TrainState, Validate


@dataclass
class Saver:
    """Saves every few steps, at the last step, and when the run is asked to stop.

    Attributes:
        checkpoints: Saves the steps.
        reports: Reports the numbers of the steps.
        guard: Handles signals and time limits.
        validate: Scores parameters on the validation faces; None if there are no such faces.
        start_step: The step that this start began with; it is 0 or already saved.
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
        """Saves if the step is the last one or a multiple of `every`.

        Args:
            step: The step's number.
            state: The state after the step.
            samples_seen: Number of images of the endless stream that training has consumed.

        Raises:
            StorageError: The previous checkpoint could not be saved, or the disk is full.
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
        """Ends the loop: if the run stops before its last step, saves the state unless it is saved.

        Args:
            state: The state after the newest step.
            samples_seen: Number of images of the endless stream that training has consumed.

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
            # The mean loss of the few steps since the last checkpoint is not a comparable score.
            self._save(step, state, samples_seen, scored=False)
        self.guard.watchdog.rest()
        self.checkpoints.wait()
        raise Preempted(
            f"stopped at step {step} and saved; the same command with"
            f" --workdir={self.guard.workdir} goes on"
        )

    def _save(self, step: int, state: TrainState, samples_seen: int, *, scored: bool) -> None:
        # A step is saved only when its numbers are known to be finite. The reports until then are
        # stored first, so that a killed run leaves no gap in them.
        self.reports.flush()
        self.reports.tracker.sync()
        mean_loss = self.reports.take_mean_loss()
        self.guard.watchdog.rest()
        score = mean_loss if scored else math.nan
        if self.validate is not None and scored:
            score = self._validation_loss(step, state)
        # This call may wait for the previous save, which has its own time limit.
        self.checkpoints.save(state, step=step, samples_seen=samples_seen, score=score)
        self._saved_step = step

    def _validation_loss(self, step: int, state: TrainState) -> float:
        # A signal does not stop the validation of the last step, which no later start would repeat.
        try:
            with self.guard.validating(step, stoppable=step < self.total_steps) as after_batch:
                found = self.validate(state.params, after_batch)
        except StopWaiting:
            return math.nan
        self.reports.tracker.validation(step, found)
        return found["val_loss"]


def open_checkpoints(config: ConfigDict, workdir: epath.Path, guard: Guard) -> Checkpoints:
    """Opens the checkpoints of a run, with the config's policy and time limit.

    Args:
        config: The resolved config: `checkpoint`, `watchdog`.
        workdir: The run's folder.
        guard: Its watchdog limits the time of a save.
    """
    return Checkpoints(
        workdir / CHECKPOINTS,
        keep=config.checkpoint.keep,
        keep_every=config.checkpoint.keep_every,
        keep_best=config.checkpoint.keep_best,
        watchdog=guard.watchdog,
        save_seconds=config.watchdog.save_seconds,
    )
