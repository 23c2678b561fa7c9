import itertools
import pathlib
import re

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fsvfm_jax import masking, regions
from fsvfm_jax.errors import ConfigError

GOLDEN = pathlib.Path(__file__).parent / "golden" / "crfrp_masks.npz"

sample_jitted = jax.jit(
    masking.sample_masks,
    static_argnames=("strategy", "mask_ratio", "region_choice", "region_group_size", "region"),
)


def sample(seed, classes, **options):
    """Samples in one compiled call; returns bool masks and indices as NumPy arrays."""
    masks = jax.device_get(sample_jitted(jax.random.key(seed), classes, **options))
    assert masks.mask.dtype == masks.region_mask.dtype == np.uint8
    assert masks.ids_keep.dtype == masks.ids_restore.dtype == np.int32
    return masks._replace(mask=masks.mask == 1, region_mask=masks.region_mask == 1)


def random_classes(seed, batch, num_patches):
    """Returns words of images in which each class is absent, rare, common or nearly everywhere."""
    rng = np.random.default_rng(seed)
    density = rng.choice([0, 0, 0.05, 0.3, 0.95], (batch, 1, regions.NUM_CLASSES))
    shown = rng.random((batch, num_patches, regions.NUM_CLASSES)) < density
    words = (shown << np.arange(regions.NUM_CLASSES)).sum(-1)
    fallback = 1 << rng.integers(0, regions.NUM_CLASSES, (batch, 1))
    return np.where(words == 0, fallback, words).astype(np.uint16)


def separate_groups(batch):
    """Returns 64 patches, each of one group: 8 of every coverable group, then skin."""
    words = [1 << 2, 1 << 5, 1 << 6, 1 << 9, 0b11, 1 << 10, 1 << 1, 1 << 1]
    return np.tile(np.repeat(np.array(words, np.uint16), 8), (batch, 1))


def covered_group(masks):
    """Returns the region of each image drawn from `separate_groups`."""
    by_group = masks.region_mask.reshape(-1, 8, 8)
    np.testing.assert_array_equal(by_group.any(2), by_group.all(2))
    np.testing.assert_array_equal(by_group.all(2).sum(1), 1)
    return by_group.all(2).argmax(1)


# Groups and stored frequencies


def test_membership_of_single_patches():
    table = {
        (2,): {"brows"},
        (3,): {"brows"},
        (4,): {"eyes"},
        (5,): {"eyes"},
        (6,): {"nose"},
        (7,): {"mouth"},
        (8,): {"mouth"},
        (9,): {"mouth"},
        (10,): {"hair"},
        (1,): {"skin"},
        (0,): {"background"},
        (0, 1): {"boundary", "skin", "background"},
        (1, 10): {"boundary", "skin", "hair"},
        (0, 10): {"hair", "background"},
        (1, 4, 6): {"skin", "eyes", "nose"},
    }
    words = np.array([sum(1 << c for c in shown) for shown in table], np.uint16)
    members = np.asarray(masking.group_members(words))
    for patch, expected in enumerate(table.values()):
        assert {g for g, m in zip(regions.GROUPS, members, strict=True) if m[patch]} == expected


def test_region_patches_equal_the_reference():
    golden = np.load(GOLDEN)
    classes = masking.patch_classes(golden["parsing_maps"], int(golden["patch_size"]))
    members = np.asarray(masking.group_members(classes))
    assert members.shape == (7, 8, 196)
    np.testing.assert_array_equal(members.swapaxes(0, 1)[:6], golden["region_patches"])


@pytest.mark.parametrize("region", range(6))
def test_crfr_p_agrees_with_the_references_frequencies(region):
    golden = np.load(GOLDEN)
    draws, samples, mask_ratio = 1000, int(golden["samples"]), float(golden["mask_ratio"])
    classes = masking.patch_classes(golden["parsing_maps"], int(golden["patch_size"]))
    masks = sample(region, np.repeat(classes, draws, axis=0), mask_ratio=mask_ratio, region=region)

    def check(ours, theirs):
        pooled = (ours * draws + theirs * samples) / (draws + samples)
        variance = np.maximum(pooled * (1 - pooled), 0.02) * (1 / samples + 1 / draws)
        np.testing.assert_array_less(np.abs(ours - theirs), 5 * np.sqrt(variance))

    mask, region_mask = (m.reshape(7, draws, 196) for m in (masks.mask, masks.region_mask))
    check(mask.mean(1), golden["mask_prob"][region])
    check(region_mask.mean(1), golden["region_mask_prob"][region])
    patches = golden["region_patches"][region]
    fits = patches.sum(1) < int(196 * mask_ratio)
    expected = np.broadcast_to(patches[fits][:, None], region_mask[fits].shape)
    np.testing.assert_array_equal(region_mask[fits], expected)


