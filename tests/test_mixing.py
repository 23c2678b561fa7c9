"""Tests mixing and erasing: NumPy and timm, the distributions, one device and eight."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import need

from fsvfm_jax import mixing
from fsvfm_jax.devices import sharding
from fsvfm_jax.errors import ConfigError

SIZE = 16
PAPER = {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1}
DRAWS = 4000

mix = jax.jit(mixing.mix, static_argnames=("mixup", "cutmix", "smoothing", "num_classes"))
erase = jax.jit(mixing.erase, static_argnames="probability")


def batch(rows, height=SIZE, width=SIZE):
    images = jax.random.normal(jax.random.key(7), (rows, height, width, 3))
    return images, jnp.arange(rows) % 2


@pytest.fixture(scope="module")
def pairs():
    """Mixes two rows, 0 and 1 everywhere, often; returns row 0's share in pixels and target."""
    images = jnp.stack([jnp.zeros((SIZE, SIZE, 3)), jnp.ones((SIZE, SIZE, 3))])

    @partial(jax.jit, static_argnames=("mixup", "cutmix"))
    def draw(keys, **alphas):
        mixed = jax.vmap(lambda key: mixing.mix(key, images, jnp.arange(2), smoothing=0, **alphas))(
            keys
        )
        return 1 - mixed.images[:, 0, :, :, 0], mixed.targets[:, 0, 0]

    def pairs(**alphas):
        keys = jax.random.split(jax.random.key(1), DRAWS)
        return tuple(map(np.asarray, draw(keys, **alphas)))

    return pairs


# Formulas


@pytest.mark.parametrize("alphas", [{"mixup": 0.8, "cutmix": 0}, {"mixup": 0, "cutmix": 1.0}])
def test_images_and_targets_are_mixed_by_the_formula(alphas):
    images, targets = map(np.asarray, batch(6, 12, 20))
    smooth = np.where(np.arange(2) == targets[:, None], 0.95, 0.05)
    for seed in range(4):
        mixed = mix(jax.random.key(seed), images, targets, **alphas, smoothing=0.1)
        assert mixed.images.dtype == mixed.targets.dtype == np.float32
        # Row 0 is of class 0 and its partner of class 1, so that the target shows lambda.
        lam = (float(mixed.targets[0, 0] - mixed.targets[0, 1]) / 0.9 + 1) / 2
        expected = lam * smooth + (1 - lam) * smooth[::-1]
        np.testing.assert_allclose(mixed.targets, expected, atol=1e-6)
        if alphas["cutmix"]:
            cut = np.any(np.asarray(mixed.images) != images, (0, 3))
            assert lam == pytest.approx(1 - cut.mean(), abs=1e-6)
            kept = 1 - cut[:, :, None]
        else:
            kept = lam
        expected = kept * images + (1 - kept) * images[::-1]
        np.testing.assert_allclose(mixed.images, expected, atol=2e-6)


def test_the_middle_of_an_odd_batch_is_left_as_it_is():
    images, targets = batch(5)
    for seed in range(4):
        mixed = mix(jax.random.key(seed), images, targets, **PAPER)
        np.testing.assert_allclose(mixed.images[2], images[2], atol=1e-6)
        np.testing.assert_allclose(mixed.targets[2], [0.95, 0.05], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (1, 30)])
def test_the_box_of_cutmix_is_the_papers(height, width):
    rng = np.random.default_rng(0)
    lams = np.float32([0, 1, *rng.random(498)])
    centres = rng.integers((height, width), size=(500, 2))
    centres[:4] = [(0, 0), (0, 0), (height - 1, width - 1), (0, width - 1)]
    cut_box = partial(mixing.cut_box, height=height, width=width)
    found = jax.jit(jax.vmap(cut_box))(lams, jnp.asarray(centres))
    for box, lam, (row, column) in zip(np.asarray(found), lams, centres, strict=True):
        cut_height, cut_width = (int(side * np.sqrt(1 - lam)) for side in (height, width))
        top, left = row - cut_height // 2, column - cut_width // 2
        expected = np.zeros((height, width), bool)
        expected[max(top, 0) : top + cut_height, max(left, 0) : left + cut_width] = True
        np.testing.assert_array_equal(box, expected)


