"""Concludes from the content of workdirs what the page shows: names, steps, marks and the state."""

import bisect
import math
import os
import statistics
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from etils import epath

from fsvfm_jax.config.resolve import ODD_CONFIG, resolve_stored
from fsvfm_jax.errors import ConfigError, brief, in_one_line, shortened
from fsvfm_jax.host.storage import in_bucket
from fsvfm_jax.optim import Schedule, make_schedule
from fsvfm_jax.visualize.run_folder import Folder

_LEAST_STEPS = 1e-9  # of an epoch
MAX_MARKS = 200  # of each kind
_RECENT_RATES = 10


class Mark(NamedTuple):
    """Something that happened at a step.

    Attributes:
        step: Number of updates done.
        kind: "start", "rewind", "change", "skipped" or "alarm".
        text: What happened, as a sentence without a full stop.
        seconds: The time, in seconds since 1970; None if it is not recorded.
    """

    step: int
    kind: str
    text: str
    seconds: float | int | None = None


class Run(NamedTuple):
    """A run on the page.

    Attributes:
        name: A name that no other run of the page has.
        folder: The content of its workdir.
        schedule: Its steps and learning rates; None if they are not known.
        steps_per_epoch: Steps of an epoch; None if they are not known.
        marks: What happened, by step.
        notes: What was left out, and why.
    """

    name: str
    folder: Folder
    schedule: Schedule | None
    steps_per_epoch: float | None
    marks: list[Mark]
    notes: list[str]


def describe(folder: Folder, name: str) -> Run:
    """Returns what the page shows of a workdir.

    Args:
        folder: The content of the workdir.
        name: The name of the run on the page.
    """
    notes = list(folder.notes)
    schedule = _schedule(folder, notes)
    newest = folder.lines["metrics.jsonl"].newest
    epoch = newest.get("epoch", 0.0)
    per_epoch = newest["step"] / epoch if 0 < epoch < math.inf else 0.0
    if not _LEAST_STEPS <= per_epoch <= 1 / _LEAST_STEPS:
        per_epoch = None
    if per_epoch is None and schedule is not None:
        per_epoch = schedule.steps_per_epoch
    return Run(name, folder, schedule, per_epoch, _marks(folder, notes), notes)


def names_of(paths: Sequence[epath.Path]) -> list[str]:
    """Returns a name of each run: its folder, with as many parents as tell it from the others.

    Args:
        paths: The workdirs.

    Raises:
        ConfigError: A workdir is given twice.
    """
    parts = [_parts(path) for path in paths]
    for place, path in enumerate(paths):
        if parts[place] in parts[:place]:
            raise ConfigError(f"the workdir {path} is given twice: give it once")
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        count = 1
        while count < len(own) and any(other[-count:] == own[-count:] for other in others):
            count += 1
        names.append("/".join(own[-count:]))
    return names


def _parts(path: epath.Path) -> list[str]:
    text = str(path) if in_bucket(path) else os.path.abspath(path)
    return [part for part in text.split("/") if part] or [text]


def _schedule(folder: Folder, notes: list[str]) -> Schedule | None:
    images = folder.fingerprint.get("images")
    if not folder.config or not isinstance(images, int) or images < 1:
        notes.append("the number of steps is not known: config.json or fingerprint.json lacks it")
        return None
    try:
        return make_schedule(resolve_stored(folder.config), images)
    except (ConfigError, RecursionError, *ODD_CONFIG) as error:
        reason = shortened(in_one_line(error))
        notes.append(f"the number of steps is not known: config.json has no known form: {reason}")
        return None


def _marks(folder: Folder, notes: list[str]) -> list[Mark]:
    """Returns what happened in a run, by step; of each kind the last `MAX_MARKS`."""
    starts = [
        Mark(start.step, "start", f"started again from step {start.step:,}", start.seconds)
        for start in folder.starts[1:]
    ]
    rewinds = [
        Mark(rewind["step"], "rewind", _rewind_text(rewind["step"], rewind["skip_ranges"]))
        for rewind in folder.rewinds
    ]
    changes = [
        Mark(
            change.get("step") if isinstance(change.get("step"), int) else 0,
            "change",
            "the data changed, and the change was accepted: "
            + brief({name: ends for name, ends in change.items() if name != "step"}),
        )
        for change in folder.accepted
    ]
    alarms = [
        Mark(alarm["step"], "alarm", f"{alarm['alarm']}: {alarm['message']}")
        for alarm in folder.alarms
    ]
    marks = []
    for kind in (starts, rewinds, changes, _skipped(folder), alarms):
        marks += kind[-MAX_MARKS:]
        if len(kind) > MAX_MARKS:
            notes.append(f"{len(kind):,} marks of the kind {kind[0].kind!r}: {MAX_MARKS} are shown")
    if not folder.starts and folder.lines["metrics.jsonl"].newest:
        notes.append("restarts are not known: tensorboard/ has no file of a start")
    return sorted(marks, key=lambda mark: (mark.step, mark.seconds or 0))