# Properties of every mask: 7 cases of 5 examples of 1,500 masks are 52,500 masks.


def whole_before_next(mask, *nested):
    """Returns per image whether each of the nested sets is removed before anything outside it."""
    ok = np.ones(len(mask), bool)
    for wanted in nested:
        ok &= (mask | ~wanted).all(1) | (wanted | ~mask).all(1)
    return ok


def proportional(mask, members, covered, num_removed):
    """Returns per image whether other groups are removed in proportion, up to the repair."""
    rest = num_removed - covered.sum(1, keepdims=True)
    owner = np.where(covered, -1, members.argmax(1))
    owned = owner[:, None] == np.arange(8)[:, None]
    size, removed = owned.sum(2), (owned & mask[:, None]).sum(2)
    exact = size * rest / np.maximum(size.sum(1, keepdims=True), 1)
    repair = np.abs(np.rint(exact).sum(1) - rest[:, 0])
    ok = (np.abs(removed - exact) <= 0.5 + repair[:, None] + 1e-9).all(1)
    ok &= repair <= (size > 0).sum(1) / 2
    # The repair has one direction: it never restores in one group what it removes in another.
    ok &= np.abs(removed - np.rint(exact)).sum(1) == repair
    return ok | (rest[:, 0] <= 0)


def follows_crfr(masks, members, *, strategy, region, num_removed):
    covered = members[:, region]
    ok = whole_before_next(masks.mask, covered)
    ok &= (masks.region_mask == (covered & masks.mask)).all(1)
    if strategy == "crfr_p":
        ok &= proportional(masks.mask, members, covered, num_removed)
    return ok


def follows_fasking(mask, members):
    group = dict(zip(regions.GROUPS, members.swapaxes(0, 1), strict=True))
    components = [group["brows"] | group["eyes"], group["nose"], group["mouth"], group["hair"]]
    ok = np.zeros(len(mask), bool)
    for order in itertools.permutations(components):
        ok |= whole_before_next(mask, *itertools.accumulate(order, np.logical_or))
    return ok


@pytest.mark.parametrize(
    ("strategy", "num_patches", "mask_ratio", "region"),
    [
        ("crfr_p", 196, 0.75, None),  # 224 pixels, patch 16
        ("crfr_p", 256, 0.75, 5),  # 224 pixels, patch 14
        ("crfr_p", 16, 1 / 16, 1),  # the least ratio, and for `random` the greatest
        ("crfr_r", 64, 0.5, 4),
        ("frp", 49, 0.3, None),
        ("fasking_i", 64, 0.5, None),
        ("random", 16, 15 / 16, None),
    ],
)
def test_every_mask_is_one_of_its_strategy(strategy, num_patches, mask_ratio, region):
    num_removed = int(num_patches * mask_ratio)

    @hypothesis.settings(max_examples=5, deadline=None)
    @hypothesis.given(st.integers(0, 2**32 - 1))
    def check(seed):
        classes = random_classes(seed, 1500, num_patches)
        masks = sample(seed, classes, strategy=strategy, mask_ratio=mask_ratio, region=region)
        np.testing.assert_array_equal(masks.mask.sum(1), num_removed)

        tokens = np.pad(masks.ids_keep, ((0, 0), (0, num_removed)), constant_values=-1)
        restored = np.take_along_axis(tokens, masks.ids_restore, axis=1)
        expected = np.where(masks.mask, -1, np.arange(num_patches))
        np.testing.assert_array_equal(restored, expected)

        members = np.asarray(masking.group_members(classes))
        if strategy.startswith("crfr"):
            rule = dict(strategy=strategy, num_removed=num_removed)
            possible = range(6) if region is None else [region]
            fits = [follows_crfr(masks, members, region=g, **rule) for g in possible]
            assert np.any(fits, axis=0).all()
        else:
            assert not masks.region_mask.any()
        if strategy == "frp":
            nothing = np.zeros_like(masks.mask)
            assert proportional(masks.mask, members, nothing, num_removed).all()
        if strategy == "fasking_i":
            assert follows_fasking(masks.mask, members).all()

    check()


