"""Tests that forgeries change what they describe and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsvfm_jax.data.rendered.forgeries import (
    Subject,
    blended_swap,
    face_pixels,
    local_texture,
    print_attack,
    region_warp,
    replay_attack,
    upsampling_pattern,
)
from fsvfm_jax.data.rendered.synthetic import render_face

OF_THE_FACE = (blended_swap, region_warp, local_texture, upsampling_pattern)
OF_THE_PICTURE = (print_attack, replay_attack)
FORGERIES = OF_THE_FACE + OF_THE_PICTURE


def subject(index, *, image_size=64):
    return Subject(*render_face(index, image_size=image_size))


def forge(forgery, index, *, image_size=64, strength=1.0):
    return forgery(
        subject(index, image_size=image_size),
        lambda: subject(index + 1000, image_size=image_size),
        np.random.default_rng(index),
        strength=strength,
    )


@pytest.mark.parametrize("forgery", FORGERIES)
@settings(max_examples=10)
@given(index=st.integers(0, 2**40), image_size=st.sampled_from([8, 33, 64]))
def test_a_forgery_of_any_face_has_its_size_and_no_strength_leaves_it_alone(
    forgery, index, image_size
):
    untouched = forge(forgery, index, image_size=image_size, strength=0.0)
    np.testing.assert_array_equal(untouched, subject(index, image_size=image_size).image)
    assert forge(forgery, index, image_size=image_size).shape == (image_size, image_size, 3)


@pytest.mark.parametrize("forgery", OF_THE_FACE)
def test_a_deepfake_changes_much_of_the_face_and_nothing_else(forgery):
    for index in range(30):
        face = subject(index)
        inside = face_pixels(face.parsing_map)
        changed = (forge(forgery, index) != face.image).any(-1)
        assert not changed[~inside].any()
        assert changed[inside].mean() > 0.2


@pytest.mark.parametrize("forgery", OF_THE_PICTURE)
def test_a_spoof_changes_face_and_surroundings(forgery):
    for index in range(10):
        face = subject(index)
        inside = face_pixels(face.parsing_map)
        changed = (forge(forgery, index) != face.image).any(-1)
        assert changed[inside].mean() > 0.8
        assert changed[~inside].mean() > 0.8


@pytest.mark.parametrize("forgery", OF_THE_FACE)
def test_a_deepfake_survives_a_map_without_a_face(forgery):
    image = render_face(0, image_size=32)[0]
    faceless = Subject(image, np.zeros((32, 32), np.uint8))
    forged = forgery(faceless, lambda: faceless, np.random.default_rng(0), strength=1.0)
    np.testing.assert_array_equal(forged, image)


def test_only_a_swap_asks_for_a_donor():
    def refuse():
        raise AssertionError

    for forgery in set(FORGERIES) - {blended_swap}:
        forgery(subject(0), refuse, np.random.default_rng(0), strength=1.0)
