"""Tests the picture of a stress test."""

import numpy as np

from fsvfm_jax.report.figure import encode_picture
from fsvfm_jax.report.stress_figure import CURVES, stress_picture


def row(strength, value):
    rates = {key: value for key in CURVES}
    return {"strength": strength} | rates | {f"{key}_interval": (0.0, 1.0) for key in CURVES}


def test_the_picture_has_a_panel_per_kind_and_a_legend():
    kinds = {f"kind {number}": [row("1", 0.5), row("2", 0.25)] for number in range(5)}
    figure = stress_picture(row("stored", 1.0), kinds, title="a title", threshold="eer")
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == list(kinds)
    for axes in panels:
        assert [text.get_text() for text in axes.get_xticklabels()] == ["stored", "1", "2"]
        assert len(axes.lines) == 4
        np.testing.assert_allclose(axes.lines[0].get_ydata(), (100, 50, 25))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == list(CURVES.values())
    assert "the threshold eer" in figure.legends[0].get_title().get_text()
    assert figure.get_suptitle() == "a title"


def test_metrics_that_are_missing_are_left_out():
    rows = [
        {key: value for key, value in one.items() if not key.startswith(("tpr", "fpr"))}
        for one in (row("stored", 1.0), row("1", 0.5))
    ]
    figure = stress_picture(rows[0], {"x": rows[1:]}, title="t", threshold="fpr_5")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["AUC", "EER"]
    assert figure.legends[0].get_title().get_text() == "bands are 95 % intervals"


def test_one_kind_is_enough():
    figure = stress_picture(row("stored", 1.0), {"x": [row("1", 0.5)]}, title="t", threshold="eer")
    assert encode_picture(figure).startswith(b"\x89PNG")
