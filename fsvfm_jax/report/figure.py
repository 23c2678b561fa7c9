"""The picture of a report: how well scores separate fake and real in each set, with matplotlib."""

import io
import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsvfm_jax.host.terminal import printable
from fsvfm_jax.report.metrics import VideoScores, auc, roc

DPI = 150
ROC_INCHES = 5.6
HISTOGRAM_INCHES = (3.4, 1.7)  # width and height of one histogram
MAX_NAME = 32  # characters
BINS = np.linspace(0, 1, 26)

# Colour-blind people can distinguish these colours (Okabe and Ito). With the line styles they are
# enough for 21 sets.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":")
FAKE, REAL = "#B2182B", "#666666"  # These differ from the sets' colours.


def picture(sets: Mapping[str, VideoScores]) -> Figure:
    """Returns a figure with ROC curves and, for each set, a histogram of p_fake by class.

    The ROC curves are on the left, the histograms on the right.

    Args:
        sets: At least one set by name, with p_fake of every video, positive for fake videos. A set
            without both classes gets no curve.
    """
    columns = math.ceil(len(sets) / 5)
    rows = math.ceil(len(sets) / columns)
    width, height = columns * HISTOGRAM_INCHES[0], rows * HISTOGRAM_INCHES[1]
    figure = Figure(
        figsize=(ROC_INCHES + width, max(ROC_INCHES, height)), dpi=DPI, layout="constrained"
    )
    left, right = figure.subfigures(1, 2, width_ratios=(ROC_INCHES, width))
    _curves(left.subplots(), sets)
    grid = right.subplots(rows, columns, squeeze=False).flat
    for axes, (name, videos) in zip(grid, sets.items(), strict=False):
        _histogram(axes, name, videos)
    for axes in grid[len(sets) :]:
        axes.remove()
    grid[0].legend(frameon=False, fontsize=8)
    right.supxlabel("p_fake of a video (mean of its frames)", fontsize=10)
    right.supylabel("share of the class", fontsize=10)
    return figure


def encode_picture(figure: Figure) -> bytes:
    """Returns the figure as PNG, with the same bytes for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _curves(axes: Axes, sets: Mapping[str, VideoScores]) -> None:
    axes.plot((0, 1), (0, 1), color="0.8", linewidth=1)
    for number, (name, videos) in enumerate(sets.items()):
        look = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": STYLES[number // len(COLOURS) % len(STYLES)],
        }
        if videos.positive.all() or not videos.positive.any():
            axes.plot((), (), label=f"n/a  {shown_name(name)}", **look)
            continue
        curve = roc(videos.scores, videos.positive)
        area = 100 * auc(videos.scores, videos.positive)
        axes.plot(curve.fpr, curve.tpr, label=f"{area:.2f}  {shown_name(name)}", **look)
    axes.set(
        xlabel="real videos taken for fake (false positive rate)",
        ylabel="fake videos found (true positive rate)",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        aspect="equal",
    )
    axes.set_title("ROC per video", loc="left", fontsize=10)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.legend(title="AUC in %", loc="lower right", fontsize=8, title_fontsize=8)


def _histogram(axes: Axes, name: str, videos: VideoScores) -> None:
    counts = {}
    for label, colour, chosen in (
        ("real", REAL, ~videos.positive),
        ("fake", FAKE, videos.positive),
    ):
        of_class = videos.scores[chosen]
        counts[label] = len(of_class)
        # The histogram shows shares, because the classes of most sets have very different sizes.
        shares = np.full(len(of_class), 1 / max(len(of_class), 1))
        look = {"color": colour, "alpha": 0.55, "label": label}
        axes.hist(of_class, BINS, weights=shares, histtype="stepfilled", **look)
    title = f"{shown_name(name)}: {counts['real']:,} real, {counts['fake']:,} fake"
    axes.set_title(title, loc="left", fontsize=8)
    axes.set_xlim(0, 1)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def shown_name(name: str, *, most: int = MAX_NAME) -> str:
    """Returns a name as one short line that matplotlib can encode, with no formula in it.

    Args:
        name: Text from any source.
        most: Largest number of characters.
    """
    line = printable(" ".join(name.split()))
    short = line if len(line) <= most else line[: most - 1] + "…"
    return short.replace("$", r"\$")
