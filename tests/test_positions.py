"""Tests position tables at another image size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import need
from hypothesis import given, settings
from hypothesis import strategies as st
from random_weights import TINY, encoder_params, images

from fsvfm_jax.convert.positions import resize_positions, resize_table
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models import build
from fsvfm_jax.models.positions import sincos_positions
from fsvfm_jax.models.vit import ViT


@settings(max_examples=20)
@given(old=st.integers(1, 16), new=st.integers(1, 20))
def test_sines_and_cosines_are_made_anew(old, new):
    noise = np.random.default_rng(old).uniform(-9e-6, 9e-6, (1, old**2 + 1, 8))
    table = (sincos_positions(old, 8) + noise).astype(np.float32)
    expected = table if old == new else sincos_positions(new, 8)
    np.testing.assert_array_equal(resize_table(table, new), expected)


@pytest.mark.parametrize(("old", "new"), [(14, 18), (14, 7), (14, 24), (4, 9), (1, 3), (16, 14)])
def test_other_tables_are_interpolated_as_pytorch_does(old, new):
    torch = need("torch")
    table = np.random.default_rng(0).standard_normal((1, old**2 + 1, 12), np.float32)
    patches = torch.from_numpy(table[:, 1:].reshape(1, old, old, 12)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        patches, size=(new, new), mode="bicubic", align_corners=False
    )
    expected = expected.permute(0, 2, 3, 1).reshape(1, new**2, 12)
    resized = resize_table(table, new)
    np.testing.assert_array_equal(resized[:, :1], table[:, :1])
    np.testing.assert_allclose(resized[:, 1:], expected.numpy(), rtol=0, atol=1e-5)


def test_all_tables_of_a_student_change_and_nothing_else():
    measures = {**TINY, "rep_pos": "zeros", "decoder_depth": 1, "projection_hidden": 16}
    shapes = jax.eval_shape(build(measures).init_params, jax.random.key(0))
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    params["pos_embed"] = sincos_positions(4, 48)
    resized = resize_positions(params, 96)
    wanted = jax.eval_shape(build({**measures, "image_size": 96}).init_params, jax.random.key(0))
    assert jax.tree.structure(resized) == jax.tree.structure(wanted)
    shapes = [[x.shape for x in jax.tree.leaves(tree)] for tree in (resized, wanted)]
    assert shapes[0] == shapes[1]
    np.testing.assert_array_equal(resized["pos_embed"], sincos_positions(6, 48))
    assert not np.any(resized["rep_decoder_pos_embed"])
    assert resized["blocks"] is params["blocks"]


def test_an_encoder_runs_at_the_new_size():
    resized = resize_positions(encoder_params(TINY), 96)
    network = ViT(**{**TINY, "image_size": 96})
    assert network.apply({"params": resized}, jnp.asarray(images(96)), method="encode").shape == (
        1,
        37,
        48,
    )


@pytest.mark.parametrize("image_size", [100, 0, -16, 8])
def test_a_size_that_patches_do_not_divide_is_refused(image_size):
    with pytest.raises(ConfigError, match=rf"image size {image_size} .* patch size 16"):
        resize_positions(encoder_params(TINY), image_size)


@pytest.mark.parametrize("rows", [0, 1, 16, 18])
def test_a_table_that_is_no_square_is_refused(rows):
    with pytest.raises(DataError, match=f"a position table of {rows} rows"):
        resize_table(np.zeros((1, rows, 8), np.float32), 3)
