"""Tests the reliability picture."""

import numpy as np

from fsvfm_jax.report.figure import encode_picture
from fsvfm_jax.report.metrics import probability
from fsvfm_jax.report.reliability_figure import Panel, reliability_picture


def test_the_points_are_shares_of_fake_faces_and_every_axis_and_curve_is_named():
    rng = np.random.default_rng(0)
    p_fake = probability(rng.normal(0, 2, 3000))
    panel = Panel(p_fake, rng.random(3000) < p_fake)
    figure = reliability_picture(
        {"before": panel, "after": panel}, title="a title", score_name="p_spoof"
    )
    diagrams = figure.axes[:2]
    for axes in diagrams:
        points = axes.lines[1].get_xydata()
        assert len(points) == 15 and np.abs(points[:, 0] - points[:, 1]).max() < 15
        assert "ECE" in axes.get_title(loc="left")
    assert diagrams[0].get_ylabel() == "fake faces of the bin, %"
    assert figure.axes[2].get_xlabel() == "p_spoof of a face, %"
    assert figure.get_suptitle() == "a title"
    assert len(figure.legends[0].get_texts()) == 2
    assert encode_picture(figure).startswith(b"\x89PNG")


def test_a_single_face_of_a_bin_has_an_interval():
    panel = Panel(np.array([0.0, 1.0]), np.array([False, True]))
    assert encode_picture(reliability_picture({"x": panel}, title="t", score_name="p_fake"))
