"""Watches the numbers of a training run, and says once when something seems to be wrong.

Rules, where a "window" is `WINDOW` steps that follow each other:
    collapse: After the warm-up, the mean over `SMOOTHED` steps of `variance_z` is under
        `LEAST_VARIANCE` of its value at step 0, and that of `loss_sim` is within `NEAR_CONSTANT` of
        that of `loss_sim_constant`.
    teacher: `config.teacher.mode` is "ema", and the teacher's weights stay the same, bit for bit,
        for `STILL_STEPS` steps before the last percent of the schedule, in which the momentum is
        nearly 1.
    spike: In pretraining, the loss is above the median of the steps before by `SPIKE_SIGMAS` robust
        standard deviations, and by `SPIKE_SHARE` of the median. The losses of fine-tuning have
        such outliers in healthy runs.
    speed: The median time of a step of a window is over `SLOWEST` times the median of the windows
        before.
    input: In the median step of a window, the loop waits for its batch for over `MOST_WAITING` of
        the time: the input is slower than the training step.

An alarm is said when its condition begins. It is said again only after its condition has been false
for `QUIET_STEPS` steps (or one window).
"""

import logging
import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from fsvfm_jax.host.json_files import parse_json
from fsvfm_jax.host.storage import open_bytes
from fsvfm_jax.optim import Schedule
from fsvfm_jax.run.lines import MAX_LINE_BYTES, MAX_LINES_BYTES

logger = logging.getLogger(__name__)

LEAST_VARIANCE = 0.1
NEAR_CONSTANT = 0.01
SMOOTHED = 10  # steps
STILL_STEPS = 100
SPIKE_SIGMAS = 10.0
SPIKE_SHARE = 0.1
SPIKE_STEPS = (50, 200)  # fewest and most steps of the median
WINDOW = 50  # steps
WINDOWS_BEFORE = 4  # fewest windows that a window is compared with
SLOWEST = 2.0
MOST_WAITING = 0.5
QUIET_STEPS = 50
BYOL_SPAN = 2.0


class Alarm(NamedTuple):
    """Something that seems to be wrong.

    Attributes:
        alarm: Name of the rule.
        value: The number that the rule compares.
        limit: The limit of the number.
        message: One sentence with the numbers, the limit, and what to look at.
    """

    alarm: str
    value: float
    limit: float
    message: str


class _FirstLine(TypedDict):
    """The part of the first line of `metrics.jsonl` that this module reads."""

    step: int
    variance_z: float


