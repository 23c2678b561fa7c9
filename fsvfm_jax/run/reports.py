"""Reports the numbers of each step one step later, while the device computes the next step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from fsvfm_jax.data.pipeline import Batches, sample_indices
from fsvfm_jax.data.sources import FaceSet
from fsvfm_jax.optim import Schedule
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
    """Passes the numbers of each step to the tracker, and ends the run if they are not finite.

    Attributes:
        tracker: Writes the numbers.
        skipped: Counts the steps that were skipped.
        schedule: Gives the learning rate and the teacher's momentum.
        batches: Counts the samples that were replaced.
        describe: Takes the first sample of a batch and returns what the batch contained.
    """

    tracker: Tracker
    skipped: SkippedSteps
    schedule: Schedule
    batches: Batches
    describe: Callable[[int], dict[str, Any]]
    _unread: _Unread | None = field(default=None, init=False)
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
        """
        self.flush()
        self._unread = _Unread(step, metrics, waited, first_sample)

    def flush(self) -> None:
        """Reports the numbers that are not reported yet.

        Raises:
            NotFiniteError: Too many steps in a row were skipped.
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
        self.tracker.step(unread.step, numbers, waited=unread.waited)
        self._losses.append(numbers["loss"])

    def take_mean_loss(self) -> float:
        """Returns the mean of the finite losses since the last call."""
        mean = mean_of_finite(self._losses)
        self._losses.clear()
        return mean


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
