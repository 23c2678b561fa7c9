"""Tests that colours stand for values, and that rows keep every pixel."""

import numpy as np

from fsvfm_jax.host.pictures import LINE_HEIGHT
from fsvfm_jax.visualize import colours


def test_the_ends_of_a_scale_have_its_first_and_last_colour():
    values = np.array([[[-9.0, -1.0], [3.0, 99.0]]])
    shown = colours.coloured(values, (-1.0, 3.0), colours.SIGNED)
    scale = colours.colours_of(colours.SIGNED)
    np.testing.assert_array_equal(shown, scale[[[[0, 0], [255, 255]]]])


def test_the_colour_grows_with_the_value_and_zero_is_nearly_white():
    values = np.linspace(0, 1, 50).reshape(1, 5, 10)
    heat = colours.coloured(values, (0.0, 1.0), colours.HEAT).astype(int).sum(axis=-1).ravel()
    assert (np.diff(heat) > 0).all()
    middle = colours.coloured(np.zeros((1, 1, 1)), (-1.0, 1.0), colours.SIGNED)
    assert middle.min() > 240


def test_a_value_of_a_patch_is_that_of_its_pixels():
    patches = np.arange(4)[None]
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    np.testing.assert_array_equal(colours.per_pixel(patches, 4), [expected])


def test_borders_are_drawn_between_regions_only():
    regions = np.zeros((1, 4, 4), np.uint8)
    regions[0, :, 2:] = 1
    images = np.full((1, 4, 4, 3), 7, np.uint8)
    shown = colours.with_borders(images, regions, (255, 0, 0))
    np.testing.assert_array_equal(shown[0, :, 1], [[255, 0, 0]] * 4)
    np.testing.assert_array_equal(np.delete(shown, 1, axis=2), np.delete(images, 1, axis=2))


def test_each_face_has_a_caption_and_its_pixels():
    images = np.random.default_rng(0).integers(0, 256, (2, 30, 30, 3), dtype=np.uint8)
    rows = colours.face_rows({"a": images, "b": images[::-1]}, ["first", "second"])
    assert rows.shape == (3 * LINE_HEIGHT + 60, 62, 3)
    second = rows[3 * LINE_HEIGHT + 30 :]
    np.testing.assert_array_equal(second[:, :30], images[1])
    np.testing.assert_array_equal(second[:, 32:], images[0])
    assert rows[2 * LINE_HEIGHT + 30 : 3 * LINE_HEIGHT + 30].min() < 128


def test_a_signed_map_has_a_scale_of_its_own_that_is_reported():
    maps = np.array([[[0.0, 2.0], [-1.0, 0.0]], [[0.0, 0.02], [0.0, -0.02]]])
    shown, notes = colours.signed_maps(maps)
    scale = colours.colours_of(colours.SIGNED)
    np.testing.assert_array_equal(shown[0, 0, 1], scale[-1])
    np.testing.assert_array_equal(shown[1, :, 1], scale[[-1, 0]])
    assert notes == ["full colour: ±2", "full colour: ±0.02"]


def test_text_below_an_image_is_below_it():
    images = np.zeros((2, 200, 200, 3), np.uint8)
    options = {"below": {"b": ["one", "two"]}}
    rows = colours.face_rows({"a": images, "b": images}, ["first", "second"], **options)
    assert rows.shape[0] == LINE_HEIGHT + 2 * (200 + 2 * LINE_HEIGHT)
    assert (rows[-LINE_HEIGHT:, :200] == 255).all() and rows[-LINE_HEIGHT:, 202:].min() < 128
