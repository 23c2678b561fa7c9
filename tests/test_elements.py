"""Tests that the row of a face in a batch depends only on the seed and the place of the face."""

import numpy as np
import pytest

from fsvfm_jax.data import elements
from fsvfm_jax.data.augment import crop_and_flip
from fsvfm_jax.data.elements import to_batch_element
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.regions import patch_classes

IMAGE = np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype=np.uint8)
FACE = {"image": IMAGE, "label": 1}
PLAIN = {"size": 32, "mean": (0.5, 0.5, 0.5), "crop": 1, "flip": False} | {
    "rand_magnitude": 0,
    "saturation": 0,
}


def test_pretraining_faces_are_augmented_by_their_place_alone():
    square = IMAGE[:32, :32]
    face = {"image": square, "parsing_map": np.zeros((32, 32), np.uint8)}
    plain = elements.pretraining_element(face, (0, 5), patch_size=8)
    np.testing.assert_array_equal(plain["image"], square)
    augmented = elements.pretraining_element(face, (0, 5), patch_size=8, augment=True)
    expected = to_batch_element(crop_and_flip(face, elements.random_of((0, 5))), 8)
    np.testing.assert_array_equal(augmented["image"], expected["image"])


def test_without_augmentation_a_labelled_face_is_only_resized():
    found = elements.detection_element(FACE, (0, 0), **PLAIN)
    viewed = {**FACE, "readable": True}
    expected = elements.evaluation_element(viewed, (1, 1), size=32, view="resize")
    np.testing.assert_array_equal(found["image"], expected["image"])
    assert found["label"] == 1 and found["label"].dtype == np.int32


@pytest.mark.parametrize(
    "change", [{"crop": 0.2}, {"flip": True}, {"rand_magnitude": 9}, {"saturation": 0.5}]
)
def test_every_augmentation_changes_some_faces_and_the_same_ones_each_time(change):
    options = PLAIN | change
    first = [elements.detection_element(FACE, (0, n), **options)["image"] for n in range(8)]
    again = [elements.detection_element(FACE, (0, n), **options)["image"] for n in range(8)]
    np.testing.assert_array_equal(first, again)
    assert len({image.tobytes() for image in first}) > 1
    assert all(image.shape == (32, 32, 3) for image in first)


def test_what_could_not_be_read_is_black_and_says_so():
    face = {"image": np.zeros((1, 1, 3), np.uint8), "readable": False}
    found = elements.evaluation_element(face, (0, 0), size=16, view="resize")
    assert not found["readable"] and not found["image"].any()
    assert found["image"].shape == (16, 16, 3)


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
