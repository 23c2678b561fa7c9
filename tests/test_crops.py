"""Tests that faces are found, and cropped by the rule of FaceForensics++."""

import numpy as np
import pytest
from golden_files import need
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import UInt8
from PIL import Image
from scenes import TWO_FACES, scene

from fsvfm_jax.prepare.crops import (
    Box,
    CroppedFace,
    Found,
    HogDetector,
    WholeImage,
    crop,
    crop_faces,
    square_box,
)


def test_dlib_finds_faces_surest_first() -> None:
    need("dlib", "prepare")
    found = HogDetector(1)(TWO_FACES)
    assert len(found) == 2
    assert found[0].score >= found[1].score > 0.5
    assert sorted(box.left // 100 for box, _ in found) == [0, 2]
    assert HogDetector(1)(scene()) == []
    for shape in ((1, 1, 3), (1, 500, 3), (500, 1, 3)):
        assert HogDetector(1)(np.zeros(shape, np.uint8)) == []


def test_a_large_photograph_is_searched_at_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    need("dlib", "prepare")
    expected = HogDetector(1)(scene((5, 40, 36)))[0].box
    monkeypatch.setattr("fsvfm_jax.prepare.crops.MAX_SEARCHED_PIXELS", 4 * 200 * 420)
    large = scene((5, 40, 36)).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(HogDetector(1)(large)[0].box, 2 * np.array(expected))


def test_the_square_is_that_of_faceforensics() -> None:
    def square(*box: int, scale: float = 1.3) -> Box:
        return square_box(Box(*box), scale=scale, height=100, width=200)

    assert square(60, 30, 90, 60) == (56, 26, 95, 65)  # the square has 39 pixels around (75, 45)
    assert square(60, 30, 90, 40) == (56, 16, 95, 55)  # the longer side counts
    assert square(-5, 0, 35, 40) == (0, 0, 52, 52)  # moved inside
    assert square(150, 50, 190, 95) == (141, 43, 198, 100)  # made smaller
    assert square(0, 0, 400, 400) == (0, 0, 100, 100)
    assert square(10, 10, 20, 20, scale=1.0) == (10, 10, 20, 20)


@given(st.lists(st.integers(-200, 400), min_size=4, max_size=4), st.integers(1, 300))
def test_a_square_is_square_and_inside(corners: list[int], size: int) -> None:
    left, right, top, bottom = *sorted(corners[:2]), *sorted(corners[2:])
    box = square_box(Box(left, top, right, bottom), scale=1.3, height=size, width=200)
    assert box.right - box.left == box.bottom - box.top
    if box.right > box.left:
        assert box.left >= 0 and box.top >= 0 and box.right <= 200 and box.bottom <= size


def test_a_crop_is_what_the_box_holds() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    np.testing.assert_array_equal(
        crop(picture, Box(10, 20, 42, 52), size=32), picture[20:52, 10:42]
    )
    bicubic = Image.fromarray(picture[20:52, 10:42]).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(crop(picture, Box(10, 20, 42, 52), size=16), np.asarray(bicubic))


def test_the_middle_square_of_a_whole_image() -> None:
    assert WholeImage()(np.zeros((50, 31, 3), np.uint8)) == [Found(Box(0, 9, 31, 40), None)]


def test_cropped_faces_know_their_number_and_that_of_all() -> None:
    class Three:
        box_scale = 1.0

        def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]:
            boxes = Box(10, 10, 40, 40), Box(60, 60, 100, 100), Box(500, 60, 510, 70)
            return [Found(box, 1.0 / number) for number, box in enumerate(boxes, 1)]

    faces = list(crop_faces(TWO_FACES, Three(), faces="all", size=16))
    assert [(face.number, face.found, face.score) for face in faces] == [
        (0, 3, 1.0),
        (1, 3, 1 / 2),
        (2, 3, 1 / 3),
    ]
    assert faces[0].pixels.shape == (16, 16, 3) and faces[2].pixels is None
    (largest,) = crop_faces(TWO_FACES, Three(), faces="largest", size=16)
    assert isinstance(largest, CroppedFace) and largest.box == (60, 60, 100, 100)
    np.testing.assert_array_equal(largest.pixels, faces[1].pixels)


def test_the_margin_decides_the_size_of_a_crop() -> None:
    need("dlib", "prepare")
    assert HogDetector(1).box_scale == 1.3 and HogDetector(1, margin=0.5).box_scale == 2.0
