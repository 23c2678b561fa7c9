"""Writes the numbers and pictures of a run: JSON lines, TensorBoard, PNG files, a progress bar.

The module takes Python floats and NumPy arrays.
"""

import logging
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from ml_collections import ConfigDict
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from fsvfm_jax.errors import StorageError
from fsvfm_jax.host.pictures import encode_png
from fsvfm_jax.host.progress import clock_text, rate_text
from fsvfm_jax.host.storage import in_bucket, make_own_folder, write_bytes, written
from fsvfm_jax.optim import Schedule
from fsvfm_jax.run.lines import LINES, append_line, drop_later_lines
from fsvfm_jax.run.monitor import Alarm
from fsvfm_jax.run.tensorboard import Events
from fsvfm_jax.run.wandb_run import WandbRun

T = TypeVar("T")

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SYNCS = 60
_SECONDS_BETWEEN_EPOCHS = 30  # Epochs that end sooner are not logged.
# The bar shows these metrics beside the rate: metric, name and format. The bar fits into 80
# columns, even with the long numbers of a long run.
_ON_THE_BAR = (("loss", "loss", ".3g"), ("lr", "lr", ".2g"), ("grad_norm", "grad", ".2g"))


class Tracker:
    """Writes a run's numbers and pictures into its workdir and shows the progress of the run.

    Files, all under `workdir`:
        metrics.jsonl: One object per logged step: step, epoch (a float), the step's metrics,
            images_per_second, and data_wait, the fraction of the time that was spent waiting for
            batches. Both cover the time since the previous logged step, with saving and
            evaluation. The time starts at the end of the first step, which compiles, so that the
            line of the first step has neither of the two. The line of a step with a probe, which is
            always logged, has the probe's numbers too.
        epochs.jsonl: One object per finished epoch: epoch (from 0), step, steps (the number of
            steps in the mean, which is smaller after a resume in mid-epoch) and the mean of every
            metric over the steps where it is finite. A step whose batch crosses into the next
            epoch counts for the epoch that it finishes. A step that finishes several epochs writes
            one line, for the last of them. The last step of the run ends an unfinished epoch.
        validation.jsonl: One object per validation: step and its scores.
        alarms.jsonl: One object per alarm: step and the fields of `monitor.Alarm`.
        tensorboard/: The same numbers, by step; epoch means under `epoch/`; pictures.
        images/: Pictures as PNG files.

    A float is written with enough digits to read the same bits back. Values that are not finite are
    written as NaN and Infinity, a common extension of JSON. The constructor drops the lines of
    steps after `start_step`, which a killed run has left. On a terminal a bar shows the progress;
    elsewhere every logged step has a log line. Epochs are logged in both cases, but at most every
    30 s.

    An object store (`gs://...`) can neither append nor rename. For such a workdir all files are
    written to a local folder, and changed files are copied to the store every minute, at the end
    and by `sync`.

    Every method raises StorageError if a file cannot be written.

    Args:
        workdir: The run's folder, which is made if it is missing.
        start_step: Number of updates already done; 0 for a new run.
        total_steps: Number of updates done when the run ends.
        steps_per_epoch: Images in the data set / images per step; may be below 1.
        images_per_step: Images per update, over all processes.
        log_every: Steps from one logged step to the next. Step 1 and the last step are always
            logged.
        others: Other trackers that get the same numbers and pictures.
        active: False makes a tracker that does nothing, for all processes except the first.

    Attributes:
        folder: The workdir; None if the tracker does nothing.
    """

    def __init__(
        self,
        workdir: epath.Path,
        *,
        start_step: int,
        total_steps: int,
        steps_per_epoch: float,
        images_per_step: int,
        log_every: int,
        others: Sequence[WandbRun] = (),
        active: bool = True,
    ) -> None:
        self._active = active
        self._others = others
        self.folder = workdir if active else None
        if not active:
            return
        self._workdir = workdir
        self._local = _staging_folder(workdir)
        self._synced: dict[str, int] = {}  # relative path to size
        self._synced_at = time.monotonic()
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._images_per_step = images_per_step
        self._log_every = log_every
        self._rate_from: tuple[int, float] | None = None  # step, seconds
        self._waited = 0.0  # seconds since then
        self._epoch_values: dict[str, list[float]] = defaultdict(list)
        self._epoch_steps = 0

        workdir.mkdir(parents=True, exist_ok=True)
        for name in LINES:
            drop_later_lines(self._local / name, start_step)
        self._events_folder = self._local / "tensorboard"
        with written(self._events_folder):
            make_own_folder(self._events_folder)
            self._events = Events(Path(self._events_folder), start_step=start_step)
        self._epoch_logged_at = -math.inf
        # disable=None shows the bar only if stderr is a terminal.
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            bar_format="{bar} {n_fmt}/{total_fmt} <{remaining}{postfix}",
            dynamic_ncols=True,
            disable=None,
        )
        self._above_the_bar = ExitStack()
        if not self._bar.disable:  # Without this, log lines would be written into the bar.
            loggers = [logging.getLogger("fsvfm_jax")]
            self._above_the_bar.enter_context(logging_redirect_tqdm(loggers))

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """Closes the tracker; if another error ends the run, an error of closing is only logged."""
        try:
            self.close()
        except StorageError as error:
            if kind is None:
                raise
            logger.error("%s", error)

    def step(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        waited: float = 0.0,
        probe: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Takes the metrics of one update; it must be called after every update.

        Args:
            step: Number of updates done, including this one: `start_step + 1` to `total_steps`.
            metrics: Metrics by name.
            waited: Seconds for which the loop only waited for the batch of this update.
            probe: Numbers of a probe of the state after this update, by name.
        """
        if not self._active:
            return
        self._waited += waited
        now = time.monotonic()
        if self._rate_from is None:
            self._rate_from, self._waited = (step, now), 0.0
            self._bar.unpause()
        for name, value in metrics.items():
            self._epoch_values[name].append(value)
        self._epoch_steps += 1
        is_last = step == self._total_steps
        if step % self._log_every == 0 or step == 1 or is_last or probe:
            self._log_step(step, metrics, now, probe)
        epochs_done = self._epochs_done(step)
        if epochs_done > self._epochs_done(step - 1):
            self._log_epoch(epochs_done - 1, step)
        elif is_last:
            self._log_epoch(epochs_done, step)
        self._bar.update()
        if time.monotonic() - self._synced_at >= _SECONDS_BETWEEN_SYNCS:
            self.sync()

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the scores of a step on the validation faces to `validation.jsonl`."""
        if not self._active:
            return
        append_line(self._local / "validation.jsonl", {"step": step, **metrics})
        self._add_scalars(step, "", metrics)
        logger.info("%s", "  ".join([f"validation at step {step}", *_metric_texts(metrics)]))

    def alarm(self, step: int, alarm: Alarm) -> None:
        """Writes an alarm to `alarms.jsonl`, and logs it."""
        if not self._active:
            return
        append_line(self._local / "alarms.jsonl", {"step": step, **alarm._asdict()})
        logger.warning("step %d: %s", step, alarm.message)

    def images(self, step: int, tag: str, grid: UInt8[np.ndarray, "H W 3"]) -> None:
        """Writes a picture to TensorBoard and to `images/<tag>_<step>.png`."""
        if not self._active:
            return
        png = encode_png(grid)
        with written(self._events_folder):
            self._events.image(step, tag, png, size=grid.shape[:2])
        path = self._local / "images" / f"{tag}_{step:07d}.png"
        with written(path):
            make_own_folder(path.parent)
        write_bytes(path, png)
        for other in self._others:
            other.image(step, tag, grid)

    def close(self) -> None:
        """Ends the bar and writes everything that is still in memory."""
        if not self._active:
            return
        self._bar.close()
        self._above_the_bar.close()
        with written(self._events_folder):
            self._events.close()
        self._copy_changed()

    def sync(self) -> None:
        """Copies the new files and those that have grown, if the workdir is in an object store.

        It must be called before each checkpoint. A killed run continues from the checkpoint, and
        without the copy the lines of the steps before it would be missing.
        """
        if not self._active or self._local == self._workdir:
            return
        self._synced_at = time.monotonic()
        with written(self._events_folder):
            self._events.flush()
        self._copy_changed()

    def _copy_changed(self) -> None:
        if self._local == self._workdir:
            return
        for file in Path(self._local).rglob("*"):
            name, size = str(file.relative_to(self._local)), file.stat().st_size
            if file.is_file() and self._synced.get(name) != size:
                with written(self._workdir / name):
                    (self._workdir / name).write_bytes(file.read_bytes())
                self._synced[name] = size

    def _epochs_done(self, step: int) -> int:
        # A step on the border of an epoch may be computed as slightly less because of rounding.
        # Any other step is at least one image away from the border, far more than 1e-9 epochs.
        return math.floor(step / self._steps_per_epoch + 1e-9)

    def _log_step(
        self, step: int, metrics: Mapping[str, float], now: float, probe: Mapping[str, float]
    ) -> None:
        record = {"step": step, "epoch": step / self._steps_per_epoch, **metrics}
        position = [f"step {step}/{self._total_steps}", f"epoch {record['epoch']:.2f}"]
        values, speed, time_left = _metric_texts(metrics), [], []
        rate_step, rate_time = self._rate_from
        if now > rate_time:
            rate = (step - rate_step) * self._images_per_step / (now - rate_time)
            record["images_per_second"] = rate
            # This is a fraction of the time since the last logged step.
            record["data_wait"] = self._waited / (now - rate_time)
            speed = [f"{rate_text(rate)} images/s"]
            seconds_left = (self._total_steps - step) * self._images_per_step / rate
            time_left = [f"{clock_text(seconds_left)} left"]
        self._rate_from, self._waited = (step, now), 0.0
        record |= probe
        append_line(self._local / "metrics.jsonl", record)
        self._add_scalars(step, "", record)
        if self._bar.disable:
            logger.info("%s", "  ".join(position + values + speed + time_left))
        else:  # A narrow terminal cuts off the end.
            shown = [
                f"{short} {metrics[name]:{form}}"
                for name, short, form in _ON_THE_BAR
                if name in metrics
            ]
            self._bar.set_postfix_str("  ".join(speed + shown), refresh=False)
        if probe:
            logger.info("%s", "  ".join([f"probe at step {step}", *_metric_texts(probe)]))

    def _log_epoch(self, epoch: int, step: int) -> None:
        means = {name: mean_of_finite(values) for name, values in self._epoch_values.items()}
        record = {"epoch": epoch, "step": step, "steps": self._epoch_steps, **means}
        append_line(self._local / "epochs.jsonl", record)
        self._add_scalars(step, "epoch/", means)
        now = time.monotonic()
        if now - self._epoch_logged_at >= _SECONDS_BETWEEN_EPOCHS:
            self._epoch_logged_at = now
            title = f"epoch {epoch} at step {step}, mean of {self._epoch_steps} steps"
            logger.info("%s", "  ".join([title, *_metric_texts(means)]))
        self._epoch_values.clear()
        self._epoch_steps = 0

    def _add_scalars(self, step: int, prefix: str, values: Mapping[str, Any]) -> None:
        named = {prefix + name: value for name, value in values.items() if name != "step"}
        with written(self._events_folder):
            self._events.scalars(step, named)
        for other in self._others:
            other.scalars(step, named)


def open_tracker(
    config: ConfigDict,
    schedule: Schedule,
    workdir: epath.Path,
    start_step: int,
    others: Sequence[WandbRun],
) -> "Tracker":
    """Opens the tracker of a run, which does nothing in processes other than the first.

    Args:
        config: The resolved config.
        schedule: Steps and epochs of the run.
        workdir: The run's folder.
        start_step: Number of updates done before this start.
        others: Other trackers that get the same numbers and pictures.
    """
    return Tracker(
        workdir,
        start_step=start_step,
        total_steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        images_per_step=config.batch_size,
        log_every=config.tracking.log_every,
        others=others,
        active=jax.process_index() == 0,
    )


def mean_of_finite(values: Sequence[float]) -> float:
    """Returns the mean of the finite values, or NaN if no value is finite."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _staging_folder(workdir: epath.Path) -> epath.Path:
    """Returns the workdir if it is local, or else a new local folder with copies of its lines."""
    if not in_bucket(workdir):
        return workdir
    local = epath.Path(tempfile.mkdtemp(prefix="fsvfm-"))
    for name in LINES:
        if (workdir / name).exists():
            (local / name).write_bytes((workdir / name).read_bytes())
    return local


def _metric_texts(metrics: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in metrics.items()]
