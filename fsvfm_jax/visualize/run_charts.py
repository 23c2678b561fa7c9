"""Chooses the charts of the page."""

from collections.abc import Sequence
from typing import NamedTuple

from fsvfm_jax.visualize.run_facts import Run

MAX_CHARTS = 80


class Chart(NamedTuple):
    """One chart: a number of every run by step.

    Attributes:
        section: Title of the section of the page.
        name: The number's name in the files, and the title of the chart.
        axis: What the y axis shows, with its unit.
        log: Whether the y axis is logarithmic at first.
        beside: Another number that is drawn dotted beside it, or an empty text.
        means: Whether the means of epochs are drawn too.
    """

    section: str
    name: str
    axis: str
    log: bool = False
    beside: str = ""
    means: bool = True


LOSSES, COLLAPSE, PROBES = "Losses", "Collapse of the teacher", "Probes"
SCHEDULE, SPEED, HEALTH = "Schedule", "Speed", "Health of the optimisation"
VALIDATION, OTHERS = "Validation", "Other numbers"
# What to look at, as HTML.
SECTIONS = {
    LOSSES: "Thin: logged steps. Thick: the mean of each epoch, drawn in the middle of its steps.",
    VALIDATION: "Scores on the validation faces, which choose the checkpoint.",
    COLLAPSE: "In a collapse <code>variance_z</code> falls towards 0 while <code>loss_sim</code>"
    " approaches its minimum. The student learns about an individual face only while"
    " <code>loss_sim</code> is below <code>loss_sim_constant</code> (dotted).",
    PROBES: "Measured every <code>config.probe.every</code> steps on the features of the encoder.",
    SCHEDULE: "",
    SPEED: "Each value covers the time since the previous logged step, with saves and validation.",
    HEALTH: "",
    OTHERS: "",
}
CHARTS = (
    Chart(LOSSES, "loss", "weighted sum of the losses"),
    Chart(LOSSES, "loss_rec", "squared error of the removed patches"),
    Chart(LOSSES, "loss_region", "squared error of the covered region"),
    Chart(LOSSES, "loss_ce", "cross-entropy in nats"),
    Chart(LOSSES, "loss_anchor", "contrastive loss of the real faces"),
    Chart(COLLAPSE, "loss_sim", "similarity loss", beside="loss_sim_constant"),
    Chart(COLLAPSE, "variance_z", "variance of z (teacher) over the batch", log=True),
    Chart(COLLAPSE, "variance_q", "variance of q (student) over the batch", log=True),
    Chart(COLLAPSE, "teacher_change", "change of the teacher's weights in a step", means=False),
    Chart(SCHEDULE, "lr", "learning rate", means=False),
    Chart(SCHEDULE, "teacher_momentum", "momentum of the teacher", means=False),
    Chart(SPEED, "images_per_second", "images per second", means=False),
    Chart(SPEED, "data_wait", "share of the time that waits for data", means=False),
    Chart(HEALTH, "grad_norm", "norm of the gradient", log=True),
    Chart(HEALTH, "param_norm", "norm of the trained parameters"),
    Chart(HEALTH, "skipped", "skipped steps per step"),
    Chart(HEALTH, "masked_fraction", "share of the patches that is masked", means=False),
    Chart(HEALTH, "replaced_samples", "damaged faces that were replaced", means=False),
)
_SCORES = {
    "val_loss": Chart(VALIDATION, "val_loss", "cross-entropy in nats"),
    "val_frame_auc": Chart(VALIDATION, "val_frame_auc", "area under the ROC, of frames"),
    "val_video_auc": Chart(VALIDATION, "val_video_auc", "area under the ROC, of videos"),
    "val_unread": Chart(VALIDATION, "val_unread", "faces that could not be read"),
}
# The y axis by the begin and the end of a probe's name, in the order of the page.
_PROBE_AXES = (
    ("", "_auc", "area under the ROC (0.5 is chance)"),
    ("", "_accuracy", "balanced accuracy (0.5 is chance)"),
    ("probe_rankme", "", "effective rank of the features"),
    ("probe_spectrum", "", "share of the variance"),
    ("probe_variance", "", "variance of the features"),
    ("probe_rec", "", "error of the removed patches"),
    ("", "", "value"),
)
_BESIDE = {chart.beside for chart in CHARTS}
_KNOWN = {chart.name for chart in CHARTS} | _BESIDE | {"epoch", "steps"}


def charts_of(runs: Sequence[Run], notes: list[str]) -> list[Chart]:
    """Returns the charts that at least one run has numbers for, in the order of the page.

    Args:
        runs: The runs.
        notes: Gets a note if there are too many charts.
    """
    logged = _names(runs, ("metrics.jsonl", "epochs.jsonl"))
    probes = sorted((name for name in logged if name.startswith("probe_")), key=_place_of_probe)
    others = [name for name in logged if name not in _KNOWN and name not in probes]
    scores = [
        _SCORES.get(name, Chart(VALIDATION, name, name))
        for name in _names(runs, ("validation.jsonl",))
        if name not in ("epoch", "steps")
    ]
    found = [chart for chart in CHARTS if chart.name in logged] + scores
    found += [Chart(PROBES, name, _probe_axis(name), means=False) for name in probes]
    found += [Chart(OTHERS, name, name, means=False) for name in others]
    order = list(SECTIONS)
    found.sort(key=lambda chart: order.index(chart.section))
    if len(found) > MAX_CHARTS:
        notes.append(f"{len(found)} numbers have a chart: the first {MAX_CHARTS} are drawn")
    return found[:MAX_CHARTS]


def _names(runs: Sequence[Run], files: Sequence[str]) -> list[str]:
    found = (name for run in runs for file in files for name in run.folder.lines[file].curves)
    return list(dict.fromkeys(found))


def _place_of_probe(name: str) -> int:
    return next(
        place
        for place, (begin, end, _) in enumerate(_PROBE_AXES)
        if name.startswith(begin) and name.endswith(end)
    )


def _probe_axis(name: str) -> str:
    return _PROBE_AXES[_place_of_probe(name)][2]
