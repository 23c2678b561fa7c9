"""Reports the numbers of each step one step later, while the device computes the next step."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from fsvfm_jax.data.pipeline import Batches, sample_indices
from fsvfm_jax.data.sources import FaceSet
from fsvfm_jax.errors import CollapseError
from fsvfm_jax.optim import Schedule
from fsvfm_jax.run.monitor import Monitor, open_monitor
from fsvfm_jax.run.skipped_steps import SkippedSteps
from fsvfm_jax.run.tracking import Tracker, mean_of_finite
from fsvfm_jax.train_state import Metrics


class _Unread(NamedTuple):
    """The step whose numbers are still on the device."""

    step: int
    metrics: Metrics
    waited: float  # seconds that the loop waited for the batch
    first_sample: int


@dataclass
class Reports:
    """Passes the numbers of each step to tracker and monitor, and ends the run if they are bad.

    Attributes:
        tracker: Writes the numbers.
        skipped: Counts the steps that were skipped.
        schedule: Gives the learning rate and the teacher's momentum.
        batches: Counts the samples that were replaced.
        describe: Takes the first sample of a batch and returns what the batch contained.
        monitor: Checks the numbers.
        stops: Whether a collapse ends the run.
    """

    tracker: Tracker
    skipped: SkippedSteps
    schedule: Schedule
    batches: Batches
    describe: Callable[[int], dict[str, Any]]
    monitor: Monitor
    stops: bool
    _unread: _Unread | None = field(default=None, init=False)
    _measure: Callable[[], dict[str, float]] | None = field(default=None, init=False)
    _losses: list[float] = field(default_factory=list, init=False)

    def put(self, step: int, metrics: Metrics, *, waited: float, first_sample: int) -> None:
        """Takes the numbers of a step and reports those of the step before.

        Args:
            step: The step's number.
            metrics: The step's scalars, on the device.
            waited: Seconds for which the loop waited for the step's batch.
            first_sample: Position in the stream of the first sample of the batch.

        Raises:
            NotFiniteError: Too many steps in a row were skipped.
            CollapseError: The network has collapsed, and the config ends such a run.
        """
        self.flush(waited=waited)
        self._unread = _Unread(step, metrics, waited, first_sample)

    def put_probe(self, measure: Callable[[], dict[str, float]]) -> None:
        """Takes the probe of the step that `put` has taken last; it is measured with the report."""
        self._measure = measure

    def flush(self, *, waited: float = 0.0) -> None:
        """Reports the numbers that are not reported yet; raises the errors of `put`.

        Args:
            waited: Seconds for which the loop waited for a batch since the report before.
        """
        if self._unread is None:
            return
        unread, self._unread = self._unread, None
        numbers = {name: float(value) for name, value in jax.device_get(unread.metrics).items()}
        numbers = {"loss": numbers.pop("loss"), **numbers}  # The loss is shown first.
        self.skipped.take(unread.step, numbers, describe=lambda: self.describe(unread.first_sample))
        numbers["lr"] = self.schedule.learning_rate(unread.step - 1)
        if self.schedule.teacher_momentum is not None:
            numbers["teacher_momentum"] = 1 - self.schedule.teacher_rate(unread.step - 1)
        numbers["replaced_samples"] = float(self.batches.replaced)
        measure, self._measure = self._measure, None
        # Only the first process writes; the others train on meanwhile.
        probe = measure() if measure is not None and self.tracker.folder is not None else {}
        self.tracker.step(unread.step, numbers, waited=unread.waited, probe=probe)
        self._losses.append(numbers["loss"])
        now = time.monotonic()
        for alarm in self.monitor.take(unread.step, numbers, waited=waited, now=now):
            self.tracker.alarm(unread.step, alarm)
            if alarm.alarm == "collapse" and self.stops:
                raise CollapseError(
                    f"step {unread.step}: {alarm.message}. config.monitor.collapse = 'stop' ends"
                    " the run here; nothing of the last steps is saved"
                )

    def take_mean_loss(self) -> float:
        """Returns the mean of the finite losses since the last call."""
        mean = mean_of_finite(self._losses)
        self._losses.clear()
        return mean


def open_reports(
    config: ConfigDict,
    source: FaceSet,
    workdir: epath.Path,
    tracker: Tracker,
    schedule: Schedule,
    batches: Batches,
) -> Reports:
    """Opens the reports of a run.

    Args:
        config: The resolved config.
        source: The training faces.
        workdir: The run's folder.
        tracker: Writes the numbers.
        schedule: Steps and epochs of the run.
        batches: The batches of the run.
    """
    return Reports(
        tracker,
        SkippedSteps(tracker.folder, limit=config.max_skipped_steps),
        schedule,
        batches,
        partial(describe_batch, config, source),
        open_monitor(config, schedule, workdir),
        stops=config.task == "pretrain" and config.monitor.collapse == "stop",
    )


def describe_batch(config: ConfigDict, source: FaceSet, first_sample: int) -> dict[str, Any]:
    """Returns the position in the stream of a batch's first sample, and the names of its faces.

    Args:
        config: The resolved config.
        source: The training faces.
        first_sample: Position in the stream of the first sample.
    """
    indices = sample_indices(
        source,
        seed=config.seed,
        start=first_sample,
        count=config.batch_size,
        skip_ranges=config.data.skip_ranges,
        weights=config.data.weights,
    )
    return {"first_sample": first_sample, "faces": [source.name(index) for index in indices]}