def test_the_random_images_have_absent_and_over_full_regions():
    members = np.asarray(masking.group_members(random_classes(0, 1500, 64)))
    covered = members[:, : regions.NUM_COVERABLE].mean(2)
    assert ((covered == 0).mean(0) > 0.05).all()
    assert ((covered >= 0.5).mean(0) > 0.05).all()
    assert (((covered > 0) & (covered < 0.5)).mean(0) > 0.05).all()


# Distributions


def test_random_is_uniform():
    masks = sample(0, separate_groups(4000), strategy="random")
    np.testing.assert_allclose(masks.mask.mean(0), 0.75, atol=5 * np.sqrt(0.75 * 0.25 / 4000))


def test_crfr_r_covers_each_region_equally_often_and_fills_up_uniformly():
    masks = sample(0, separate_groups(12000), strategy="crfr_r", mask_ratio=0.5)
    covered = covered_group(masks)
    counts = np.bincount(covered, minlength=8)
    assert counts[6:].sum() == 0
    assert ((counts[:6] - 2000) ** 2 / 2000).sum() < 30  # chi-square, 5 degrees: p = 1.5e-5
    share = (32 - 8) / (64 - 8)
    tolerance = 5 * np.sqrt(share * (1 - share) / counts[0])
    np.testing.assert_allclose(masks.mask[covered == 0].mean(0)[8:], share, atol=tolerance)


def test_fasking_starts_with_each_component_equally_often():
    # T = 8 is the size of the smaller components: the mask is one of them, or half of the first.
    masks = sample(0, separate_groups(4000), strategy="fasking_i", mask_ratio=8 / 64)
    brows, eyes, nose, mouth, _, hair, *_ = masks.mask.reshape(-1, 8, 8).any(2).T
    components = np.stack([brows | eyes, nose, mouth, hair])
    np.testing.assert_array_equal(components.sum(0), 1)
    np.testing.assert_allclose(components.mean(1), 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 4000))
    assert (brows & eyes).any()


def test_images_of_a_group_share_the_region_only():
    masks = sample(0, separate_groups(650), region_choice="per_group", region_group_size=32)
    covered = covered_group(masks)
    starts = covered[::32]
    np.testing.assert_array_equal(covered, np.repeat(starts, 32)[:650])
    assert len(set(starts)) > 3
    assert len(np.unique(masks.mask, axis=0)) > 640


# A row depends only on the key, its index and its classes


@pytest.mark.parametrize("options", [dict(), dict(region_choice="per_group", region_group_size=5)])
def test_first_rows_equal_a_smaller_batch_sharded_or_not(options):
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    over_devices = NamedSharding(mesh, PartitionSpec("data"))
    key, classes = jax.random.key(3), random_classes(3, 48, 36)
    sharded = jax.device_put(classes, over_devices)
    compiled = sample_jitted.lower(key, sharded, **options).compile()
    assert not re.search(r"\b(all-(gather|reduce|to-all)|collective-)", compiled.as_text())

    large, unsharded, small = (
        compiled(key, sharded),
        sample_jitted(key, classes, **options),
        sample_jitted(key, classes[:11], **options),
    )
    assert large.mask.sharding.is_equivalent_to(over_devices, 2)
    for name, of_large, of_unsharded, of_small in zip(
        masking.Masks._fields, large, unsharded, small, strict=True
    ):
        np.testing.assert_array_equal(of_large, of_unsharded, name)
        np.testing.assert_array_equal(of_large[:11], of_small, name)

    changed = classes[:11].copy()
    changed[0] ^= 0b111
    alone = sample_jitted(key, changed, **options)
    np.testing.assert_array_equal(alone.mask[1:], small.mask[1:])


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mask_ratio=0.05), r"mask_ratio 0\.05 .* N = 16"),
        (dict(mask_ratio=1.0), r"mask_ratio 1\.0 .* N = 16"),
        (dict(mask_ratio=-0.5), r"mask_ratio -0\.5 .* N = 16"),
        (dict(strategy="crfrp"), r"'crfrp'.*random, fasking_i, frp, crfr_r, crfr_p"),
        (dict(region_choice="per_batch"), r"'per_batch'.*per_image, per_group"),
        (dict(region_group_size=0), r"region_group_size is 0"),
        (dict(region=6), r"region 6 .*0 \(brows\).*5 \(hair\)"),
        (dict(region=-1), r"region -1 "),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        masking.sample_masks(jax.random.key(0), np.ones((2, 16), np.uint16), **options)


def test_the_number_removed_is_rounded_down():
    assert masking.num_removed(196, 0.75) == 147
    assert masking.num_removed(49, 0.3) == 14
