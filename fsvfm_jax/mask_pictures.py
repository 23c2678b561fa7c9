"""Draws masks on faces, with a legend of the colours."""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import UInt8

from fsvfm_jax.host.pictures import below_each_other, image_grid, legend_strip, title_strip
from fsvfm_jax.masking import Masks
from fsvfm_jax.regions import CLASSES, PALETTE

REMOVED = np.array((128, 128, 128), np.uint8)
COVERED = np.array((230, 140, 60), np.uint8)
COLUMNS = 6  # of a picture; more would be too wide to read
LEGEND = {
    "removed patch": REMOVED,
    "removed patch of the covered region": COVERED,
    **dict(zip(CLASSES, PALETTE, strict=True)),
}


def show_masks(
    images: UInt8[np.ndarray, "B S S 3"], masks: Masks, patch_size: int
) -> UInt8[np.ndarray, "B S S 3"]:
    """Returns the images with removed patches in grey, or in orange if they belong to the region.

    Args:
        images: The faces.
        masks: One mask per face.
        patch_size: Side of a patch in pixels.
    """
    side = images.shape[1] // patch_size

    def pixels(mask: jax.Array | np.ndarray) -> np.ndarray:
        patches = np.asarray(mask != 0).reshape(-1, side, side, 1)
        return patches.repeat(patch_size, axis=1).repeat(patch_size, axis=2)

    shown = np.where(pixels(masks.mask), REMOVED, images)
    return np.where(pixels(masks.region_mask), COVERED, shown)


def masks_picture(
    images: UInt8[np.ndarray, "B S S 3"],
    parsing_maps: UInt8[np.ndarray, "B S S"],
    masks: Mapping[str, Masks],
    *,
    patch_size: int,
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns a picture with one row per face: the face, its parsing map, and its masks.

    The titles of the columns are above the `image_grid`, a legend of the colours is below it. If
    there are more columns than COLUMNS, the others are in further grids below, of the same faces.

    Args:
        images: The faces.
        parsing_maps: LaPa classes 0 to 10.
        masks: Title of a column and the masks in it.
        patch_size: Side of a patch in pixels.
    """
    shown = {name: show_masks(images, of_name, patch_size) for name, of_name in masks.items()}
    columns = {"face": images, "parsing map": PALETTE[parsing_maps], **shown}
    parts = []
    for start in range(0, len(columns), COLUMNS):
        titles = [*columns][start : start + COLUMNS]
        grid = image_grid([columns[title] for title in titles])
        parts += [title_strip(titles, grid.shape[1]), grid]
    return below_each_other([*parts, legend_strip(LEGEND, parts[0].shape[1])])
