"""Our parameter names beside the reference's."""

import golden_numbers
import jax
import numpy as np
import pytest

from fsvfm_jax.convert import reference
from fsvfm_jax.errors import DataError
from fsvfm_jax.models import build
from fsvfm_jax.models.fsvfm import teacher_subset


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
        # Zero-stride arrays of the right shapes: nothing of this size need be allocated.
        params = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
        names = reference.to_state_dict(params)
        assert sum(x.size for x in names.values()) == sum(x.size for x in jax.tree.leaves(shapes))
        assert f"blocks.{params['blocks']['norm1']['scale'].shape[0] - 1}.mlp.fc2.bias" in names


def test_the_table_is_one_to_one():
    rows = reference.TABLE + reference.BLOCK_TABLE
    assert len({ours for ours, _, _ in rows}) == len({theirs for _, theirs, _ in rows}) == len(rows)


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
