"""Tests attention weights against a plain PyTorch computation on an exported folder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_vit
from random_weights import TINY, images

from fsvfm_jax.models.attention_maps import attention_weights, rollout
from fsvfm_jax.predict.networks import load


@pytest.fixture(scope="module")
def detector(detector_folder):
    return load(detector_folder)


def test_weights_and_rollout_are_those_of_plain_pytorch(detector, detector_folder):
    faces = jnp.asarray(images(TINY["image_size"], batch=2))
    weights = jax.jit(attention_weights, static_argnums=0)(detector.model, detector.params, faces)
    wanted = torch_vit.attention(detector_folder, np.array(faces), num_heads=TINY["num_heads"])
    assert weights.shape == (TINY["depth"], 2, TINY["num_heads"], 17, 17)
    assert wanted.std() > 0.01  # The heads attend to some patches more than to others.
    np.testing.assert_allclose(weights, wanted, rtol=0, atol=1e-5)
    mean = wanted.mean(axis=2) / 2 + np.eye(17) / 2
    np.testing.assert_allclose(rollout(weights), mean[1] @ mean[0], rtol=0, atol=1e-5)


def test_the_weights_are_of_float32_whatever_the_networks_dtype(detector):
    faces = jnp.asarray(images(TINY["image_size"]))
    weights = attention_weights(detector.model, detector.params, faces)
    model = detector.model.clone(dtype="bfloat16", unroll=2, remat="full")
    again = attention_weights(model, detector.params, faces)
    np.testing.assert_array_equal(weights, again)


def test_rows_sum_to_one():
    weights = jax.nn.softmax(jax.random.normal(jax.random.key(0), (3, 2, 4, 5, 5)), axis=-1)
    np.testing.assert_allclose(rollout(weights).sum(axis=-1), 1.0, atol=1e-6)
    alone = jnp.broadcast_to(jnp.eye(5), (3, 2, 4, 5, 5))
    np.testing.assert_allclose(rollout(alone), jnp.broadcast_to(jnp.eye(5), (2, 5, 5)))
