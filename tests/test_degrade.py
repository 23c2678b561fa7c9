"""Tests the degradations of faces."""

import pickle

import numpy as np
import pytest

from fsvfm_jax.data.rendered.rendered_sets import RenderedFaces
from fsvfm_jax.predict.degrade import (
    CROP_FACTORS,
    KINDS,
    DegradedFaces,
    crop,
    crop_kind,
    gamma,
    h264,
    noise,
)

ALL = {**KINDS, "crop": crop_kind(1.6)}
STEPS = [(kind.degrade, strength) for kind in ALL.values() for strength in kind.strengths]


@pytest.fixture(scope="module")
def faces():
    return RenderedFaces("cam-o", "test", image_size=48, seed=0, videos=4, frames=1)


def degraded(kind, image, strength, seed=0):
    if kind == "h264":
        pytest.importorskip("av")
    return ALL[kind].degrade(image, strength, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", ALL)
def test_strengths_go_from_weak_to_strong_and_shape_and_type_stay(kind, faces):
    image = faces[0]["image"]
    before = image.copy()
    results = [degraded(kind, image, strength) for strength in ALL[kind].strengths]
    assert all(x.shape == image.shape and x.dtype == np.uint8 for x in results)
    changes = [np.abs(x.astype(int) - image).mean() for x in results]
    assert changes == sorted(changes) and 0 < changes[0] < changes[-1]
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 8, 3), (17, 5, 3)])
def test_small_and_odd_sizes_are_degraded_too(kind, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for strength in ALL[kind].strengths:
        assert degraded(kind, image, strength).shape == shape


@pytest.mark.parametrize("kind", ALL)
def test_the_same_seed_gives_the_same_pixels(kind, faces):
    image, strength = faces[1]["image"], ALL[kind].strengths[-1]
    first, again, other = (degraded(kind, image, strength, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (kind != "noise")


def test_a_crop_of_the_stored_size_is_the_middle():
    image = np.zeros((32, 32, 3), np.uint8)
    image[8:24, 8:24] = 200
    result = crop(image, 1.0, np.random.default_rng(0), stored=2.0)
    assert result[2:-2, 2:-2].min() >= 160 and result[8:-8, 8:-8].min() == 200
    np.testing.assert_array_equal(crop(image, 2.0, np.random.default_rng(0), stored=2.0), image)
    assert crop_kind(1.3).strengths == (1.2, 1.1, 1.0) and crop_kind(2).strengths == CROP_FACTORS


def test_gamma_keeps_black_and_white_and_noise_clips():
    image = np.array([[[0, 128, 255]]], np.uint8)
    rng = np.random.default_rng(0)
    assert gamma(image, 2.5, rng).tolist()[0][0][::2] == [0, 255]
    assert gamma(image, 2.5, rng)[0, 0, 1] < 128 < gamma(image, 0.5, rng)[0, 0, 1]
    white = noise(np.full((40, 40, 3), 255, np.uint8), 32, rng)
    assert white.max() == 255 and white.min() > 50


def test_h264_keeps_the_colours_of_a_plain_picture():
    pytest.importorskip("av")
    image = np.full((31, 45, 3), (200, 90, 40), np.uint8)
    result = h264(image, 23, np.random.default_rng(0))
    assert np.abs(result.astype(int) - image).max() <= 4


def test_a_set_is_first_undegraded_and_no_face_depends_on_its_company(faces):
    pytest.importorskip("av")
    some = DegradedFaces(faces, STEPS, seed=3)
    assert len(some) == 4 * (1 + len(STEPS))
    for index in range(4):
        np.testing.assert_array_equal(some[index]["image"], faces[index]["image"])
    together = some.read(range(len(some)))
    backwards = pickle.loads(pickle.dumps(some)).read(range(len(some))[::-1])[::-1]
    for index, (one, other) in enumerate(zip(together, backwards, strict=True)):
        np.testing.assert_array_equal(one["image"], other["image"])
        assert one["label"] == faces.label(index % 4) and some.name(index) == faces.name(index % 4)


def test_real_and_fake_faces_get_the_same_noise_at_every_strength(faces):
    flat = [{"image": np.full((8, 8, 3), 128, np.uint8), "label": label} for label in (0, 1)]

    class Flat(RenderedFaces):
        def read(self, indices):
            return [flat[index] for index in indices]

    two = Flat("cam-o", "test", image_size=8, seed=0, videos=2, frames=1)
    found = DegradedFaces(two, [(noise, 4.0), (noise, 8.0)]).read(range(6))
    for label in (0, 1):
        weak, strong = (found[2 * step + label]["image"].astype(int) - 128 for step in (1, 2))
        assert np.abs(strong - 2 * weak).max() <= 1  # the same draw, twice as strong
    assert not np.array_equal(found[2]["image"], found[3]["image"])