def test_targets_are_timms():
    torch, timm = need("torch"), need("timm.data.mixup")
    images, _ = batch(6)
    targets = jnp.array([0, 4, 2, 3, 1, 1])
    for seed in range(4):
        mixed = mix(jax.random.key(seed), images, targets, **PAPER, num_classes=5)
        # Rows 0 and 5 are of classes 0 and 1: lambda is the excess of class 0 over an absent class.
        lam = float(mixed.targets[0, 0] - mixed.targets[0, 4]) / 0.9
        expected = timm.mixup_target(torch.tensor(targets.tolist()), 5, lam, 0.1)
        np.testing.assert_allclose(mixed.targets, expected, atol=1e-6)
        np.testing.assert_allclose(mixed.targets.sum(1), 1, atol=1e-6)


def test_nothing_is_mixed_when_both_are_off():
    images, targets = batch(6)
    mixed = mix(jax.random.key(0), images, targets, mixup=0, cutmix=0, smoothing=0.2)
    np.testing.assert_array_equal(mixed.images, images)
    expected = np.where(np.arange(2) == np.asarray(targets)[:, None], 0.9, 0.1)
    np.testing.assert_allclose(mixed.targets, expected, atol=1e-7)
    plain = mix(jax.random.key(0), images, targets, mixup=0, cutmix=0, smoothing=0)
    np.testing.assert_array_equal(plain.targets, np.eye(2)[np.asarray(targets)])


# Draws of mixing


def test_half_of_the_batches_are_mixed_up_and_half_are_cut(pairs):
    kept, share = pairs(mixup=0.8, cutmix=1.0)
    cut = ((kept == 0) | (kept == 1)).all((1, 2))
    assert abs(cut.mean() - 0.5) < 5 * np.sqrt(0.25 / DRAWS)
    np.testing.assert_allclose(kept.mean((1, 2)), share, atol=2e-6)
    # Lambda's variance is 1 / (4 (2 alpha + 1)); that of 1 - area is less, as boxes are cut off.
    assert share[~cut].var() == pytest.approx(1 / (4 * 2.6), rel=0.1)


@pytest.mark.parametrize("alpha", [0.8, 4.0])
def test_lambda_of_mixup_is_of_the_beta_distribution(pairs, alpha):
    kept, share = pairs(mixup=alpha, cutmix=0)
    np.testing.assert_allclose(np.ptp(kept, axis=(1, 2)), 0, atol=1e-6)
    places = [0.1, 0.25, 0.5, 0.75, 0.9]
    expected = np.quantile(np.random.default_rng(0).beta(alpha, alpha, 200_000), places)
    # Shares below each quantile are within 5 deviations.
    found = (share[:, None] < expected).mean(0)
    np.testing.assert_array_less(np.abs(found - places), 5 * np.sqrt(0.25 / DRAWS))


def test_boxes_of_cutmix_lie_everywhere_and_their_area_is_the_share(pairs):
    kept, share = pairs(mixup=0, cutmix=1.0)
    cut = kept == 0
    assert (cut | (kept == 1)).all()
    np.testing.assert_allclose(1 - cut.mean((1, 2)), share, atol=1e-6)
    rows, columns = cut.any(2), cut.any(1)
    np.testing.assert_array_equal(cut, rows[:, :, None] & columns[:, None])
    assert (np.diff(rows.astype(int), prepend=0) == 1).sum(1).max() == 1  # the box is in one piece
    frequency = cut.mean(0)
    np.testing.assert_allclose(frequency, frequency[::-1, ::-1], atol=0.05)
    assert frequency.min() > 0.1


# Erasing


def test_erased_boxes_are_of_the_asked_number_area_and_aspect():
    size, probability, count = 40, 0.25, 2000
    images = jnp.full((count, size, size, 3), 9.0)
    found = np.asarray(erase(jax.random.key(0), images, probability=probability))
    changed = (found != 9).any(3)
    erased = changed.any((1, 2))
    deviation = np.sqrt(probability * (1 - probability) / count)
    assert abs(erased.mean() - probability) < 5 * deviation
    rows, columns = changed[erased].any(2), changed[erased].any(1)
    np.testing.assert_array_equal(changed[erased], rows[:, :, None] & columns[:, None])
    heights, widths = rows.sum(1), columns.sum(1)
    # Sides are rounded to whole pixels.
    assert (heights < size).all() and (widths < size).all()
    areas = heights * widths / size**2
    assert ((heights + 0.5) * (widths + 0.5) >= 0.02 * size**2).all() and areas.max() < 0.36
    quartiles = np.array([0.25, 0.5, 0.75])
    expected = 0.02 + quartiles * (1 / 3 - 0.02)
    np.testing.assert_allclose(np.quantile(areas, quartiles), expected, atol=0.03)
    aspects = np.log(heights / widths)
    assert abs(aspects).max() < np.log(1 / 0.3) + 0.25
    np.testing.assert_allclose(np.quantile(aspects, [0.25, 0.75]), [-0.6, 0.6], atol=0.12)
    frequency = changed[erased].mean(0)
    np.testing.assert_allclose(frequency, frequency[::-1, ::-1], atol=0.1)
    filled = found[changed]
    assert abs(filled.mean()) < 0.01 and abs(filled.std() - 1) < 0.01
    assert abs(np.corrcoef(filled.T)[0, 1]) < 0.01  # every channel has its own noise
    np.testing.assert_array_equal(found[~changed], 9)