class Monitor:
    """Checks the numbers of every step, in the order of the steps.

    Args:
        schedule: Steps and epochs of the run.
        batch_size: Images per step.
        similarity: The config's `loss.similarity`; None for a task without a teacher.
        checks_collapse: Whether the rule of the collapse applies.
        teacher_moves: Whether the teacher's weights are meant to change.
        first_variance: `variance_z` at step 0, from an earlier start. Step 1 replaces it. If it is
            None and the run continues, the rule of the collapse does not apply.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        batch_size: int,
        similarity: str | None = None,
        checks_collapse: bool = False,
        teacher_moves: bool = False,
        first_variance: float | None = None,
    ) -> None:
        self._schedule, self._batch_size = schedule, batch_size
        self._warmup_steps = schedule.warmup_epochs * schedule.steps_per_epoch
        self._similarity = similarity
        self._checks_collapse, self._teacher_moves = checks_collapse, teacher_moves
        self._first_variance = first_variance
        self._recent: deque[np.ndarray] = deque(maxlen=SMOOTHED)
        self._still = 0  # steps in a row in which the teacher did not change
        self._losses: deque[float] = deque(maxlen=SPIKE_STEPS[1])
        self._seconds: list[float] = []  # durations of the steps of this window
        self._waiting: list[float] = []  # shares of these durations
        self._windows: list[float] = []  # median durations of the windows before
        self._began: float | None = None  # when the newest step was reported
        self._quiet: dict[str, int] = {}  # by alarm that was said: checks since it was last true

    def take(
        self, step: int, numbers: Mapping[str, float], *, waited: float, now: float
    ) -> list[Alarm]:
        """Checks the numbers of a step, and returns the alarms that begin with it.

        Args:
            step: The step's number.
            numbers: The step's metrics by name.
            waited: Seconds that the loop waited for a batch since the call before.
            now: A clock in seconds when the numbers were read.
        """
        found = self._check_speed(now, waited)
        # The numbers of a skipped step may not be finite.
        if "variance_z" in numbers and not numbers.get("skipped"):
            found += self._check_loss(numbers["loss"])
            found += self._check_teacher(step, numbers) + self._check_collapse(step, numbers)
        return found

    def _begins(self, name: str, is_true: bool, *, quiet: int) -> bool:
        """Returns whether the condition of an alarm begins, after `quiet` checks without it."""
        if not is_true:
            if name in self._quiet:
                self._quiet[name] += 1
            return False
        begins = self._quiet.get(name, quiet) >= quiet
        self._quiet[name] = 0
        return begins

    def _check_collapse(self, step: int, numbers: Mapping[str, float]) -> list[Alarm]:
        names = ("variance_z", "loss_sim", "loss_sim_constant")
        self._recent.append(np.array([numbers[name] for name in names]))
        if step == 1:
            self._first_variance = numbers["variance_z"]
        if not self._checks_collapse or self._first_variance is None:
            return []
        if step <= self._warmup_steps or len(self._recent) < SMOOTHED:
            return []
        variance, loss, constant = map(float, np.mean(self._recent, axis=0))
        limit = LEAST_VARIANCE * self._first_variance
        # BYOL's constant approaches 0 in a collapse, so that a share of it says nothing.
        span = BYOL_SPAN if self._similarity == "byol" else abs(constant)
        collapsed = variance < limit and abs(loss - constant) <= NEAR_CONSTANT * span
        if not self._begins("collapse", collapsed, quiet=QUIET_STEPS):
            return []
        message = (
            f"the network seems to have collapsed: variance_z is {variance:.3g}, under"
            f" {LEAST_VARIANCE:.0%} of its {self._first_variance:.3g} at step 0, and loss_sim"
            f" {loss:.4f} is within {NEAR_CONSTANT:.0%} of the {constant:.4f} of a constant"
            " (loss_sim_constant), as means of"
            f" {SMOOTHED} steps. Look at variance_z and probe_rankme in metrics.jsonl; go back"
            " (--config.resume.step=N), or start again in another workdir, with a larger"
            " config.teacher.momentum or a smaller config.optimizer.blr"
        )
        return [Alarm("collapse", variance, limit, message)]

    def _check_teacher(self, step: int, numbers: Mapping[str, float]) -> list[Alarm]:
        last = 0.99 * self._schedule.schedule_epochs * self._schedule.steps_per_epoch
        if not self._teacher_moves or step > last:
            return []
        self._still = 0 if numbers["teacher_change"] else self._still + 1
        if not self._begins("teacher", self._still >= STILL_STEPS, quiet=QUIET_STEPS):
            return []
        message = (
            f"the teacher has not changed for {self._still} steps (limit {STILL_STEPS}), although"
            " config.teacher.mode is 'ema': look at config.teacher.momentum, and at"
            " teacher_momentum and lr in metrics.jsonl"
        )
        return [Alarm("teacher", float(self._still), float(STILL_STEPS), message)]

    def _check_loss(self, loss: float) -> list[Alarm]:
        before = np.array(self._losses)
        self._losses.append(loss)
        if len(before) < SPIKE_STEPS[0]:
            return []
        median = float(np.median(before))
        # For normally distributed losses this is the standard deviation.
        sigma = 1.4826 * float(np.median(np.abs(before - median)))
        limit = median + max(SPIKE_SIGMAS * sigma, SPIKE_SHARE * abs(median))
        if not self._begins("spike", loss > limit, quiet=QUIET_STEPS):
            return []
        message = (
            f"the loss is {loss:.4g}, above {limit:.4g}: the median of the last {len(before)} steps"
            f" is {median:.4g}. Look at grad_norm and lr in metrics.jsonl; if the loss stays high,"
            " go back (--config.resume.step=N) with a smaller config.optimizer.blr or"
            " config.optimizer.grad_clip"
        )
        return [Alarm("spike", loss, limit, message)]

    def _check_speed(self, now: float, waited: float) -> list[Alarm]:
        """Checks a window when it is full. The first step, which is slow, belongs to none."""
        began, self._began = self._began, now
        if began is None:
            return []
        self._seconds.append(now - began)
        self._waiting.append(min(waited / max(now - began, 1e-9), 1.0))
        if len(self._seconds) < WINDOW:
            return []
        of_step, waiting = statistics.median(self._seconds), statistics.median(self._waiting)
        self._seconds, self._waiting = [], []
        usual = statistics.median(self._windows) if self._windows else of_step
        slow = len(self._windows) >= WINDOWS_BEFORE and of_step > SLOWEST * usual
        self._windows.append(of_step)
        found = []
        if self._begins("speed", slow, quiet=1):
            rate, limit = (self._batch_size / x for x in (of_step, SLOWEST * usual))
            message = (
                f"{rate:.4g} images/s are under {limit:.4g}, half the usual rate: look at data_wait"
                " in metrics.jsonl, and at what else uses the machine, its disks or its network"
            )
            found.append(Alarm("speed", rate, limit, message))
        if self._begins("input", waiting > MOST_WAITING, quiet=1):
            message = (
                f"the input is slower than the training step: the loop waits for {waiting:.0%} of"
                f" the time of a step, the median of {WINDOW} steps (limit {MOST_WAITING:.0%})."
                " Raise config.data.num_workers, pack the set (docs/data.md), or measure the input:"
                " python -m fsvfm_jax.benchmark input --help"
            )
            found.append(Alarm("input", waiting, MOST_WAITING, message))
        return found


def open_monitor(config: ConfigDict, schedule: Schedule, workdir: epath.Path) -> Monitor:
    """Opens the monitor of a run, on every process; all say that it has collapsed, or none.

    Args:
        config: The resolved config.
        schedule: Steps and epochs of the run.
        workdir: The run's folder. The first line of its `metrics.jsonl` has the variance at step 0.
    """
    if config.task != "pretrain":
        return Monitor(schedule, batch_size=config.batch_size)
    return Monitor(
        schedule,
        batch_size=config.batch_size,
        similarity=config.loss.similarity,
        checks_collapse=config.monitor.collapse != "off",
        teacher_moves=config.teacher.mode == "ema",
        first_variance=_first_variance(workdir / "metrics.jsonl"),
    )


def _first_variance(file: epath.Path) -> float | None:
    """Returns `variance_z` of step 1 as the first process reads it; None for a new run.

    It is None too, with a warning, if the file of a run that continues does not contain it.
    """
    value = math.nan
    if jax.process_index() == 0:
        try:
            with open_bytes(file, max_bytes=MAX_LINES_BYTES) as lines:
                first = parse_json(lines.readline(MAX_LINE_BYTES), _FirstLine)
            value = first["variance_z"] if first["step"] == 1 else math.nan
            failed = not math.isfinite(value)
        except FileNotFoundError:
            failed = False
        except (OSError, ValueError):
            failed = True
        if failed:
            text = "%s does not have the variance_z of step 1: there is no alarm of a collapse"
            logger.warning(text, file)
    # If the processes read different values, one of them alone would end the run.
    shared = float(multihost_utils.broadcast_one_to_all(np.float32(value)))
    return shared if math.isfinite(shared) else None
