"""Computes how much each patch and each facial region of a face adds to a detector's margin.

The margin is logit(fake) - logit(real): positive values make a face look fake. A part of a face is
covered by a plain colour, the mean colour of the pixels that normalise the images.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, UInt8

from fsvfm_jax.data.stats import Stats
from fsvfm_jax.host.progress import progress
from fsvfm_jax.models.adapter import Detector as Model
from fsvfm_jax.models.layers import patchify
from fsvfm_jax.predict.networks import Detector
from fsvfm_jax.pretrain import normalize_images
from fsvfm_jax.scoring import FAKE, REAL
from fsvfm_jax.train_state import Params
from fsvfm_jax.visualize.colours import per_pixel
from fsvfm_jax.visualize.region_shares import REGIONS, regions_of

STEPS = 32  # of the integral over the gradients


class RegionValues(NamedTuple):
    """What the regions of faces add to their margins.

    Attributes:
        drop: How much the margin falls when only this region is covered.
        share: The Shapley value of the region: how much covering it lowers the margin, averaged
            over all orders in which the regions can be covered. The shares of a face add up to the
            difference between its margin and that of the plain colour.
    """

    drop: Float64[np.ndarray, "*batch regions"]
    share: Float64[np.ndarray, "*batch regions"]


def plain_colour(network: Detector) -> UInt8[np.ndarray, " 3"]:
    """Returns the colour that covers parts of a face."""
    return np.uint8(np.round(255 * np.array(network.stats.mean)))


def patch_drops(
    network: Detector, images: UInt8[np.ndarray, "B S S 3"]
) -> Float64[np.ndarray, "B N"]:
    """Returns how much the margin of each face falls when one patch is covered.

    Args:
        network: The detector.
        images: The faces.
    """
    one_patch = np.eye(network.model.num_patches, dtype=bool)
    masks = per_pixel(one_patch, network.image_size)
    drops = []
    for image in progress(images, total=len(images), description="faces, patches covered"):
        margins = _margins(network, itertools.chain([image], _covered(network, image, masks)))
        drops.append(margins[0] - margins[1:])
    return np.stack(drops)


def region_values(
    network: Detector,
    images: UInt8[np.ndarray, "B S S 3"],
    parsing_maps: UInt8[np.ndarray, "B S S"],
) -> RegionValues:
    """Returns what each of REGIONS adds to the margin of each face: arrays [B, regions].

    Args:
        network: The detector.
        images: The faces.
        parsing_maps: LaPa classes.

    Returns:
        The values of a region that a face does not show are 0.
    """
    pairs = zip(images, regions_of(parsing_maps), strict=True)
    pairs = progress(pairs, total=len(images), description="faces, regions covered")
    found = [_of_face(network, image, regions) for image, regions in pairs]
    return RegionValues(*map(np.stack, zip(*found, strict=True)))


def integrated_gradients(
    network: Detector, images: UInt8[np.ndarray, "B S S 3"]
) -> Float64[np.ndarray, "B N"]:
    """Returns the integrated gradients of the margin (Sundararajan et al., 2017), per patch.

    The path goes from the plain colour to the face. The values of a face add up to the difference
    of their margins, up to the error of STEPS steps.

    Args:
        network: The detector.
        images: The faces.
    """
    plain = np.broadcast_to(plain_colour(network), images.shape[1:])
    compute = functools.partial(_integrated, model=network.model, stats=network.stats, steps=STEPS)
    found = [compute(network.params, image[None], plain[None]) for image in images]
    return np.concatenate(jax.device_get(found)).astype(np.float64)


@functools.partial(jax.jit, static_argnames=("model", "stats", "steps"))
def _integrated(
    params: Params,
    images: UInt8[Array, "B S S 3"],
    plain: UInt8[Array, "B S S 3"],
    *,
    model: Model,
    stats: Stats,
    steps: int,
) -> Float[Array, "B N"]:
    start = normalize_images(plain, stats)
    change = normalize_images(images, stats) - start

    def margin(images: jax.Array) -> jax.Array:
        logits = model.apply({"params": params}, images).logits
        return (logits[:, FAKE] - logits[:, REAL]).sum()

    def step(total: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        return total + jax.grad(margin)(start + place * change), None

    places = (jnp.arange(steps) + 0.5) / steps
    total, _ = jax.lax.scan(step, jnp.zeros_like(change), places)
    return patchify(change * total / steps, model.patch_size).sum(axis=-1)


def _of_face(
    network: Detector, image: UInt8[np.ndarray, "S S 3"], regions: UInt8[np.ndarray, "S S"]
) -> RegionValues:
    shown = np.unique(regions)
    subsets = [
        frozenset(subset)
        for size in range(len(shown) + 1)
        for subset in itertools.combinations(shown.tolist(), size)
    ]
    masks = (np.isin(regions, list(subset)) for subset in subsets)
    of_subset = dict(zip(subsets, _margins(network, _covered(network, image, masks)), strict=True))
    drop, share = np.zeros((2, len(REGIONS)))
    nothing, count = of_subset[frozenset()], len(shown)
    for region in shown.tolist():
        drop[region] = nothing - of_subset[frozenset([region])]
        for subset in subsets:
            if region not in subset:
                weight = 1 / (count * math.comb(count - 1, len(subset)))
                share[region] += weight * (of_subset[subset] - of_subset[subset | {region}])
    return RegionValues(drop, share)


def _covered(
    network: Detector,
    image: UInt8[np.ndarray, "S S 3"],
    masks: Iterable[Bool[np.ndarray, "S S"]],
) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
    """Yields the image with the pixels of each mask covered."""
    colour = plain_colour(network)
    return (np.where(mask[..., None], colour, image) for mask in masks)


def _margins(
    network: Detector, views: Iterable[UInt8[np.ndarray, "S S 3"]]
) -> Float64[np.ndarray, " N"]:
    return np.concatenate([*network.margin_batches_of_views(views)])
