"""The reliability picture of a detector: share of fake faces over p_fake, before and after."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsvfm_jax.report.figure import DPI, FAKE
from fsvfm_jax.report.metrics import rate_interval
from fsvfm_jax.report.reliability import BINS, calibration_error, reliability

INCHES = (4.6, 5.6)  # width and height of one panel


class Panel(NamedTuple):
    """The faces of one panel: their p_fake and whether they are fake."""

    p_fake: Float64[np.ndarray, " N"]
    fake: Bool[np.ndarray, " N"]


def reliability_picture(panels: Mapping[str, Panel], *, title: str, score_name: str) -> Figure:
    """Returns a figure with a reliability diagram and a histogram of scores for each panel.

    Args:
        panels: The panels by their titles, at least one.
        title: Title of the figure.
        score_name: Name of the scores, such as "p_fake".
    """
    width, height = INCHES
    figure = Figure(figsize=(width * len(panels), height), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(2, len(panels), squeeze=False, height_ratios=(4, 1), sharex=True)
    for number, (name, panel) in enumerate(panels.items()):
        error = 100 * calibration_error(*panel)
        _diagram(grid[0, number], panel)
        grid[0, number].set_title(f"{name}: ECE {error:.1f} %", loc="left", fontsize=10)
        _counts(grid[1, number], panel)
        grid[1, number].set_xlabel(f"{score_name} of a face, %")
    grid[0, 0].set_ylabel("fake faces of the bin, %")
    grid[1, 0].set_ylabel("faces")
    lines, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", frameon=False, fontsize=8)
    return figure


def _diagram(axes: Axes, panel: Panel) -> None:
    bins = reliability(*panel)
    filled = np.flatnonzero(bins.counts)
    shares = 100 * bins.fake_share[filled]
    bounds = [
        rate_interval(round(float(bins.fake_share[k] * bins.counts[k])), int(bins.counts[k]))
        for k in filled
    ]
    low, high = 100 * np.array(bounds).T
    axes.plot((0, 100), (0, 100), color="0.6", linewidth=1, label="score = share of fake faces")
    axes.errorbar(
        100 * bins.mean_score[filled],
        shares,
        yerr=(shares - low, high - shares),
        fmt="o-",
        color=FAKE,
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label=f"measured in {BINS} bins of equal width, with 95 % intervals as if faces were"
        " independent",
    )
    axes.set(xlim=(-2, 102), ylim=(-2, 102))
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


def _counts(axes: Axes, panel: Panel) -> None:
    axes.hist(100 * panel.p_fake, np.linspace(0, 100, BINS + 1), color="0.6")
    axes.spines[["top", "right"]].set_visible(False)