def test_no_image_or_every_image_is_erased():
    images, _ = batch(64)
    np.testing.assert_array_equal(erase(jax.random.key(0), images, probability=0), images)
    changed = np.asarray(erase(jax.random.key(0), images, probability=1) != images)
    assert changed.any((1, 2, 3)).all() and not changed.all((1, 2, 3)).any()


@pytest.mark.parametrize("shape", [(1, 300), (2, 3)])
def test_a_box_that_never_fits_is_left_out(shape):
    images = jnp.ones((16, *shape, 3))
    changed = np.asarray(erase(jax.random.key(0), images, probability=1) != 1)
    assert not changed.all((1, 2, 3)).any()
    assert changed.any() == (min(shape) > 1)


def test_a_row_depends_on_the_key_its_index_and_its_image_alone():
    images, _ = batch(12)
    key = jax.random.key(3)
    whole = erase(key, images, probability=0.6)
    np.testing.assert_array_equal(erase(key, images[:5], probability=0.6), whole[:5])
    changed = erase(key, images.at[0].set(1.0), probability=0.6)
    np.testing.assert_array_equal(changed[1:], whole[1:])
    assert (erase(jax.random.key(4), images, probability=0.6) != whole).any()


# Devices


@pytest.mark.parametrize(
    "alphas",
    [
        pytest.param({"mixup": 0.8, "cutmix": 0}, marks=pytest.mark.slow),
        {"mixup": 0, "cutmix": 1.0},
    ],
)
def test_eight_devices_mix_as_one(alphas):
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4})
    images, targets = batch(16)
    rows = sharding.put_batch({"x": np.asarray(images), "y": np.asarray(targets)}, mesh)
    for seed in range(3):
        key = jax.random.key(seed)
        one = mix(key, images, targets, **alphas, smoothing=0.1)
        eight = mix(key, rows["x"], rows["y"], **alphas, smoothing=0.1)
        for x, expected in zip(eight, one, strict=True):
            assert x.sharding.is_equivalent_to(sharding.batch_sharding(mesh), x.ndim)
            # An optimising XLA fuses the sum of products differently, and the last bit may differ.
            np.testing.assert_allclose(x, expected, rtol=0, atol=5e-7)


def test_eight_devices_erase_as_one_and_need_not_talk():
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    images, _ = batch(16)
    key, rows = jax.random.key(0), sharding.put_batch({"x": np.asarray(images)}, mesh)["x"]
    compiled = erase.lower(key, rows, probability=0.5).compile()
    assert not re.search(r"\b(all-(gather|reduce|to-all)|collective-)", compiled.as_text())
    eight = compiled(key, rows)
    assert eight.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 4)
    np.testing.assert_array_equal(eight, erase(key, images, probability=0.5))


# Mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixup": -0.1}, r"mixup is -0\.1 and cutmix 1\.0; neither may be below 0"),
        ({"cutmix": -1}, r"mixup is 0\.8 and cutmix -1;"),
        ({"mixup": float("nan")}, r"mixup is nan"),
        ({"smoothing": 1.5}, r"smoothing is 1\.5; choose it from 0 to 1"),
        ({"smoothing": float("nan")}, r"smoothing is nan"),
    ],
)
def test_mistakes_in_mixing_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        mixing.mix(jax.random.key(0), *batch(2), **(PAPER | change))


@pytest.mark.parametrize("probability", [-0.25, 25])
def test_a_probability_is_from_0_to_1(probability):
    with pytest.raises(ConfigError, match=rf"probability is {probability}; choose it from 0 to 1"):
        mixing.erase(jax.random.key(0), batch(2)[0], probability=probability)
