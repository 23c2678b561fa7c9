"""Tests the picture of a report: its content, and any names and numbers of sets."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scored_sets import BY_HAND, scored

from fsvfm_jax.report.figure import MAX_NAME, encode_picture, picture
from fsvfm_jax.report.metrics import VideoScores, video_means


def videos_of(videos) -> VideoScores:
    scores = scored("x", videos)
    return video_means(scores.p_fake, scores.fake, scores.videos)


def made(seed: int, *, count: int = 60) -> VideoScores:
    rng = np.random.default_rng(seed)
    fake = np.arange(count) % 2 == 0
    return VideoScores(np.arange(count), rng.beta(2 + 2 * fake, 4 - 2 * fake), fake)


def legend(figure: Figure, axes: int) -> list[str]:
    return [text.get_text() for text in figure.axes[axes].get_legend().get_texts()]


def test_curves_have_their_auc_in_the_legend():
    figure = picture({"by hand": videos_of(BY_HAND), "one": videos_of({"r0": (0.2,)})})
    assert legend(figure, 0) == ["83.33  by hand", "n/a  one"]
    curves = figure.axes[0].get_lines()[1:]
    assert [len(line.get_xdata()) for line in curves] == [6, 0]
    assert np.ptp(curves[0].get_xdata()) == np.ptp(curves[0].get_ydata()) == 1


def test_histograms_have_all_videos_of_each_class():
    figure = picture(
        {"by hand": videos_of(BY_HAND), "one": videos_of({"r0": (0.0,), "r1": (1.0,)})}
    )
    assert [axes.get_title("left") for axes in figure.axes[1:]] == [
        "by hand: 2 real, 3 fake",
        "one: 2 real, 0 fake",
    ]
    assert legend(figure, 1) == ["real", "fake"]
    heights = [patch.get_xy()[:, 1].max() for patch in figure.axes[1].patches]
    assert heights == pytest.approx([1 / 2, 1 / 3])


def test_axes_are_labelled():
    figure = picture({"a": made(0)})
    assert "false positive rate" in figure.axes[0].get_xlabel()
    assert "true positive rate" in figure.axes[0].get_ylabel()
    assert "p_fake" in figure.subfigs[1].get_supxlabel()
    assert "share" in figure.subfigs[1].get_supylabel()


@pytest.mark.parametrize("count", [1, 3, 7, 13])
def test_any_number_of_sets_is_a_picture_of_a_sane_size(count):
    figure = picture({f"set {i}": made(i) for i in range(count)})
    assert len(figure.axes) == 1 + count
    with Image.open(io.BytesIO(encode_picture(figure))) as png:
        assert png.format == "PNG"
        assert 1000 < png.size[0] < 3000 and 800 < png.size[1] < 1500
        assert len(png.convert("RGB").getcolors(1 << 20)) > 10


def test_curves_of_many_sets_can_be_told_apart():
    lines = picture({f"set {i}": made(i) for i in range(13)}).axes[0].get_lines()[1:]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 13


@pytest.mark.parametrize("name", ["$x", "$x$", "$\\frac$", "_hidden", "a\nb", "\udce9", "x" * 500])
def test_no_name_breaks_the_picture(name):
    figure = picture({name: made(0)})
    assert encode_picture(figure)
    (shown,) = legend(figure, 0)
    assert len(shown) <= MAX_NAME + 10 and "\n" not in shown


def test_the_same_scores_are_the_same_bytes():
    assert encode_picture(picture({"a": made(0)})) == encode_picture(picture({"a": made(0)}))


def test_control_characters_of_a_name_are_shown_escaped():
    figure = picture({"a\x1b[31m\u202eb\udce9": videos_of(BY_HAND)})
    assert legend(figure, 0) == ["83.33  a\\x1b[31m\\u202eb\\udce9"]
    encode_picture(figure)
