"""Tests that covering parts has the effect that PyTorch finds, and that shares add up."""

import functools
import itertools

import numpy as np
import pytest
import random_weights
import torch_vit
from scipy import stats as statistics

from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.predict.networks import load
from fsvfm_jax.visualize import explanations
from fsvfm_jax.visualize.explanations import (
    integrated_gradients,
    patch_drops,
    plain_colour,
    region_values,
)
from fsvfm_jax.visualize.region_shares import REGIONS, regions_of

HEADS, PATCH, SIZE = (random_weights.TINY[x] for x in ("num_heads", "patch_size", "image_size"))


@pytest.fixture(scope="module")
def network(detector_folder):
    return load(detector_folder)


@pytest.fixture(scope="module")
def faces():
    pairs = [render_face(index, image_size=SIZE) for index in range(2)]
    return tuple(np.stack(part) for part in zip(*pairs, strict=True))


@pytest.fixture(scope="module")
def values(network, faces):
    return region_values(network, *faces)


def torch_margins(folder, network, images) -> np.ndarray:
    normalized = (np.float32(images) / 255 - np.float32(network.stats.mean)) / np.float32(
        network.stats.std
    )
    real, fake = torch_vit.logits(folder, normalized, num_heads=HEADS).T  # labels of the folder
    return fake - real


def test_drops_of_patches_are_those_of_plain_pytorch(network, detector_folder, faces):
    images, _ = faces
    drops, side = patch_drops(network, images), SIZE // PATCH
    for image, found in zip(images, drops, strict=True):
        covered = np.repeat(image[None], 1 + side**2, axis=0)
        for place in range(side**2):
            top, left = (PATCH * x for x in divmod(place, side))
            covered[1 + place, top : top + PATCH, left : left + PATCH] = plain_colour(network)
        margins = torch_margins(detector_folder, network, covered)
        wanted = margins[0] - margins[1:]
        assert wanted.std() > 1e-3
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
        assert statistics.spearmanr(found, wanted).statistic > 0.99


def test_drops_of_regions_are_those_of_plain_pytorch(network, detector_folder, faces, values):
    images, maps = faces
    regions, colour = regions_of(maps), plain_colour(network)
    for row, image in enumerate(images):
        masks = [regions[row] == place for place in range(len(REGIONS))]
        covered = [np.where(mask[..., None], colour, image) for mask in masks]
        margins = torch_margins(detector_folder, network, np.stack([image, *covered]))
        wanted = margins[0] - margins[1:]
        np.testing.assert_allclose(values.drop[row], wanted, rtol=0, atol=1e-5)


def test_shares_are_the_mean_over_all_orders_of_covering(network, faces):
    """Computes the Shapley values of three regions from their definition."""
    image = faces[0][0]
    regions = np.zeros((SIZE, SIZE), np.uint8)
    regions[20:40], regions[40:] = 3, 5
    wanted = np.zeros(len(REGIONS))
    orders = list(itertools.permutations([0, 3, 5]))

    @functools.cache
    def margin(covered: frozenset) -> float:
        mask = np.isin(regions, [*covered])[..., None]
        return network.margins(np.where(mask, plain_colour(network), image))[0]

    for order in orders:
        for count, region in enumerate(order):
            before = frozenset(order[:count])
            wanted[region] += (margin(before) - margin(before | {region})) / len(orders)
    found = explanations._of_face(network, image, regions)
    np.testing.assert_allclose(found.share, wanted, rtol=0, atol=1e-5)


def test_shares_and_gradients_add_up_to_the_margin(network, faces, values):
    images, _ = faces
    plain = np.broadcast_to(plain_colour(network), images.shape)
    wanted = network.margins(images) - network.margins(plain)
    np.testing.assert_allclose(values.share.sum(axis=1), wanted, rtol=0, atol=1e-5)
    gradients = integrated_gradients(network, images)
    np.testing.assert_allclose(gradients.sum(axis=1), wanted, rtol=0.05, atol=0.01)


def test_a_region_that_is_not_there_has_no_value(network, faces):
    images, maps = faces
    without = np.where(regions_of(maps) == REGIONS.index("nose"), 1, maps).astype(np.uint8)
    found = region_values(network, images, without)
    assert (found.drop[:, REGIONS.index("nose")] == 0).all()
    assert (found.share[:, REGIONS.index("nose")] == 0).all()
