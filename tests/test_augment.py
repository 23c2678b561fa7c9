"""Tests that cropping and mirroring change a face and its map together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsvfm_jax.data.augment import (
    CROP_AREA,
    CROP_ASPECT,
    MIRRORED_CLASSES,
    crop_and_flip,
    draw_crop,
)
from fsvfm_jax.regions import CLASSES

SIZE = 32


class Fixed(np.random.Generator):
    """Replaces a generator by one with known draws: a crop of the whole, and whether to mirror."""

    def __init__(self, mirror: bool):
        super().__init__(np.random.PCG64())
        self._mirror = mirror

    def uniform(self, low: float, high: float) -> float:
        return 1.0 if high == 1.0 else 0.0

    def integers(self, high: int) -> int:
        return 0

    def random(self) -> float:
        return 0.0 if self._mirror else 0.9


def coded_face():
    """Returns a face whose colour shows the class of every pixel, in large blocks."""
    parsing_map = np.kron(np.arange(16).reshape(4, 4) % 11, np.ones((8, 8))).astype(np.uint8)
    return {"image": np.repeat(parsing_map[..., None] * 20, 3, axis=2), "parsing_map": parsing_map}


def test_right_and_left_change_places_and_nothing_else():
    pairs = [(CLASSES[i], CLASSES[mirrored]) for i, mirrored in enumerate(MIRRORED_CLASSES)]
    changed = {name: mirrored for name, mirrored in pairs if name != mirrored}
    assert changed == {
        "right_brow": "left_brow",
        "left_brow": "right_brow",
        "right_eye": "left_eye",
        "left_eye": "right_eye",
    }


@pytest.mark.parametrize("mirror", [False, True])
def test_the_whole_face_mirrored_or_not(mirror):
    face = coded_face()
    found = crop_and_flip(face, Fixed(mirror))
    if not mirror:
        np.testing.assert_array_equal(found["image"], face["image"])
        np.testing.assert_array_equal(found["parsing_map"], face["parsing_map"])
    else:
        np.testing.assert_array_equal(found["image"], face["image"][:, ::-1])
        back = MIRRORED_CLASSES[found["parsing_map"]][:, ::-1]
        np.testing.assert_array_equal(back, face["parsing_map"])


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_image_and_map_stay_together(seed):
    found = crop_and_flip(coded_face(), np.random.default_rng(seed))
    assert found["image"].shape == (SIZE, SIZE, 3) and found["image"].dtype == np.uint8
    colours = found["image"][..., 0] / 20
    parsing_map = found["parsing_map"]
    mirrored = MIRRORED_CLASSES[parsing_map]
    # Inner pixels of a block have the colour of its class; at borders bicubic resizing mixes them.
    agreement = max(np.mean(abs(colours - x) < 0.5) for x in (parsing_map, mirrored))
    assert agreement > 0.5


def test_the_same_draws_give_the_same_face():
    faces = [crop_and_flip(coded_face(), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    same, other = ((faces[0]["image"] == face["image"]).all() for face in faces[1:])
    assert same and not other


def test_a_run_that_goes_on_draws_the_boxes_it_drew():
    # The draws are stored: a run that later code resumes must see the same faces.
    def drawn(place):
        rng = np.random.Generator(np.random.Philox(key=(0, place)))
        rows, columns = draw_crop(224, 224, rng=rng, area=CROP_AREA, aspect=CROP_ASPECT)
        return rows.start, rows.stop, columns.start, columns.stop

    assert [drawn(place) for place in range(3)] == [
        (12, 122, 47, 142),
        (22, 214, 0, 222),
        (4, 214, 6, 209),
    ]
