"""Tests our parameter names against the reference's."""

import golden_files
import golden_numbers
import jax
import numpy as np
import pytest
from random_weights import TINY, detector_params

from fsvfm_jax.convert import reference
from fsvfm_jax.errors import DataError
from fsvfm_jax.models import build
from fsvfm_jax.models.fsvfm import encoder_subset, teacher_subset
from fsvfm_jax.models.vit import SIZES


@pytest.mark.parametrize("prefix", ["init", "final/online", "final/target", "step0/grad"])
def test_there_and_back_changes_nothing(prefix):
    original = golden_numbers.state_dict(prefix)
    back = reference.to_state_dict(reference.to_params(original))
    assert back.keys() == original.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_trees_are_those_of_our_model():
    ours = build(golden_numbers.MODEL).init_params(jax.random.key(0))
    for theirs, mine in (
        (golden_numbers.params("init"), ours),
        (golden_numbers.params("final/target"), teacher_subset(ours)),
    ):
        assert jax.tree.structure(theirs) == jax.tree.structure(mine)
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), theirs, mine)


def test_every_size_has_a_name_for_every_parameter():
    for size in ("vit_small_patch16", "vit_huge_patch14"):
        shapes = jax.eval_shape(build(size).init_params, jax.random.key(0))
        # Arrays with stride zero have the right shapes without allocating this much memory.
        params = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
        names = reference.to_state_dict(params)
        assert sum(x.size for x in names.values()) == sum(x.size for x in jax.tree.leaves(shapes))
        assert f"blocks.{params['blocks']['norm1']['scale'].shape[0] - 1}.mlp.fc2.bias" in names


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_random_weights_of_every_size_go_there_and_back_unchanged(size):
    shapes = jax.eval_shape(build(size).init_params, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), shapes)
    back = reference.to_params(reference.to_state_dict(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, back, params)))


def test_the_table_is_one_to_one():
    rows = [row[-3:] for row in reference.TABLE] + list(reference.BLOCK_TABLE)
    assert len({ours for ours, _, _ in rows}) == len({theirs for _, theirs, _ in rows}) == len(rows)


@pytest.mark.parametrize("name", golden_files.DETECTORS)
def test_a_detector_goes_there_and_back_unchanged(name):
    original = golden_files.detector(name)
    params = reference.to_params(original)
    assert reference.kind(params) == "detector"
    back = reference.to_state_dict(params)
    assert back.keys() == original.keys()
    for key, array in original.items():
        np.testing.assert_array_equal(back[key], array)
        assert back[key].dtype == array.dtype


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "token"},
        {"adapter_reduction": 4},
        {"adapter_reduction": 4, "pool": "token"},
        {"fas": True},
        {"fas": True, "adapter_reduction": 4},
    ],
)
def test_every_detector_goes_there_and_back_from_ours(options):
    params = detector_params(TINY | options)
    back = reference.to_params(reference.to_state_dict(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_kinds_are_told_apart():
    student = golden_numbers.params("init")
    assert reference.kind(student) == "student"
    assert reference.kind(teacher_subset(student)) == "teacher"
    assert reference.kind(encoder_subset(student)) == "encoder"
    with pytest.raises(DataError, match="head"):
        reference.kind(student | {"head": {"bias": np.zeros(2)}})


def test_the_order_is_that_of_the_references_keys():
    for branch in ("student", "teacher"):
        original = golden_files.under(f"{branch}/", golden_files.run())
        assert list(reference.to_state_dict(reference.to_params(original))) == list(original)


def test_unknown_keys_are_refused_by_name():
    state_dict = golden_numbers.state_dict("init")
    with pytest.raises(DataError, match=r"fc_norm\.weight"):
        reference.to_params(state_dict | {"fc_norm.weight": np.zeros(48, np.float32)})
    with pytest.raises(DataError, match="fc_norm/scale"):
        reference.to_state_dict(reference.to_params(state_dict) | {"fc_norm": {"scale": 1}})


def test_a_missing_block_array_is_named():
    state_dict = golden_numbers.state_dict("init")
    del state_dict["blocks.1.mlp.fc1.bias"]
    with pytest.raises(DataError, match=r"blocks\.1\.mlp\.fc1\.bias"):
        reference.to_params(state_dict)


def without(state_dict, *keys):
    return {key: array for key, array in state_dict.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "norm.weight"), r"student, but lacks 'norm\.weight'"),
        (lambda s: without(s, "patch_embed.proj.bias"), r"patch_embed\.proj\.bias"),
        (lambda s: s | {"blocks.7.norm1.weight": s["norm.weight"]}, r"keys, the first 'blocks\.\d"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, r"has \d+ keys, the first 'module"),
        (lambda s: {"conv1.weight": s["norm.weight"]}, r"conv1"),
        (lambda s: {}, r"lacks"),
        (lambda s: s | {"norm.weight": np.ones((2, 2))}, r"'norm\.weight' has shape \[2, 2\]"),
        (lambda s: s | {"decoder_embed.weight": np.ones(9)}, r"'decoder_embed\.weight' has shape"),
        (lambda s: s | {"norm.bias": np.ones(0)}, r"'norm\.bias' has shape \[0\]"),
        (lambda s: s | {"blocks.1.mlp.fc1.weight": np.ones((9, 9))}, r"unlike that of block 0"),
    ],
)
def test_what_differs_is_named(change, message):
    with pytest.raises(DataError, match=message):
        reference.to_params(change(golden_numbers.state_dict("init")))


def test_the_two_copies_of_an_embedder_must_agree():
    state_dict = golden_files.detector("fas")
    key = "embedder.bottleneck_layer.0.bias"
    with pytest.raises(DataError, match=r"bottleneck_layer\.0\.bias"):
        reference.to_params(state_dict | {key: state_dict[key] + 1})
    reference.to_params(without(state_dict, key))
