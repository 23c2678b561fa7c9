"""Divides the pixels of a face into regions, and computes how values divide among them."""

import math

import numpy as np
from jaxtyping import Float, UInt8

from fsvfm_jax.regions import GROUP_CLASSES, NUM_CLASSES

# The groups of masks without "boundary", which shares its pixels with others.
REGIONS = tuple(GROUP_CLASSES)
_REGION_OF_CLASS = np.zeros(NUM_CLASSES, np.uint8)
for _place, _classes in enumerate(GROUP_CLASSES.values()):
    _REGION_OF_CLASS[list(_classes)] = _place


def regions_of(parsing_maps: UInt8[np.ndarray, "B S S"]) -> UInt8[np.ndarray, "B S S"]:
    """Returns the index into REGIONS of each pixel."""
    return _REGION_OF_CLASS[parsing_maps]


def region_sums(
    patches: Float[np.ndarray, "B N"], parsing_maps: UInt8[np.ndarray, "B S S"]
) -> Float[np.ndarray, "B regions"]:
    """Returns the sum of the values of patches in each region.

    The value of a patch is divided evenly among its pixels, so that the sums of a face add up to
    that of its patches.

    Args:
        patches: A value for each patch.
        parsing_maps: LaPa classes.
    """
    return np.einsum("bn,brn->br", patches, region_parts(parsing_maps, patches.shape[1]))


def region_areas(parsing_maps: UInt8[np.ndarray, "B S S"]) -> Float[np.ndarray, "B regions"]:
    """Returns the share of the pixels of each region."""
    return region_parts(parsing_maps, 1)[..., 0]


def region_parts(
    parsing_maps: UInt8[np.ndarray, "B S S"], num_patches: int
) -> Float[np.ndarray, "B regions N"]:
    """Returns the part of each patch that belongs to each region; the parts of a patch sum to 1."""
    side = math.isqrt(num_patches)
    regions = regions_of(parsing_maps)
    size = regions.shape[1] // side
    cells = regions.reshape(-1, side, size, side, size)
    parts = [(cells == place).mean(axis=(2, 4)) for place in range(len(REGIONS))]
    return np.stack(parts, axis=1).reshape(len(regions), len(REGIONS), num_patches)