def _rewind_text(step: int, ranges: list[list[int]]) -> str:
    without = f", without the samples {shortened(str(ranges))}" if ranges else ""
    return f"went back to step {step:,} because config.resume.step asked for it{without}"


def _skipped(folder: Folder) -> list[Mark]:
    """Returns the logged steps that were skipped, and the epochs with further ones."""
    logged = sorted(folder.lines["metrics.jsonl"].skipped)
    marks = [
        Mark(step, "skipped", f"step {step:,} was skipped, because it was not finite")
        for step in logged
    ]
    first = 0
    for epoch, means in sorted(folder.lines["epochs.jsonl"].epochs.items()):
        last, count = int(means["step"]), skipped_in(means)
        others = count - (bisect.bisect(logged, last) - bisect.bisect(logged, first))
        if others > 0:
            text = f"{others:,} skipped steps in epoch {epoch} that were not logged"
            marks.append(Mark(last, "skipped", text))
        first = last
    return sorted(marks)


def skipped_in(means: dict[str, float]) -> int:
    """Returns the number of skipped steps in the means of an epoch."""
    count = means.get("skipped", 0.0) * means["steps"]
    return round(count) if math.isfinite(count) else 0


def skipped_steps(run: Run) -> int:
    """Returns the number of skipped steps that the run recorded."""
    lines = run.folder.lines
    epochs = lines["epochs.jsonl"].epochs.values()
    end = max((means["step"] for means in epochs), default=0)
    later = sum(step > end for step in lines["metrics.jsonl"].skipped)
    return sum(map(skipped_in, epochs)) + later


def state_of(run: Run) -> str:
    """Returns whether a run is training, has ended or was killed, as the lock and steps show."""
    lock, step = run.folder.lock, run.folder.lines["metrics.jsonl"].step
    if lock is not None and not lock.gone:
        return f"running: {lock.holder} renewed the lock {max(lock.age, 0):.0f} s ago"
    if run.schedule is not None and step >= run.schedule.total_steps:
        return "finished"
    if lock is not None:
        return f"not running: it was killed; the lock of {lock.holder} is left, but {lock.gone}"
    if _stopped_by_collapse(run.folder):
        return "not running: it stopped because of a collapse, as config.monitor.collapse demands"
    if run.folder.not_finite:
        return "not running: too many skipped steps, see not_finite.json in the workdir"
    if run.schedule is None:
        return "not running: its last step is not known"
    return "not running: stopped before its last step"


def _stopped_by_collapse(folder: Folder) -> bool:
    monitor = folder.config.get("monitor")
    stops = isinstance(monitor, dict) and monitor.get("collapse") == "stop"
    newest = folder.lines["metrics.jsonl"].step
    collapses = (alarm["step"] for alarm in folder.alarms if alarm["alarm"] == "collapse")
    return stops and any(step >= newest for step in collapses)


def is_running(run: Run) -> bool:
    """Returns whether the process that holds the lock may be alive."""
    return run.folder.lock is not None and not run.folder.lock.gone


def seconds_left(run: Run) -> float | None:
    """Returns the time that a running run still needs at its recent speed; None if not known."""
    metrics = run.folder.lines["metrics.jsonl"]
    rates = metrics.curves.get("images_per_second")
    batch = run.folder.config.get("batch_size")
    if not is_running(run) or run.schedule is None or rates is None or not isinstance(batch, int):
        return None
    recent = [value for _, value in rates.points()[-_RECENT_RATES:]]
    rate = statistics.median(recent) if recent else 0.0
    left = (run.schedule.total_steps - metrics.step) * batch
    return left / rate if rate > 0 and 0 <= left < math.inf else None


def date_text(seconds: float | int) -> str:
    """Returns a time as local date and time with its zone, to the minute."""
    try:
        return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M %Z}"
    except (OverflowError, OSError, ValueError):
        return "a time that no calendar has"
