"""Resizing keeps image and map together; a batch element is the image and its packed map."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.data.transforms import resize_face, to_batch_element
from fsvfm_jax.regions import patch_classes


def test_a_face_of_the_right_size_is_left_alone() -> None:
    image, parsing_map = render_face(0, image_size=32)
    face = resize_face(image, parsing_map, image_size=32)
    assert face["image"] is image
    assert face["parsing_map"] is parsing_map


@settings(max_examples=25)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    image_size=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_resizing_invents_no_class(height: int, width: int, image_size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parsing_map = rng.choice(np.array([0, 3, 10], np.uint8), (height, width))
    image = np.full((height, width, 3), (10, 128, 250), np.uint8)
    face = resize_face(image, parsing_map, image_size=image_size)
    assert face["image"].shape == (image_size, image_size, 3)
    assert face["parsing_map"].shape == (image_size, image_size)
    assert set(face["parsing_map"].flat) <= set(parsing_map.flat)
    assert (face["image"] == (10, 128, 250)).all()


def test_resizing_and_mirroring_can_be_exchanged() -> None:
    image, parsing_map = render_face(1, image_size=96)
    face = resize_face(image, parsing_map, image_size=32)
    mirrored = resize_face(image[:, ::-1], parsing_map[:, ::-1], image_size=32)
    np.testing.assert_array_equal(mirrored["image"], face["image"][:, ::-1])
    np.testing.assert_array_equal(mirrored["parsing_map"], face["parsing_map"][:, ::-1])


def test_image_and_map_stay_aligned() -> None:
    parsing_map = np.zeros((90, 60), np.uint8)
    parsing_map[30:60, 20:40] = 6
    image = np.where(parsing_map[..., None] == 6, 255, 0).astype(np.uint8).repeat(3, axis=2)
    face = resize_face(image, parsing_map, image_size=30)
    assert (face["parsing_map"][10:20, 10:20] == 6).all()
    assert (face["parsing_map"] == 6).sum() == 100
    assert ((face["image"][..., 0] > 127) == (face["parsing_map"] == 6)).all()


def test_a_batch_element_holds_one_word_per_patch() -> None:
    image, parsing_map = render_face(2, image_size=32)
    element = to_batch_element({"image": image, "parsing_map": parsing_map}, 8)
    assert set(element) == {"image", "classes"}
    assert element["image"] is image
    assert element["classes"].dtype == np.uint16
    np.testing.assert_array_equal(element["classes"], patch_classes(parsing_map[None], 8)[0])


def test_a_patch_size_that_does_not_divide_is_refused() -> None:
    image, parsing_map = render_face(2, image_size=32)
    with pytest.raises(ValueError, match="32 x 32 pixels does not divide"):
        to_batch_element({"image": image, "parsing_map": parsing_map}, 7)
