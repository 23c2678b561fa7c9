"""Tests which parameters are trained: counts, gradients, and the factors of LoRA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_vit
from flax import traverse_util
from golden_files import need
from random_weights import TINY, detector_params, images, tuned_params
from tiny import STATS, detection_config

from fsvfm_jax import finetune, optim, tuning
from fsvfm_jax.convert.folder import timm_names
from fsvfm_jax.devices import compilation, sharding
from fsvfm_jax.models import build_detector
from fsvfm_jax.models.vit import SIZES
from fsvfm_jax.train_state import Params
from fsvfm_jax.tuning import MODES, TARGETS, Tuning

EACH = ("q", "k", "v", "proj", "fc1", "fc2")
LABELS = np.array([0, 1, 1])


def names(tree: Params) -> set[str]:
    return set(traverse_util.flatten_dict(tree, sep="/"))


@pytest.mark.parametrize("fas", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_joined_parts_are_the_whole_bit_for_bit(mode, fas):
    way = Tuning(mode, fas=fas, last_blocks=1, rank=2, targets=("qkv", "fc2"))
    params = tuned_params(way, adapter_reduction=4 if mode == "adapter" else 0)
    trained, frozen = tuning.split(params, way)
    sliced = names({"blocks": params["blocks"]}) if mode == "partial" else set()
    assert names(trained) & names(frozen) == sliced
    joined = tuning.join(trained, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, joined, params)


def test_the_modes_train_what_they_are_named_for():
    way = Tuning("norms")
    trained = names(tuning.split(tuned_params(way), way)[0])
    norms = {f"blocks/norm{n}/{leaf}" for n in (1, 2) for leaf in ("scale", "bias")}
    assert trained == norms | {"fc_norm/scale", "fc_norm/bias", "head/kernel", "head/bias"}
    trained = names(tuning.split(tuned_params(way, pool="token"), way)[0])
    assert trained == norms | {"norm/scale", "norm/bias", "head/kernel", "head/bias"}

    way = Tuning("lora", rank=2, targets=("q",), fas=True)
    trained = tuning.split(tuned_params(way), way)[0]
    assert trained.keys() == {"lora_blocks", "embedder", "classifier"}

    way = Tuning("partial", last_blocks=1)
    params = tuned_params(way, depth=3)
    trained, frozen = tuning.split(params, way)
    assert trained.keys() == {"blocks", "fc_norm", "head"}
    scale = params["blocks"]["norm1"]["scale"]
    np.testing.assert_array_equal(trained["blocks"]["norm1"]["scale"], scale[2:])
    np.testing.assert_array_equal(frozen["blocks"]["norm1"]["scale"], scale[:2])


COUNTS = {
    "vit_base_patch16": {
        "full": 85_800_194,
        "adapter": 335_042,
        "linear": 1_538,
        "norms": 39_938,
        "lora": 296_450,
        "partial": 14_178_818,
    },
    "vit_large_patch16": {
        "full": 303_303_682,
        "adapter": 594_178,
        "linear": 2_050,
        "norms": 102_402,
        "lora": 788_482,
        "partial": 25_196_546,
    },
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", COUNTS)
def test_counts_are_exact(size, mode):
    reduction = 4 if mode == "adapter" else 0
    config = detection_config(mode, {"model.adapter_reduction": reduction})
    config.model.update(SIZES[size] | {"image_size": 224})
    assert finetune.count_trained(config) == COUNTS[size][mode]


def test_layer_wise_decay_of_the_last_blocks_is_theirs_in_the_whole_network():
    way = Tuning("partial", last_blocks=2)
    params = tuned_params(way, depth=5)
    whole = optim.layer_factors(params, 0.5, depth=5)
    part = optim.layer_factors(tuning.split(params, way)[0], 0.5, depth=5)
    kernels = [x["blocks"]["attn"]["proj"]["kernel"].ravel() for x in (whole, part)]
    np.testing.assert_array_equal(kernels[0][-2:], kernels[1])
    assert kernels[1].tolist() == [0.25, 0.5]
    way = Tuning("lora", rank=2, targets=("v",))
    factors = optim.layer_factors(tuning.split(tuned_params(way), way)[0], 0.5, depth=2)
    assert factors["lora_blocks"]["v"]["a"].ravel().tolist() == [0.25, 0.5]


def test_new_factors_change_nothing():
    way = Tuning("lora", rank=4, alpha=8.0, targets=("qkv", "proj", "fc1", "fc2"))
    params = detector_params(TINY)
    factors = tuning.init_factors(jax.random.key(0), params["blocks"], way)
    jax.tree.map(
        np.testing.assert_array_equal, tuning.merge(params | {"lora_blocks": factors}, way), params
    )
    a = np.asarray(factors["fc2"]["a"])
    assert a.shape == (2, 192, 4) and np.std(a) == pytest.approx(192**-0.5, rel=0.1)
    assert not np.array_equal(factors["qkv"]["a"][0], factors["qkv"]["a"][1])


@pytest.mark.parametrize("name", TARGETS)
def test_the_product_is_added_to_the_target_alone(name):
    way = Tuning("lora", rank=3, alpha=6.0, targets=(name,))
    params = tuned_params(way)
    merged = tuning.merge(params, way)
    factors = jax.tree.map(np.asarray, params["lora_blocks"][name])
    product = 2 * factors["a"] @ factors["b"]
    changed = {
        path: np.asarray(x) - y
        for (path, x), y in zip(
            traverse_util.flatten_dict(merged["blocks"]).items(),
            traverse_util.flatten_dict(params["blocks"]).values(),
            strict=True,
        )
        if not np.array_equal(x, y)
    }
    [(path, change)] = changed.items()
    part = {"q": 0, "k": 1, "v": 2}.get(name)
    assert path == TARGETS[name].path
    if part is not None:
        parts = np.split(change, 3, axis=2)
        assert not any(x.any() for n, x in enumerate(parts) if n != part)
        change = parts[part]
    np.testing.assert_allclose(change, product, rtol=0, atol=1e-6)


def gradients(way: Tuning, params: Params) -> Params:
    """Returns the gradient of the mean cross-entropy by the trained parameters."""
    trained, frozen = tuning.split(params, way)
    model = build_detector(TINY)

    def loss(trained):
        merged = tuning.merge(tuning.join(trained, frozen), way)
        logits = model.apply({"params": merged}, images(64, batch=3)).logits
        return -jax.nn.log_softmax(logits)[jnp.arange(3), LABELS].mean()

    return jax.jit(jax.grad(loss))(trained)


def torch_loss(weights):
    torch = need("torch")
    logits = torch_vit.forward(weights, torch.from_numpy(images(64, batch=3)), num_heads=4)[0]
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS))


def tensors(params: Params) -> dict:
    torch = need("torch")
    arrays = timm_names(tuning.without_factors(params))
    return {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()}


def close(ours, theirs) -> None:
    assert np.abs(theirs).max() > 1e-3
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-5)


def test_gradients_of_the_factors_are_pytorchs():
    torch = need("torch")
    way = Tuning("lora", rank=3, alpha=6.0, targets=EACH)
    params = tuned_params(way)
    ours = gradients(way, params)["lora_blocks"]
    weights, leaves = tensors(params), {}
    for name in EACH:
        target = TARGETS[name]
        for block in range(TINY["depth"]):
            a, b = (
                torch.from_numpy(
                    np.array(params["lora_blocks"][name][part][block])
                ).requires_grad_()
                for part in "ab"
            )
            leaves[name, block] = a, b
            key = f"blocks.{block}.{'.'.join(target.path[:-1])}.weight"
            rows = torch.zeros(target.parts, 1, 1)
            rows[target.part] = 1
            weights[key] = weights[key] + 2 * (rows * (a @ b).T).flatten(0, 1)
    torch_loss(weights).backward()
    for (name, block), pair in leaves.items():
        for part, leaf in zip("ab", pair, strict=True):
            close(ours[name][part][block], leaf.grad.numpy())


def test_gradients_of_the_norms_are_pytorchs():
    need("torch")
    params = tuned_params(Tuning("norms"))
    ours = gradients(Tuning("norms"), params)
    weights = tensors(params)
    trained = [name for name in weights if "norm" in name or name.startswith("head.")]
    for name in trained:
        weights[name].requires_grad_()
    torch_loss(weights).backward()
    named = timm_names(ours)
    assert named.keys() == set(trained)
    for name in trained:
        close(named[name], weights[name].grad.numpy())


@pytest.mark.parametrize("last_blocks", [1, 3])
def test_two_loops_compute_what_one_loop_computes(last_blocks):
    params = detector_params({**TINY, "depth": 3})
    model = build_detector({**TINY, "depth": 3})
    trained, frozen = tuning.split(params, Tuning("partial", last_blocks=last_blocks))
    rngs = {"drop_path": jax.random.key(0), "dropout": jax.random.key(1)}
    pixels = jnp.asarray(images(64, batch=2))
    found = finetune.apply_in_two(model, trained, frozen, pixels, rngs=rngs).logits
    expected = model.apply({"params": params}, pixels).logits
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.e2e
def test_frozen_blocks_below_the_trained_ones_have_no_backward_pass():
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1}, jax.devices()[:1])

    def flops(mode):
        changes = {"model.depth": 4, "model.unroll": 4, "partial.blocks": 1, "model.width": 64}
        task = finetune.make_learner(detection_config(mode, changes), stats=STATS)
        return compilation.lower_step(task, mesh, batch_size=16).cost_analysis()["flops"]

    # Of 4 blocks, 4 have a forward pass and 1 has a backward pass, which costs twice as much.
    assert flops("partial") / flops("full") == pytest.approx(6 / 12, abs=0.05)
