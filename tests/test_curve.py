"""Tests the picture of a video's scores: a curve per person, title, legend and units."""

import io

import numpy as np
from PIL import Image

from fsvfm_jax.report.curve import MAX_NAMED, Curve, curve_picture
from fsvfm_jax.report.figure import encode_picture

NAMES = ["person 0", "a $x_{ formula\n\x1b[31m"]


def curves(count: int) -> list[Curve]:
    places = [float(x) for x in range(10)]
    return [
        Curve(NAMES[n % 2], places, [n / 50 + x / 20 for x in places], 0.5) for n in range(count)
    ]


def test_a_curve_has_title_legend_and_units() -> None:
    options = {"title": "v$.mp4\n" + "x" * 100, "score_name": "p_spoof", "threshold": 0.25}
    for in_seconds, unit in ((True, "time (seconds)"), (False, "number of the frame")):
        figure = curve_picture(curves(2), in_seconds=in_seconds, **options)
        (axes,) = figure.axes
        assert axes.get_xlabel() == unit
        assert axes.get_ylabel() == "p_spoof of a frame (probability)"
        assert axes.get_ylim() == (-0.03, 1.03) and axes.get_title(loc="left").startswith(
            "v\\$.mp4"
        )
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts[0] == "person 0: mean 0.500, 10 frames" and texts[2] == "threshold 0.25"
        assert all("\n" not in text and "\x1b" not in text for text in texts)
    with Image.open(io.BytesIO(encode_picture(figure))) as picture:
        assert np.asarray(picture.convert("RGB")).std() > 10


def test_many_people_do_not_fill_the_legend() -> None:
    options = {"title": "v", "score_name": "p_fake", "threshold": 0.5, "in_seconds": True}
    (axes,) = curve_picture(curves(40), **options).axes
    assert len(axes.lines) == 41
    assert len(axes.get_legend().get_texts()) == MAX_NAMED + 1
