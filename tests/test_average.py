"""Tests that the average face has every region, with the same size on both sides."""

import numpy as np

from fsvfm_jax.prepare.average import AverageParser, average_map
from fsvfm_jax.regions import CLASSES


def test_every_class_is_there_at_the_size_of_a_crop() -> None:
    parsing_map = average_map(224, 224)
    assert parsing_map.dtype == np.uint8
    share = np.bincount(parsing_map.ravel(), minlength=len(CLASSES)) / parsing_map.size
    assert (share > 0.001).all()
    assert 0.3 < share[CLASSES.index("skin")] < 0.5


def test_left_and_right_mirror_each_other() -> None:
    names = [name.replace("left", "x").replace("right", "left") for name in CLASSES]
    exchanged = np.array([CLASSES.index(name.replace("x", "right")) for name in names])
    parsing_map = average_map(64, 64)
    np.testing.assert_array_equal(exchanged[parsing_map[:, ::-1]], parsing_map)
    # A person's right side is at the left of the image.
    assert (parsing_map[:, :32] == CLASSES.index("right_eye")).any()


def test_each_image_gets_a_map_of_its_size() -> None:
    images = [np.zeros((20, 30, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)]
    maps = AverageParser()(["a.png", "b.png"], images)
    assert [x.shape for x in maps] == [(20, 30), (16, 16)]
