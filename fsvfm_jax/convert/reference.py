"""The reference's parameter names (PyTorch) beside ours, both ways, in NumPy.

A PyTorch linear weight is [out, in] and ours [in, out]; a patch embedding is [out, 3, p, p] there
and a linear layer over (row, column, channel) here; blocks are numbered there and stacked on
axis 0 here. Trees may be a student's, a teacher's, or gradients (position tables missing).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from fsvfm_jax.errors import DataError


class Layout(NamedTuple):
    """How one array is laid out again, from the reference's and to it."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_reference: Callable[[np.ndarray], np.ndarray]


def _patch_kernel_to_reference(kernel: np.ndarray) -> np.ndarray:
    patch_size = round((kernel.shape[0] / 3) ** 0.5)
    return kernel.reshape(patch_size, patch_size, 3, -1).transpose(3, 2, 0, 1)


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(np.transpose, np.transpose)
PATCHES = Layout(
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), _patch_kernel_to_reference
)

# ours, reference, layout
TABLE = (
    ("cls_token", "cls_token", SAME),
    ("mask_token", "mask_token", SAME),
    ("pos_embed", "pos_embed", SAME),
    ("decoder_pos_embed", "decoder_pos_embed", SAME),
    ("rep_decoder_pos_embed", "rep_decoder_pos_embed", SAME),
    ("patch_embed/kernel", "patch_embed.proj.weight", PATCHES),
    ("patch_embed/bias", "patch_embed.proj.bias", SAME),
    ("norm/scale", "norm.weight", SAME),
    ("norm/bias", "norm.bias", SAME),
    ("decoder_embed/kernel", "decoder_embed.weight", LINEAR),
    ("decoder_embed/bias", "decoder_embed.bias", SAME),
    ("decoder_norm/scale", "decoder_norm.weight", SAME),
    ("decoder_norm/bias", "decoder_norm.bias", SAME),
    ("decoder_pred/kernel", "decoder_pred.weight", LINEAR),
    ("decoder_pred/bias", "decoder_pred.bias", SAME),
    ("rep_decoder_embed/kernel", "rep_decoder_embed.weight", LINEAR),
    ("rep_decoder_embed/bias", "rep_decoder_embed.bias", SAME),
    ("rep_decoder_norm/scale", "rep_decoder_norm.weight", SAME),
    ("rep_decoder_norm/bias", "rep_decoder_norm.bias", SAME),
    ("rep_decoder_pred/kernel", "rep_decoder_pred.weight", LINEAR),
    ("rep_decoder_pred/bias", "rep_decoder_pred.bias", SAME),
    ("projector/fc1/kernel", "projector.projection_head.0.weight", LINEAR),
    ("projector/fc1/bias", "projector.projection_head.0.bias", SAME),
    ("projector/norm/scale", "projector.projection_head.1.weight", SAME),
    ("projector/norm/bias", "projector.projection_head.1.bias", SAME),
    ("projector/fc2/kernel", "projector.projection_head.3.weight", LINEAR),
    ("projector/fc2/bias", "projector.projection_head.3.bias", SAME),
    ("predictor/fc1/kernel", "predictor.projection_head.0.weight", LINEAR),
    ("predictor/fc1/bias", "predictor.projection_head.0.bias", SAME),
    ("predictor/norm/scale", "predictor.projection_head.1.weight", SAME),
    ("predictor/norm/bias", "predictor.projection_head.1.bias", SAME),
    ("predictor/fc2/kernel", "predictor.projection_head.3.weight", LINEAR),
    ("predictor/fc2/bias", "predictor.projection_head.3.bias", SAME),
)
# In each stack, ours is `<stack>/<row>` with the blocks on axis 0, theirs `<stack>.<i>.<row>`.
STACKS = ("blocks", "decoder_blocks", "rep_decoder_blocks")
BLOCK_TABLE = (
    ("norm1/scale", "norm1.weight", SAME),
    ("norm1/bias", "norm1.bias", SAME),
    ("attn/qkv/kernel", "attn.qkv.weight", LINEAR),
    ("attn/qkv/bias", "attn.qkv.bias", SAME),
    ("attn/proj/kernel", "attn.proj.weight", LINEAR),
    ("attn/proj/bias", "attn.proj.bias", SAME),
    ("norm2/scale", "norm2.weight", SAME),
    ("norm2/bias", "norm2.bias", SAME),
    ("mlp/fc1/kernel", "mlp.fc1.weight", LINEAR),
    ("mlp/fc1/bias", "mlp.fc1.bias", SAME),
    ("mlp/fc2/kernel", "mlp.fc2.weight", LINEAR),
    ("mlp/fc2/bias", "mlp.fc2.bias", SAME),
)


def to_params(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Turns the reference's names and layouts into our nested tree, values and dtypes unchanged.

    Raises:
        DataError: A key is not one of the reference's, or one is missing.
    """
    remaining = dict(state_dict)
    flat = {}
    for ours, reference, layout in TABLE:
        if reference in remaining:
            flat[ours] = layout.to_ours(np.asarray(remaining.pop(reference)))
    for stack in STACKS:
        depth = len({key.split(".")[1] for key in remaining if key.startswith(f"{stack}.")})
        if depth == 0:
            continue
        for ours, reference, layout in BLOCK_TABLE:
            keys = [f"{stack}.{i}.{reference}" for i in range(depth)]
            for key in keys:
                if key not in remaining:
                    raise DataError(f"the state dict has {depth} {stack} but lacks {key!r}")
            blocks = [layout.to_ours(np.asarray(remaining.pop(key))) for key in keys]
            flat[f"{stack}/{ours}"] = np.stack(blocks)
    is_student = any(ours.startswith(("decoder_", "predictor/")) for ours in flat)
    for ours, reference, _ in TABLE:
        of_teacher = not ours.startswith(("decoder_", "predictor/"))
        if (is_student or of_teacher) and ours not in flat and not ours.endswith("pos_embed"):
            raise DataError(f"the state dict lacks {reference!r}")
    if remaining:
        raise DataError(
            f"{len(remaining)} keys of the state dict are none of the reference's pretraining"
            f" network, the first {min(remaining)!r}"
        )
    return traverse_util.unflatten_dict(flat, sep="/")


def to_state_dict(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `to_params`.

    Raises:
        DataError: A parameter is not one of the pretraining network's.
    """
    remaining = traverse_util.flatten_dict(dict(params), sep="/")
    state_dict = {}
    for ours, reference, layout in TABLE:
        if ours in remaining:
            state_dict[reference] = layout.to_reference(np.asarray(remaining.pop(ours)))
    for stack in STACKS:
        for ours, reference, layout in BLOCK_TABLE:
            if f"{stack}/{ours}" in remaining:
                for i, array in enumerate(np.asarray(remaining.pop(f"{stack}/{ours}"))):
                    state_dict[f"{stack}.{i}.{reference}"] = layout.to_reference(array)
    if remaining:
        raise DataError(f"the reference has no name for parameter {min(remaining)!r}")
    return state_dict
