"""Tests that the count agrees with the published table and with the traced products."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Jaxpr, jaxprs_in_params

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.masking import Masks, num_removed
from fsvfm_jax.models import build, build_detector
from fsvfm_jax.models.vit import SIZES
from fsvfm_jax.plan.flops import (
    detection_flops_per_image,
    model_flops_utilisation,
    training_flops_per_image,
)
from fsvfm_jax.tuning import Tuning

# GFLOP per image (224 pixels, ratio 0.75) in the order of `Flops`, and the teacher's share in %.
TABLE = {
    "vit_small_patch16": (("2.17", "1.59", "10.78", "14.66", "10.83", "54.83"), 20),
    "vit_base_patch16": (("8.59", "6.11", "10.86", "25.80", "41.42", "118.81"), 35),
    "vit_large_patch16": (("30.44", "10.75", "10.91", "52.43", "134.18", "291.47"), 46),
}
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "width": 32,
    "depth": 3,
    "num_heads": 4,
    "decoder_width": 16,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
    "rep_decoder_depth": 1,
    "rep_decoder_num_heads": 4,
    "projection_dim": 8,
    "projection_hidden": 64,
}


@pytest.mark.parametrize("size", TABLE)
def test_the_table(size):
    printed, teacher_share = TABLE[size]
    flops = training_flops_per_image(build(size), 0.75)
    assert tuple(f"{count / 1e9:.2f}" for count in flops) == printed
    assert round(100 * flops.teacher_forward / flops.total) == teacher_share
    assert flops.total == 3 * flops.student_forward + flops.teacher_forward


@pytest.mark.parametrize(("mask_ratio", "registers"), [(0.25, 0), (0.75, 0), (0.75, 3)])
def test_the_count_is_that_of_the_traced_network(mask_ratio, registers):
    """Counts the matrix products of all forward passes in the traced program, loops unrolled."""
    model = build(TINY | {"registers": registers})
    n = model.num_patches
    removed = num_removed(n, mask_ratio)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(model.init_params, jax.random.key(0))
    ids = jnp.arange(n)[None]

    def student(params):
        masks = Masks(jnp.zeros((1, n)), jnp.zeros((1, n)), ids[:, : n - removed], ids)
        return model.apply({"params": params}, images, masks, method="student")

    def teacher(params):
        return model.apply({"params": params}, images, method="teacher")

    flops = training_flops_per_image(model, mask_ratio)
    # The count is that of the method. The program embeds only the visible patches, applies
    # `decoder_embed` to one mask token, predicts no pixels from the class token, and takes the mean
    # of the tokens before `rep_decoder_pred`.
    wide, pixels = model.decoder_width, 3 * model.patch_size**2
    mean_first = 2 * n * model.width**2
    saved = mean_first + 2 * wide * pixels
    saved += 2 * removed * pixels * model.width + 2 * (removed - 1) * model.width * wide
    traced = [traced_flops(jax.make_jaxpr(f)(params).jaxpr) for f in (teacher, student)]
    assert traced == [flops.teacher_forward - mean_first, flops.student_forward - saved]


def traced_flops(jaxpr: Jaxpr) -> int:
    """Returns 2mkn of every dot_general, multiplied by the lengths of the loops around it.

    Products of a vector are left out: they apply the bias of a norm to the bias of the next layer.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general" and equation.invars[0].aval.ndim > 1:
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = math.prod(shape[axis] for axis in contracted)
            total += 2 * equation.outvars[0].aval.size * depth
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            total += times * traced_flops(inner)
    return total


def test_a_ratio_that_removes_all_patches_is_an_error():
    with pytest.raises(ConfigError, match=r"mask_ratio 1\.0"):
        training_flops_per_image(build(TINY), 1.0)


@pytest.mark.parametrize(
    ("size", "images_per_second", "mfu"),
    [
        ("vit_large_patch16", 1357.0, 0.40),
        ("vit_base_patch16", 2914.0, 0.35),
        ("vit_small_patch16", 4509.0, 0.25),
    ],
)
def test_utilisation_of_an_h200(size, images_per_second, mfu):
    flops = training_flops_per_image(build(size), 0.75).total
    one = model_flops_utilisation(flops, images_per_second, num_devices=1, peak_tflops=989.0)
    assert one == pytest.approx(mfu, rel=1e-3)
    eight = model_flops_utilisation(flops, 8 * images_per_second, num_devices=8, peak_tflops=989.0)
    assert eight == pytest.approx(one)


def test_a_trained_layer_costs_three_times_its_forward_pass():
    model = build_detector(SIZES["vit_base_patch16"])

    def count(mode, **options):
        return detection_flops_per_image(model, Tuning(mode, **options))

    forward, embed = count("linear"), 2 * 196 * 768 * 768
    assert count("full") == 3 * forward and count("adapter") == forward
    assert count("norms") == count("lora") == 2 * forward - embed
    assert count("partial", last_blocks=12) == 3 * forward - 2 * embed
    assert count("partial", last_blocks=2) / count("full") == pytest.approx(0.44, abs=0.01)
