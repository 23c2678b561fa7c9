"""The picture of a table of means with intervals: a line for each row, with matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from fsvfm_jax.report.figure import COLOURS, DPI, shown_name

WIDTH = 7.5  # inches
HEIGHT_OF_ROW = 0.28
SPREAD = 0.6  # part of a row's height that its groups take


def intervals_figure(
    rows: Sequence[Mapping[str, Any]], labels: Sequence[str], *, metric: str, title: str
) -> Figure:
    """Returns a figure with the means and intervals of a metric.

    Args:
        rows: Rows with `<metric>@<group>`, which has a "mean", and `<metric>_interval@<group>`, as
            fractions. All rows have the same groups; each group has a colour.
        labels: The label of each row.
        metric: The metric's key.
        title: The title, which names the metric and its unit.
    """
    groups = [key.partition("@")[2] for key in rows[0] if key.startswith(f"{metric}@")]
    height = 1.2 + HEIGHT_OF_ROW * len(rows) * max(1, len(groups) / 2)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for number, group in enumerate(groups):
        means = [100 * row[f"{metric}@{group}"]["mean"] for row in rows]
        bounds = [row[f"{metric}_interval@{group}"] for row in rows]
        errors = [
            [mean - 100 * low for mean, (low, _) in zip(means, bounds, strict=True)],
            [100 * high - mean for mean, (_, high) in zip(means, bounds, strict=True)],
        ]
        shift = SPREAD * ((number + 0.5) / len(groups) - 0.5)
        places = [row + shift for row in range(len(rows))]
        # A mean of draws may lie a rounding error outside of their quantiles.
        errors = [[max(0.0, x) for x in side] for side in errors]
        look = {"color": COLOURS[number % len(COLOURS)], "label": shown_name(group)}
        axes.errorbar(means, places, xerr=errors, fmt="o", markersize=4, capsize=2, **look)
    axes.set_yticks(range(len(rows)), [shown_name(label) for label in labels])
    axes.invert_yaxis()
    axes.set_xlabel("AUC in %; bars are 95 % intervals")
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    if len(groups) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(groups), 4), fontsize=8)
    return figure
