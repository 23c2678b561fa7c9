"""Compares the epoch means of a run with one of the authors' training curves."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fsvfm_jax.errors import brief
from fsvfm_jax.report.published_curves import (
    METHOD,
    PEAK_LEARNING_RATE,
    SCHEDULE,
    Curve,
    Means,
)
from fsvfm_jax.visualize.run_facts import Run

# The largest relative difference of a mean that counts as consistent. It is a choice and not
# measured: how much two runs of the authors differ is not known.
TOLERANCE = 0.03
# Largest difference of a mean or deviation of pixels: crops of the same photographs differ a bit.
STATS_TOLERANCE = 0.005
FACES_TOLERANCE = 0.02  # relative
MAX_DIFFERENCES = 6  # in a verdict


class Verdict(NamedTuple):
    """The result of a comparison.

    Attributes:
        text: "consistent ...", "off by x at epoch n ...", or why there is no comparison.
        refused: Whether the run was made with other settings than the authors' run.
    """

    text: str
    refused: bool


def compare(run: Run, curve: Curve) -> Verdict:
    """Compares every epoch of the authors' curve that the run has finished."""
    if differences := _differences(run, curve):
        listed = "; ".join(differences[:MAX_DIFFERENCES])
        if len(differences) > MAX_DIFFERENCES:
            listed += f"; and {len(differences) - MAX_DIFFERENCES} more differences"
        text = f"not compared with {curve.title}: {listed}"
        return Verdict(text, refused=True)
    epochs = run.folder.lines["epochs.jsonl"].epochs
    whole = math.floor(run.steps_per_epoch or 1)
    compared, partial, off = [], [], []
    for epoch, theirs in curve.epochs.items():
        if epoch not in epochs:
            continue
        if epochs[epoch]["steps"] < whole:  # after a restart, or at the end of the run
            partial.append(epoch)
            continue
        compared.append(epoch)
        off += [(_off(epochs[epoch], theirs, name), epoch, name) for name in Means._fields]
    notes = "" if curve.mean else "; the faces and the mean of that set are not known"
    if partial:
        notes += f"; not compared, because the mean is over a part of the steps: {_list(partial)}"
    if not compared:
        return Verdict(f"no epoch of {curve.title} is finished yet{notes}", refused=False)
    largest, epoch, name = max(off, key=lambda entry: abs(entry[0]))
    ours, theirs = epochs[epoch].get(name, math.nan), getattr(curve.epochs[epoch], name)
    detail = f"{name} is {ours:.4f}, the authors' is {theirs:.4f}"
    if abs(largest) <= TOLERANCE:
        text = (
            f"consistent within {TOLERANCE:.0%} at {_list(compared)}; the largest difference is"
            f" {largest:+.1%} at epoch {epoch} ({detail})"
        )
    else:
        text = f"off by {largest:+.1%} at epoch {epoch} ({detail}; tolerance {TOLERANCE:.0%})"
    return Verdict(text + notes, refused=False)


def _off(ours: dict[str, float], theirs: Means, name: str) -> float:
    """Returns the relative difference; infinite if the run has no such number."""
    value, wanted = ours.get(name, math.nan), getattr(theirs, name)
    return value / wanted - 1 if math.isfinite(value) else math.inf


def _list(epochs: list[int]) -> str:
    return f"epoch{'s' if len(epochs) > 1 else ''} {', '.join(map(str, epochs))}"


def _differences(run: Run, curve: Curve) -> list[str]:
    """Returns how the settings of the run differ from those of the authors."""
    config = run.folder.config
    if config.get("task") != "pretrain":
        return ["it is no pretraining"]
    found = _of_fields(config, SCHEDULE)
    if run.schedule is None:
        found.append("its schedule is not known")
    elif not math.isclose(run.schedule.peak_learning_rate, PEAK_LEARNING_RATE, rel_tol=1e-6):
        rate = run.schedule.peak_learning_rate
        found.append(f"the peak learning rate is {rate:.4g}, not {PEAK_LEARNING_RATE:.4g}")
    for name in ("mean", "std"):
        ours, theirs = run.folder.fingerprint.get(name), getattr(curve, name)
        if theirs is not None and not _all_near(ours, theirs):
            found.append(f"the {name} of the data is {_short(ours)}, not {_short(theirs)}")
    faces = run.folder.fingerprint.get("images")
    if curve.faces is not None and not _near(faces, curve.faces, FACES_TOLERANCE * curve.faces):
        found.append(f"the set has {brief(faces)} faces, not {curve.faces:,}")
    return found + _of_fields(config, METHOD)


def _of_fields(config: dict[str, Any], settings: Mapping[str, Any]) -> list[str]:
    values = {path: _field(config, path) for path in settings}
    return [
        f"{path} is {brief(values[path])}, not {brief(wanted)}"
        for path, wanted in settings.items()
        if values[path] != wanted
    ]


def _short(values: Any) -> str:
    try:
        return " ".join(f"{value:.4f}" for value in values)
    except (TypeError, ValueError):  # The file of a stranger may have anything here.
        return brief(values)


def _field(config: dict[str, Any], path: str) -> Any:
    section, _, name = path.rpartition(".")
    inner = config.get(section) if section else config
    return inner.get(name) if isinstance(inner, dict) else None


def _all_near(ours: Any, theirs: tuple[float, float, float]) -> bool:
    if not isinstance(ours, list) or len(ours) != len(theirs):
        return False
    return all(_near(a, b, STATS_TOLERANCE) for a, b in zip(ours, theirs, strict=True))


def _near(value: Any, wanted: float | int, tolerance: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value - wanted) <= tolerance
