"""The picture of a video's scores over time, one curve for each person, with matplotlib."""

import textwrap
from typing import NamedTuple

from matplotlib.figure import Figure

from fsvfm_jax.report.figure import COLOURS, DPI, FAKE, STYLES, shown_name

INCHES = (8.0, 3.6)
MAX_TITLE = 80  # characters
MAX_NOTE, NOTE_WIDTH = 600, 130  # characters, of all and of a line
MAX_NAMED = 12  # curves in the legend


class Curve(NamedTuple):
    """The scores of one person.

    Attributes:
        name: Name of the person in the legend.
        places: Times in seconds, or numbers of frames, ascending.
        scores: Score of each frame.
        mean: Mean of the scores.
    """

    name: str
    places: list[float]
    scores: list[float]
    mean: float


def curve_picture(
    curves: list[Curve],
    *,
    title: str,
    score_name: str,
    threshold: float,
    threshold_name: str,
    note: str | None,
    in_seconds: bool,
) -> Figure:
    """Returns a figure with the curves and the threshold.

    Args:
        curves: At least one curve.
        title: Title, such as the path of the video.
        score_name: Name of the score, such as "p_fake".
        threshold: Threshold of the decision on a mean.
        threshold_name: Where the threshold comes from.
        note: What a reader of the scores should know, below the curves.
        in_seconds: Whether the places are seconds, or else numbers of frames.
    """
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        axes.plot(
            curve.places,
            curve.scores,
            color=COLOURS[number % len(COLOURS)],
            linestyle=STYLES[number // len(COLOURS) % len(STYLES)],
            marker=".",
            linewidth=1.2,
            label=f"{shown_name(curve.name)}: mean {curve.mean:.4f}, {len(curve.scores)} frames"
            if number < MAX_NAMED
            else None,
        )
    axes.axhline(
        threshold,
        color=FAKE,
        linestyle="--",
        linewidth=1,
        label=f"threshold {threshold:.4g} ({shown_name(threshold_name)})",
    )
    axes.set(
        xlabel="time (seconds)" if in_seconds else "number of the frame",
        ylabel=f"{score_name} of a frame (0 real, 1 {score_name.removeprefix('p_')})",
        ylim=(-0.03, 1.03),
    )
    axes.set_title(shown_name(title, most=MAX_TITLE), loc="left", fontsize=10)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    if note is not None:
        lines = textwrap.wrap(shown_name(note, most=MAX_NOTE), NOTE_WIDTH)
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8)
    return figure
