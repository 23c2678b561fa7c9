"""The picture of a stress test: curves of a detector's metrics over the strength, by matplotlib."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsvfm_jax.report.figure import COLOURS, DPI
from fsvfm_jax.report.rows import Row

PANEL_INCHES = (3.6, 2.7)  # width and height
COLUMNS = 4

# The metrics of a row, with the texts of their curves in the legend.
CURVES = {
    "auc": "AUC",
    "tpr": "TPR: fake videos that are found",
    "fpr": "FPR: real videos that are taken for fake",
    "equal_error_rate": "EER",
}


def stress_picture(
    undegraded: Row, kinds: Mapping[str, Sequence[Row]], *, title: str, threshold: str
) -> Figure:
    """Returns a figure with a panel for each kind of degradation.

    Args:
        undegraded: The row of the faces as they are stored, the first point of each curve. A
            metric that it does not have is not drawn.
        kinds: The rows of each kind, from weak to strong, by the title of the kind.
        title: Title of the figure.
        threshold: Name of the threshold of TPR and FPR.
    """
    columns = min(COLUMNS, len(kinds))
    rows = math.ceil(len(kinds) / columns)
    size = (columns * PANEL_INCHES[0], rows * PANEL_INCHES[1] + 0.9)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axes, (name, of_kind) in zip(grid, kinds.items(), strict=False):
        _panel(axes, name, [undegraded, *of_kind])
    for axes in grid[len(kinds) :]:
        axes.remove()
    figure.supylabel("%", fontsize=10)
    lines, labels = grid[0].get_legend_handles_labels()
    rates = f"TPR and FPR at the threshold {threshold}; " if "tpr" in undegraded else ""
    figure.legend(
        lines,
        labels,
        loc="outside lower center",
        ncols=2 if columns > 1 else 1,
        frameon=False,
        fontsize=9,
        title=f"{rates}bands are 95 % intervals",
        title_fontsize=9,
    )
    return figure


def _panel(axes: Axes, name: str, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    for (key, label), colour in zip(CURVES.items(), COLOURS, strict=False):
        if key not in rows[0]:
            continue
        values = [100 * row[key] for row in rows]
        low, high = zip(*(row[f"{key}_interval"] for row in rows), strict=True)
        axes.plot(places, values, marker="o", markersize=3, color=colour, label=label)
        band = ([100 * x for x in low], [100 * x for x in high])
        axes.fill_between(places, *band, color=colour, alpha=0.12, linewidth=0)
    axes.set_xticks(places, [row["strength"] for row in rows], fontsize=8)
    axes.set(ylim=(-3, 103))
    axes.set_title(name, loc="left", fontsize=9)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
