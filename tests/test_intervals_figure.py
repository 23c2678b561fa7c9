"""Tests that the picture has a mark for every row and group, at its mean."""

import numpy as np

from fsvfm_jax.report.intervals_figure import intervals_figure


def row(seen, unseen):
    return {
        "method": "x",
        "full@seen": {"mean": seen, "sd": None, "n": 1},
        "full_interval@seen": (seen - 0.1, seen + 0.05),
        "full@unseen": {"mean": unseen, "sd": None, "n": 1},
        "full_interval@unseen": (unseen + 1e-9, unseen + 0.1),
        "linear@seen": {"mean": 0.1, "sd": None, "n": 1},
    }


def test_every_row_and_group_has_its_mean():
    rows = [row(0.9, 0.6), row(0.8, 0.7), row(0.7, 0.5)]
    figure = intervals_figure(rows, ["a", "b $x$", "c"], metric="full", title="Full")
    (axes,) = figure.axes
    marks = {x.get_label(): np.asarray(x.lines[0].get_xdata(), float) for x in axes.containers}
    assert set(marks) == {"seen", "unseen"}
    np.testing.assert_allclose(marks["seen"], [90, 80, 70])
    np.testing.assert_allclose(marks["unseen"], [60, 70, 50])
    assert [x.get_text() for x in axes.get_yticklabels()] == ["a", r"b \$x\$", "c"]
    assert axes.get_title(loc="left") == "Full" and "95 %" in axes.get_xlabel()
