"""What a run tells about itself: JSON lines, TensorBoard, pictures, and progress on stderr.

It takes Python floats and NumPy arrays.
"""

import logging
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
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
from fsvfm_jax.run.tensorboard import Events

T = TypeVar("T")

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SYNCS = 60
_SECONDS_BETWEEN_EPOCHS = 30  # that are logged
# What the bar shows beside the rate: metric, name and format. It fits into 80 columns, even with
# the long numbers of a long run.
_ON_THE_BAR = (("loss", "loss", ".3g"), ("lr", "lr", ".2g"), ("grad_norm", "grad", ".2g"))


class Tracker:
    """Writes a run's numbers and pictures into its workdir and shows how far it is.

    Files, all under `workdir`:
        metrics.jsonl: One object per logged step: step, epoch (a float), the step's metrics, and
            images_per_second over everything since the logged step before, saving and evaluation
            included. The first step holds the compilation: time counts from its end, and if it is
            logged, its line has no images_per_second.
        epochs.jsonl: One object per finished epoch: epoch (from 0), step, steps (how many the mean
            covers: fewer after a resume in mid-epoch) and the mean of every metric over the steps
            where it is finite. A step whose
            batch crosses into the next epoch counts for the one it finishes; one that finishes
            several gives a line for the last; the run's last step ends an unfinished epoch.
        validation.jsonl: One object per validation: step and its scores.
        tensorboard/: The same numbers, by step; epoch means under `epoch/`; pictures.
        images/: Pictures as PNG files.

    Floats are written so that reading them gives the same bits; what is not finite as JSON's
    common extension NaN, Infinity. Opening drops the lines of steps after `start_step`, left by a
    killed run. On a terminal a bar shows the progress, elsewhere a log line per logged step. Epochs
    are logged on both, but not more often than every 30 s.

    An object store (`gs://...`) can neither append nor rename: for such a workdir everything is
    written to a local folder, whose changed files are copied there every minute, at the end and by
    `sync`.

    Every method raises StorageError where a file cannot be written.

    Args:
        workdir: The run's folder; made if missing.
        start_step: Updates already done, 0 for a new run.
        total_steps: Updates done when the run ends.
        steps_per_epoch: Images in the data set / images per step; may be below 1.
        images_per_step: Images per update, over all processes.
        log_every: Steps from one logged step to the next; step 1 and the last are always logged.
        active: False makes a tracker that does nothing, for all processes but the first.

    Attributes:
        folder: The workdir, or None if the tracker does nothing.
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
        active: bool = True,
    ) -> None:
        self._active = active
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
        # disable=None: no bar where stderr is no terminal.
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            bar_format="{bar} {n_fmt}/{total_fmt} <{remaining}{postfix}",
            dynamic_ncols=True,
            disable=None,
        )
        self._above_the_bar = ExitStack()
        if not self._bar.disable:  # Log lines would else be written into it.
            loggers = [logging.getLogger("fsvfm_jax")]
            self._above_the_bar.enter_context(logging_redirect_tqdm(loggers))

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """Closes; that the last lines are lost is only said where another error ends the run."""
        try:
            self.close()
        except StorageError as error:
            if kind is None:
                raise
            logger.error("%s", error)

    def step(self, step: int, metrics: Mapping[str, float], *, waited: float = 0.0) -> None:
        """Takes the metrics of one update; to be called after every one.

        Args:
            step: Updates done, this one included: `start_step + 1` to `total_steps`.
            metrics: Name to value.
            waited: Seconds for which the loop did nothing but wait for this update's batch.
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
        if step % self._log_every == 0 or step == 1 or is_last:
            self._log_step(step, metrics, now)
        epochs_done = self._epochs_done(step)
        if epochs_done > self._epochs_done(step - 1):
            self._log_epoch(epochs_done - 1, step)
        elif is_last:
            self._log_epoch(epochs_done, step)
        self._bar.update()
        if time.monotonic() - self._synced_at >= _SECONDS_BETWEEN_SYNCS:
            self.sync()

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the scores of a step on faces that are not trained on: `validation.jsonl`."""
        if not self._active:
            return
        append_line(self._local / "validation.jsonl", {"step": step, **metrics})
        self._add_scalars(step, "", metrics)
        logger.info("%s", "  ".join([f"validation at step {step}", *_metric_texts(metrics)]))

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

    def close(self) -> None:
        """Ends the bar and writes out what is still held."""
        if not self._active:
            return
        self._bar.close()
        self._above_the_bar.close()
        with written(self._events_folder):
            self._events.close()
        self._copy_changed()

    def sync(self) -> None:
        """Copies the files that have grown or are new, where the workdir is an object store.

        To be called before each checkpoint: a run that is killed goes on from there, and what it
        said until then would be missing.
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
        # A step on the border may come out a rounding error below it. Steps beside the border are
        # at least one image away, far more than 1e-9 epochs.
        return math.floor(step / self._steps_per_epoch + 1e-9)

    def _log_step(self, step: int, metrics: Mapping[str, float], now: float) -> None:
        record = {"step": step, "epoch": step / self._steps_per_epoch, **metrics}
        position = [f"step {step}/{self._total_steps}", f"epoch {record['epoch']:.2f}"]
        values, speed, time_left = _metric_texts(metrics), [], []
        rate_step, rate_time = self._rate_from
        if now > rate_time:
            rate = (step - rate_step) * self._images_per_step / (now - rate_time)
            record["images_per_second"] = rate
            # Of the time since the last logged step.
            record["data_wait"] = self._waited / (now - rate_time)
            speed = [f"{rate_text(rate)} images/s"]
            seconds_left = (self._total_steps - step) * self._images_per_step / rate
            time_left = [f"{clock_text(seconds_left)} left"]
        self._rate_from, self._waited = (step, now), 0.0
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


def open_tracker(
    config: ConfigDict, schedule: Schedule, workdir: epath.Path, start_step: int
) -> "Tracker":
    """Opens the tracker of a run; it does nothing in processes other than the first.

    Args:
        config: The resolved config.
        schedule: Steps and epochs of the run.
        workdir: The run's folder.
        start_step: Updates done before this start.
    """
    return Tracker(
        workdir,
        start_step=start_step,
        total_steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        images_per_step=config.batch_size,
        log_every=config.tracking.log_every,
        active=jax.process_index() == 0,
    )


def mean_of_finite(values: Sequence[float]) -> float:
    """Mean of those that are; NaN if none is."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _staging_folder(workdir: epath.Path) -> epath.Path:
    """The workdir itself where it is local, else a new local folder with its lines so far."""
    if not in_bucket(workdir):
        return workdir
    local = epath.Path(tempfile.mkdtemp(prefix="fsvfm-"))
    for name in LINES:
        if (workdir / name).exists():
            (local / name).write_bytes((workdir / name).read_bytes())
    return local


def _metric_texts(metrics: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in metrics.items()]
