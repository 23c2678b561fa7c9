"""Tests that a picture shows the exact masks, with titles and a legend."""

import numpy as np
import pytest

from fsvfm_jax import mask_pictures
from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.host.pictures import LINE_HEIGHT
from fsvfm_jax.mask_pictures import masks_picture, show_masks
from fsvfm_jax.masking import Masks
from fsvfm_jax.regions import CLASSES, PALETTE

SIZE, PATCH = 64, 8
NUM_PATCHES = (SIZE // PATCH) ** 2


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    """Returns images and parsing maps of three synthetic faces."""
    source = SyntheticFaces(3, image_size=SIZE, seed=0)
    elements = [source[i] for i in range(len(source))]
    return tuple(np.stack([e[name] for e in elements]) for name in ("image", "parsing_map"))


def random_masks(seed: int, batch: int) -> Masks:
    """Returns any masks; the region is a part of the removed patches."""
    rng = np.random.default_rng(seed)
    mask = rng.random((batch, NUM_PATCHES)) < 0.75
    region_mask = mask & (rng.random(mask.shape) < 0.3)
    return Masks(mask.astype(np.uint8), region_mask.astype(np.uint8), *np.zeros((2, batch, 1)))


def patch(images: np.ndarray, index: int) -> np.ndarray:
    """Returns the pixels of a patch, counted row by row."""
    down, right = divmod(index, SIZE // PATCH)
    return images[down * PATCH : (down + 1) * PATCH, right * PATCH : (right + 1) * PATCH]


def test_removed_patches_are_those_of_the_masks():
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    drawn = random_masks(1, batch=3)
    shown = show_masks(images, drawn, PATCH)
    for face in range(3):
        for index in range(NUM_PATCHES):
            wanted = patch(images[face], index)
            if drawn.region_mask[face, index]:
                wanted = np.broadcast_to(mask_pictures.COVERED, wanted.shape)
            elif drawn.mask[face, index]:
                wanted = np.broadcast_to(mask_pictures.REMOVED, wanted.shape)
            np.testing.assert_array_equal(patch(shown[face], index), wanted)


def test_the_picture_has_a_row_per_face_and_titled_columns(faces):
    images, maps = faces
    drawn = {"one": random_masks(1, batch=3), "other": random_masks(2, batch=3)}
    picture = masks_picture(images, maps, drawn, patch_size=PATCH)
    pitch = SIZE + 2
    top = 2 * LINE_HEIGHT  # "parsing map" is two lines at this width.
    bottom = top + 3 * pitch - 2
    assert picture.shape[1:] == (4 * pitch - 2, 3) and picture.shape[0] > bottom
    shown = [show_masks(images, of_name, PATCH) for of_name in drawn.values()]
    columns = [images, PALETTE[maps], *shown]
    titles, grid, legend = np.split(picture, [top, bottom])
    for column, wanted in enumerate(columns):
        left = column * pitch
        assert titles[:, left : left + SIZE].min() < 128
        for row in range(3):
            cell = grid[row * pitch : row * pitch + SIZE, left : left + SIZE]
            np.testing.assert_array_equal(cell, wanted[row])
    for colour in (*PALETTE, mask_pictures.REMOVED, mask_pictures.COVERED):
        assert (legend == colour).all(axis=-1).sum() >= 100
    assert list(mask_pictures.LEGEND)[2:] == list(CLASSES)


def test_every_class_has_a_colour_of_its_own():
    assert PALETTE.shape == (len(CLASSES), 3)
    assert len(np.unique(PALETTE, axis=0)) == len(CLASSES)


def test_more_columns_than_fit_are_in_a_grid_below(faces):
    images, maps = (part[:2] for part in faces)
    drawn = {f"{number}": random_masks(number, batch=2) for number in range(6)}
    picture = masks_picture(images, maps, drawn, patch_size=PATCH)
    pitch = SIZE + 2
    top = 2 * LINE_HEIGHT + 2 * pitch - 2 + LINE_HEIGHT
    assert picture.shape[1] == 6 * pitch - 2
    shown = show_masks(images, drawn["5"], PATCH)
    for row in range(2):
        cell = picture[top + row * pitch :, pitch:][:SIZE, :SIZE]
        np.testing.assert_array_equal(cell, shown[row])
