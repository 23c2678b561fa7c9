"""Compares detectors with the reference's logits, and tests what their docstrings promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import DETECTORS, detector, detector_images, load

from fsvfm_jax.convert import reference
from fsvfm_jax.convert.measures import network
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.models import build_detector
from fsvfm_jax.models.vit import SIZES

TINY = {"image_size": 32, "width": 32, "depth": 3, "num_heads": 4}
IMAGES = np.random.default_rng(0).normal(size=(6, 32, 32, 3)).astype(np.float32)


def fresh(model):
    return jax.jit(model.init_params)(jax.random.key(0))


@pytest.mark.parametrize("name", DETECTORS)
def test_logits_are_the_references(name):
    params = reference.to_params(detector(name))
    apply = jax.jit(network(params, num_heads=4).apply)
    output = apply({"params": params}, detector_images(name))
    golden = load("detectors")
    np.testing.assert_allclose(output.logits, golden[f"{name}/logits"], rtol=0, atol=1e-5)
    if f"{name}/projection" in golden:
        theirs = golden[f"{name}/projection"]
        np.testing.assert_allclose(output.projection, theirs, rtol=0, atol=1e-5)


def count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("size", "adapter", "fas"),
    [
        ("vit_small_patch16", 84_578, 477_794),
        ("vit_base_patch16", 335_042, 1_119_938),
        ("vit_large_patch16", 594_178, 1_640_194),
    ],
)
def test_trainable_parameters_are_the_papers(size, adapter, fas):
    def shapes(**options):
        model = build_detector(SIZES[size] | {"adapter_reduction": 4} | options)
        return jax.eval_shape(model.init_params, jax.random.key(0))

    params = shapes()
    assert count([params[name] for name in ("adapter", "projector", "head")]) == adapter
    params = shapes(fas=True)
    assert count([params[n] for n in ("adapter", "projector", "embedder", "classifier")]) == fas


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, {"fc_norm", "head"}),
        ({"pool": "token"}, {"norm", "head"}),
        ({"adapter_reduction": 4}, {"fc_norm", "head", "adapter", "projector"}),
        ({"fas": True}, {"fc_norm", "embedder", "classifier"}),
    ],
)
def test_the_tree_is_the_encoders_and_the_parts_in_use(options, parts):
    params = fresh(build_detector(TINY | options))
    assert params.keys() == {"cls_token", "pos_embed", "patch_embed", "blocks"} | parts
    assert params["blocks"]["norm1"]["scale"].shape == (3, 32)
    assert np.any(params["pos_embed"])


def test_fresh_heads_start_where_the_papers_do():
    model = build_detector({"image_size": 16, "width": 512, "depth": 1, "num_heads": 8})
    head = fresh(model)["head"]
    assert 1e-5 < np.std(head["kernel"]) < 3e-5
    assert not np.any(head["bias"])
    model = model.clone(fas=True)
    params = fresh(model)
    assert 0.0045 < np.std(params["embedder"]["kernel"]) < 0.0055
    np.testing.assert_allclose(params["embedder"]["bias"], 0.1)


@pytest.fixture(scope="module")
def dropping():
    model = build_detector(TINY | {"drop_path": 0.5})
    params = fresh(model)
    # Heads start near zero, so larger ones are needed to see the effect of the tokens.
    params["head"]["kernel"] = jax.random.normal(jax.random.key(1), (32, 2))
    return model, params


def logits(model, params, *, seed=None):
    rngs = None if seed is None else {"drop_path": jax.random.key(seed)}
    apply = jax.jit(model.apply, static_argnames="deterministic")
    return apply({"params": params}, IMAGES, rngs=rngs, deterministic=seed is None).logits


def test_paths_are_dropped_in_training_alone(dropping):
    model, params = dropping
    whole = logits(model, params)
    np.testing.assert_array_equal(whole, logits(model, params))
    np.testing.assert_allclose(whole, logits(model.clone(drop_path=0.0), params), atol=1e-6)
    dropped = logits(model, params, seed=1)
    np.testing.assert_array_equal(dropped, logits(model, params, seed=1))
    assert np.abs(dropped - logits(model, params, seed=2)).max() > 0.01
    assert np.abs(dropped - whole).max() > 0.01


def test_drop_path_grows_from_the_first_block_to_the_last(dropping):
    model, params = dropping
    # Without the last two blocks only the first is left, whose rate is 0.
    blocks = jax.tree.map(lambda x: x.at[1:].set(0), params["blocks"])
    params = params | {"blocks": blocks}
    np.testing.assert_allclose(
        logits(model, params), logits(model, params, seed=1), rtol=0, atol=1e-6
    )


def test_a_dropped_branch_is_made_up_for_by_the_kept_ones():
    model = build_detector(TINY | {"depth": 2, "drop_path": 0.5, "width": 4, "num_heads": 1})
    params = jax.tree.map(jnp.zeros_like, fresh(model))
    # The last block adds only 1, through the bias of its MLP.
    params["blocks"]["mlp"]["fc2"]["bias"] = jnp.array([[0.0] * 4, [1.0] * 4])
    images = jnp.zeros((4000, 16, 16, 3))
    model = model.clone(image_size=16)
    params["pos_embed"] = jnp.zeros((1, 2, 4))
    rates = jnp.array([0.0, 0.5])
    tokens = model.apply(
        {"params": params},
        images,
        drop_rates=rates,
        method="tokens",
        rngs={"drop_path": jax.random.key(0)},
    )
    assert set(np.unique(tokens)) == {0.0, 2.0}
    # Either a whole branch of an image is dropped, or nothing of it.
    assert np.ptp(tokens, axis=(1, 2)).max() == 0
    assert abs(float(tokens.mean()) - 1) < 0.08


def test_dropout_of_the_anti_spoofing_head_is_for_training_alone():
    model = build_detector(TINY | {"fas": True})
    params = fresh(model)

    @jax.jit
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, IMAGES, deterministic=False, rngs=rngs).logits

    assert np.abs(train(0) - train(1)).max() > 0
    np.testing.assert_array_equal(logits(model, params), logits(model, params))


def test_the_classifiers_columns_have_unit_length_whatever_they_were():
    model = build_detector(TINY | {"fas": True, "adapter_reduction": 4})
    params = fresh(model)
    kernel = params["classifier"]["kernel"]
    scale = 1 + jnp.arange(512.0)[:, None]
    larger = params | {"classifier": params["classifier"] | {"kernel": kernel * scale}}
    np.testing.assert_allclose(logits(model, params), logits(model, larger), atol=1e-5)


def test_the_head_of_an_anti_spoofing_adapter_is_carried_and_never_used():
    model = build_detector(TINY | {"fas": True, "adapter_reduction": 4})
    params = fresh(model)
    gradient = jax.jit(jax.grad(lambda p: model.apply({"params": p}, IMAGES).logits.sum()))(params)
    assert not np.any(gradient["head"]["kernel"])
    assert np.any(gradient["embedder"]["kernel"]) and np.any(gradient["pos_embed"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vit_smal_patch16", "vit_small_patch16"),
        ({"adapter": 4}, "adapter_reduction"),
        ({"pool": "max"}, "model.pool"),
        ({"pool": "token", "fas": True}, "model.fas"),
        ({"adapter_reduction": 5}, "adapter_reduction"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"num_heads": 7}, "num_heads"),
        ({"image_size": 100}, "image_size"),
    ],
)
def test_what_fits_no_detector_is_refused_by_name(given, message):
    with pytest.raises(ConfigError, match=message):
        build_detector(given)
