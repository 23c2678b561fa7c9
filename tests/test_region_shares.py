"""Tests that values divide among the regions by their pixels, and nothing is lost."""

import numpy as np

from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.regions import CLASSES
from fsvfm_jax.visualize.region_shares import (
    REGIONS,
    region_areas,
    region_parts,
    region_sums,
    regions_of,
)

MAPS = np.stack([render_face(index, image_size=32)[1] for index in range(3)])


def test_every_class_belongs_to_one_region():
    regions = [regions_of(np.full((1, 1, 1), x, np.uint8)).item() for x in range(len(CLASSES))]
    named = dict(zip(CLASSES, (REGIONS[x] for x in regions), strict=True))
    assert named["left_eye"] == named["right_eye"] == "eyes" and named["upper_lip"] == "mouth"
    assert set(named.values()) == set(REGIONS)


def test_sums_of_the_regions_are_those_of_the_patches():
    patches = np.random.default_rng(0).normal(size=(3, 16))
    sums = region_sums(patches, MAPS)
    np.testing.assert_allclose(sums.sum(axis=1), patches.sum(axis=1))
    np.testing.assert_allclose(region_parts(MAPS, 16).sum(axis=1), 1)


def test_equal_values_divide_as_the_areas():
    sums = region_sums(np.full((3, 16), 1 / 16), MAPS)
    np.testing.assert_allclose(sums, region_areas(MAPS))
    background = (MAPS == 0).mean(axis=(1, 2))
    np.testing.assert_allclose(sums[:, REGIONS.index("background")], background)
