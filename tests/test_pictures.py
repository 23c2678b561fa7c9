"""Tests pictures with text: the images are unchanged, and the whole text is shown."""

import io

import numpy as np
import pytest
from PIL import Image

from fsvfm_jax.host import pictures
from fsvfm_jax.host.pictures import LINE_HEIGHT


def test_image_grid_has_a_row_per_sample_and_white_gaps():
    columns = [np.full((2, 3, 3, 3), 10 * (column + 1), np.uint8) for column in range(3)]
    for column in columns:
        column[1] += 1
    grid = pictures.image_grid(columns)
    row = [10, 10, 10, 255, 255, 20, 20, 20, 255, 255, 30, 30, 30]
    below = [11, 11, 11, 255, 255, 21, 21, 21, 255, 255, 31, 31, 31]
    expected = [row] * 3 + [[255] * 13] * 2 + [below] * 3
    assert grid.dtype == np.uint8
    np.testing.assert_array_equal(grid, np.repeat(np.array(expected)[..., None], 3, axis=2))


def test_image_grid_keeps_pixels_in_place():
    images = np.random.default_rng(0).integers(0, 256, (2, 2, 4, 4, 3), dtype=np.uint8)
    grid = pictures.image_grid(list(images))
    np.testing.assert_array_equal(grid[6:10, 6:10], images[1, 1])
    np.testing.assert_array_equal(grid[0:4, 6:10], images[1, 0])


def has_text(strip) -> bool:
    return strip.min() < 128


def test_a_titled_grid_enlarges_every_pixel_and_leaves_it_as_it_is():
    columns = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 8, 3), dtype=np.uint8)
    titled = dict(zip("abc", columns, strict=True))
    picture = pictures.titled_grid(titled, caption="step 7", scale=3)
    assert picture.shape == (2 * LINE_HEIGHT + 2 * 24 + 2, 3 * 24 + 2 * 2, 3)
    caption, titles, grid = np.split(picture, [LINE_HEIGHT, 2 * LINE_HEIGHT])
    assert has_text(caption) and has_text(titles)
    for column in range(3):
        cell = grid[26:, 26 * column : 26 * column + 24]
        np.testing.assert_array_equal(cell, columns[column, 1].repeat(3, axis=0).repeat(3, axis=1))
        assert has_text(titles[:, 26 * column : 26 * column + 24])


@pytest.mark.parametrize("width", [90, 200, 600])
def test_a_caption_takes_the_lines_that_it_needs(width):
    text = "Reconstruction at step 320. " + "The colours of a patch come from the true patch. " * 2
    strip = pictures.caption_strip(text, width)
    lines = np.split(strip, strip.shape[0] // LINE_HEIGHT)
    assert len(lines) >= 900 // width and all(has_text(line) for line in lines)
    assert (strip[:, -2:] == 255).all()  # the text is not cut off


def test_a_legend_has_a_square_of_every_colour_and_its_name():
    colours = {f"region {n}": np.array((10 * n, 0, 200), np.uint8) for n in range(9)}
    for width in (120, 300, 2000):
        legend = pictures.legend_strip(colours, width)
        assert legend.shape[1] == width and legend.shape[0] % LINE_HEIGHT == 0
        for colour in colours.values():
            rows, places = np.nonzero((legend == colour).all(axis=-1))
            assert len(rows) == 12 * 12
            right = legend[rows.min() : rows.max() + 1, places.max() + 1 :][:, :40]
            assert has_text(right)


def test_a_png_holds_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(pictures.encode_png(picture))) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
