"""Draws masks on the device from the facial regions (the papers' CRFR-P and four others).

Every strategy works in the same way: each patch of an image gets a small integer *tier*, the
patches are sorted by (tier, random bits), and the first T patches of that order are removed. So
every mask removes exactly T patches, for every face, and all shapes are static.

The private functions below `sample_masks` draw the mask of one image. `sample_masks` maps them over
the batch with one key per row, so the mask of a row depends only on the key, the index of the row
and its classes. It does not depend on the number of rows or on the sharding.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer, PRNGKeyArray, UInt16

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.regions import GROUP_CLASSES, GROUPS, NUM_COVERABLE, patch_classes

__all__ = [
    "REGION_CHOICES",
    "STRATEGIES",
    "Masks",
    "group_members",
    "num_removed",
    "patch_classes",
    "sample_masks",
]

STRATEGIES = ("random", "fasking_i", "frp", "crfr_r", "crfr_p")
REGION_CHOICES = ("per_image", "per_group")


class Masks(NamedTuple):
    """The masks of a batch, which remove T of the N patches of each image.

    `sample_masks` returns uint8 masks and int32 indices. Functions that take `Masks` also accept
    bool and float masks.
    """

    mask: jax.Array | np.ndarray  # [B, N], 1 where a patch is removed
    region_mask: jax.Array | np.ndarray  # [B, N], 1 where a patch of the region is removed
    ids_keep: jax.Array | np.ndarray  # [B, N-T], indices of the kept patches, in random order
    ids_restore: jax.Array | np.ndarray  # [B, N], concat(kept, T mask tokens)[ids_restore] = image


def group_members(
    classes: UInt16[Array | np.ndarray, "*batch N"],
) -> Bool[Array, "*batch G N"]:
    """Returns, for each group of `regions.GROUPS` in order, which patches belong to it.

    Args:
        classes: The output of `patch_classes` for one image or a batch: for each patch, an integer
            whose bits are the classes in it. A patch belongs to every group that has one of these
            classes.
    """
    members = {
        group: (classes & np.uint16(sum(1 << c for c in wanted))) != 0
        for group, wanted in GROUP_CLASSES.items()
    }
    members["boundary"] = members["skin"] & (members["hair"] | members["background"])
    return jnp.stack([members[group] for group in GROUPS], axis=-2)


@jax.named_scope("masks")
def sample_masks(
    key: PRNGKeyArray,
    classes: UInt16[Array | np.ndarray, "B N"],
    *,
    strategy: str = "crfr_p",
    mask_ratio: float | int = 0.75,
    region_choice: str = "per_image",
    region_group_size: int = 256,
    region: int | None = None,
) -> Masks:
    """Draws masks that remove T = int(N * mask_ratio) patches of every image.

    All arguments except `key` and `classes` are static under `jit`. `classes` may be sharded over
    B.

    Args:
        key: Random key of this batch. With the same key, the first n rows equal the masks of a
            batch of n images.
        classes: The output of `patch_classes`.
        strategy: One of `STRATEGIES`. `crfr_p` covers one region g* fully and removes the same
            proportion of every other group. `crfr_r` covers g* and removes random patches of the
            rest. `frp` removes the same proportion of every group, `fasking_i` removes whole facial
            components in random order, and `random` is the masking of MAE. `frp`, `fasking_i` and
            `random` cover no region: their region mask is all 0.
        mask_ratio: Share of the patches to remove.
        region_choice: `per_image` draws one g* per image, `per_group` one per group of consecutive
            images.
        region_group_size: Number of images that share a region with `per_group`.
        region: Index of g* in `regions.GROUPS`; None draws g* at random.

    Returns:
        The masks. If g* has T patches or more, the mask and the region mask both contain the same T
        patches of g*.

    Raises:
        ConfigError: A name is unknown, the region cannot be covered, a group of images is empty, or
            the ratio removes no patch or all patches.
    """
    batch, num_patches = classes.shape
    _check(strategy, region_choice, region_group_size, region)
    region_key, row_key = jax.random.split(key)
    fold_in_each = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    rows = jnp.arange(batch)
    if region is None:
        images_per_region = region_group_size if region_choice == "per_group" else 1
        keys = fold_in_each(region_key, rows // images_per_region)
        # The probabilities differ by at most 4 parts in 2^32. `randint` would compile more slowly.
        regions = jax.vmap(jax.random.bits)(keys) % NUM_COVERABLE
    else:
        regions = jnp.full_like(rows, region)
    sample = functools.partial(
        _sample_one, strategy=strategy, num_removed=num_removed(num_patches, mask_ratio)
    )
    return jax.vmap(sample)(fold_in_each(row_key, rows), jnp.asarray(classes), regions)


def num_removed(num_patches: int, mask_ratio: float | int) -> int:
    """Returns T = int(N * mask_ratio), the number of patches to remove.

    Args:
        num_patches: N.
        mask_ratio: Share of the patches to remove.

    Raises:
        ConfigError: The ratio removes no patch or all patches.
    """
    removed = int(num_patches * mask_ratio) if math.isfinite(mask_ratio) else 0
    if not 1 <= removed <= num_patches - 1:
        raise ConfigError(
            f"mask_ratio {mask_ratio} removes {removed} of N = {num_patches} patches; choose one"
            " that removes at least one patch and keeps at least one"
        )
    return removed


def _check(strategy: str, region_choice: str, region_group_size: int, region: int | None) -> None:
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    if region_choice not in REGION_CHOICES:
        raise ConfigError(
            f"unknown region_choice {region_choice!r}; choose one of {', '.join(REGION_CHOICES)}"
        )
    if region_group_size < 1:
        raise ConfigError(f"region_group_size is {region_group_size}; it must be at least 1")
    if region is not None and region not in range(NUM_COVERABLE):
        allowed = ", ".join(f"{i} ({group})" for i, group in enumerate(GROUPS[:NUM_COVERABLE]))
        raise ConfigError(f"region {region} cannot be covered; choose one of {allowed}")


def _sample_one(
    key: PRNGKeyArray,
    classes: UInt16[Array, " N"],
    region: Integer[Array, ""],
    *,
    strategy: str,
    num_removed: int,
) -> Masks:
    tier_key, order_key = jax.random.split(key)
    members = group_members(classes)
    covers = strategy in ("crfr_r", "crfr_p")
    covered = members[region] if covers else jnp.zeros(classes.shape, bool)
    match strategy:
        case "random" | "crfr_r":
            tier = jnp.zeros(classes.shape, jnp.int32)
        case "frp" | "crfr_p":
            tier = _proportional_tier(tier_key, members, covered, num_removed=num_removed)
        case "fasking_i":
            tier = _component_tier(tier_key, members)
    order = _random_order(order_key, jnp.where(covered, 0, 1 + tier))
    num_kept = classes.size - num_removed
    kept_first = jnp.roll(order, num_kept)
    ids_restore = jnp.argsort(kept_first)
    mask = ids_restore >= num_kept
    return Masks(
        mask=mask.astype(jnp.uint8),
        region_mask=(covered & mask).astype(jnp.uint8),
        ids_keep=kept_first[:num_kept],
        ids_restore=ids_restore,
    )


def _random_order(key: PRNGKeyArray, tier: Int[Array, " N"]) -> Int[Array, " N"]:
    """Returns the patches sorted by tier (0 to 15), in random order within a tier."""
    # Sorting by one 32-bit key is two to four times faster than by two keys. Two patches of an
    # image almost never get the same 28 random bits.
    bits = jax.random.bits(key, tier.shape, jnp.uint32)
    return jnp.argsort((tier.astype(jnp.uint32) << 28) | (bits >> 4))


def _proportional_tier(
    key: PRNGKeyArray,
    members: Bool[Array, "G N"],
    covered: Bool[Array, " N"],
    *,
    num_removed: int,
) -> Int[Array, " N"]:
    """Returns tier 0 for the same rounded proportion of every group, and 1 for other patches.

    Because of the rounding, the number of zeros may differ from the number of patches to remove.
    The caller removes exactly T patches in the order of the tiers. So some patches of tier 0 are
    kept, or some patches of tier 1 are removed, uniformly at random.
    """
    num_groups, num_patches = members.shape
    # A patch belongs to the first of its groups; the patches of the region get a separate owner.
    owner = jnp.where(covered, num_groups, jnp.argmax(members, axis=0))
    size = jnp.sum(owner[None] == jnp.arange(num_groups + 1)[:, None], axis=1)
    num_covered = size[num_groups]
    # Integers represent halves exactly. The two maxima matter only if the region has more than T
    # patches.
    quota = _divide_half_to_even(
        size * jnp.maximum(num_removed - num_covered, 0),
        jnp.maximum(num_patches - num_covered, 1),
    )
    place = jnp.argsort(_random_order(key, owner))
    first_place = jnp.cumsum(size) - size
    return (place >= (first_place + quota)[owner]).astype(jnp.int32)


def _divide_half_to_even(a: Int[Array, " G"], b: Int[Array, ""]) -> Int[Array, " G"]:
    quotient, remainder = jnp.divmod(a, b)
    return quotient + (2 * remainder + quotient % 2 > b)


def _component_tier(key: PRNGKeyArray, members: Bool[Array, "G N"]) -> Int[Array, " N"]:
    """Returns, for each patch, the smallest place of its components in a random order.

    A patch of no component gets the last place. This is MARLIN's facial masking, applied to images.
    The brows and the eyes are one component.
    """
    group = dict(zip(GROUPS, members, strict=True))
    components = jnp.stack(
        [group["brows"] | group["eyes"], group["nose"], group["mouth"], group["hair"]]
    )
    place = jax.random.permutation(key, len(components))
    return jnp.min(jnp.where(components, place[:, None], len(components)), axis=0)
