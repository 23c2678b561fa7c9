"""Converts Google's names of a ViT (`.npz` of vision_transformer and big_vision) to timm's.

The parts of a name are separated by "." here instead of "/". An attention kernel has an axis for
the heads: [D, H, D / H] for query, key and value, and [H, D / H, D] for the output. big_vision may
stack the blocks on axis 0, and adds the positions before it prepends the class token.
"""

from typing import NamedTuple

import numpy as np

from fsvfm_jax.convert.reference import MAX_DEPTH
from fsvfm_jax.convert.timm import StateDict
from fsvfm_jax.errors import DataError

BLOCK = "Transformer.encoderblock"
# Names of a block's layers in timm, in vision_transformer and in big_vision.
LAYERS = (
    ("norm1", "LayerNorm_0", "LayerNorm_0"),
    ("norm2", "LayerNorm_2", "LayerNorm_1"),
    ("mlp.fc1", "MlpBlock_3.Dense_0", "MlpBlock_0.Dense_0"),
    ("mlp.fc2", "MlpBlock_3.Dense_1", "MlpBlock_0.Dense_1"),
    ("attn", "MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0"),
)
OTHER_PARTS = ("head.", "pre_logits.")
POOLING = "MAPHead_0."


class TimmWeights(NamedTuple):
    """Weights under timm's names, and the number of heads from their shapes."""

    state_dict: dict[str, np.ndarray]
    num_heads: int


def is_google(state_dict: StateDict) -> bool:
    """Returns whether the names are Google's."""
    return "embedding.kernel" in state_dict


def to_timm(state_dict: StateDict) -> TimmWeights:
    """Converts Google's names and layouts to timm's, without classification heads.

    Args:
        state_dict: Arrays by Google's names, with "." instead of "/".

    Raises:
        DataError: The network is not a vision transformer with a class token, or a parameter is
            missing, unknown or has another number of dimensions.
    """
    if any(key.startswith(POOLING) for key in state_dict):
        raise DataError(
            "the network pools with an attention head (MAPHead_0), and not with the class token"
            " that an encoder needs here"
        )
    if "cls" not in state_dict:
        raise DataError("the network has no class token ('cls'), which an encoder needs here")
    left = _Parameters(
        {key: x for key, x in _unstacked(state_dict).items() if not key.startswith(OTHER_PARTS)}
    )
    found = {
        "cls_token": left.take("cls", 3),
        "pos_embed": _positions(left),
        "patch_embed.proj.weight": left.take("embedding.kernel", 4).transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": left.take("embedding.bias", 1),
    }
    heads = set()
    for block in range(_depth(left.arrays)):
        heads |= _read_block(left, block, found)
    found |= {
        "norm.weight": left.take("Transformer.encoder_norm.scale", 1),
        "norm.bias": left.take("Transformer.encoder_norm.bias", 1),
    }
    if left.arrays:
        raise DataError(f"{min(left.arrays)!r} is no parameter of Google's ViT")
    if len(heads) != 1:
        raise DataError(f"its blocks have attention heads of {len(heads)} different shapes")
    return TimmWeights(found, heads.pop()[0])


class _Parameters:
    """Arrays that are taken out by name; the arrays that remain are unknown."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays

    def take(self, name: str, ndim: int) -> np.ndarray:
        array = self.arrays.pop(name, None)
        if array is None:
            raise DataError(f"the weights lack {name!r}")
        if array.ndim != ndim or not array.size:
            raise DataError(f"{name!r} has shape {list(array.shape)}, not {ndim} dimensions")
        return array


def _positions(left: _Parameters) -> np.ndarray:
    """Returns the position table; a table without class token (big_vision) gets a row of zeros."""
    if "pos_embedding" not in left.arrays:
        return left.take("Transformer.posembed_input.pos_embedding", 3)
    return np.pad(left.take("pos_embedding", 3), ((0, 0), (1, 0), (0, 0)))


def _read_block(
    left: _Parameters, number: int, found: dict[str, np.ndarray]
) -> set[tuple[int, ...]]:
    """Moves a block's arrays to `found`, and returns the shapes of its heads: number and width."""
    block, heads = f"{BLOCK}_{number}", set()
    column = 1 if f"{block}.LayerNorm_2.scale" in left.arrays else 2
    for row in LAYERS:
        name, layer = f"blocks.{number}.{row[0]}", f"{block}.{row[column]}"
        if "norm" in name:
            found[f"{name}.weight"] = left.take(f"{layer}.scale", 1)
            found[f"{name}.bias"] = left.take(f"{layer}.bias", 1)
        elif "mlp" in name:
            found[f"{name}.weight"] = left.take(f"{layer}.kernel", 2).T
            found[f"{name}.bias"] = left.take(f"{layer}.bias", 1)
        else:
            parts = ("query", "key", "value")
            kernels = [left.take(f"{layer}.{part}.kernel", 3) for part in parts]
            biases = [left.take(f"{layer}.{part}.bias", 2) for part in parts]
            out = left.take(f"{layer}.out.kernel", 3)
            heads |= {*(x.shape[1:] for x in kernels), *(x.shape for x in biases), out.shape[:2]}
            found[f"{name}.qkv.weight"] = np.concatenate([x.reshape(len(x), -1).T for x in kernels])
            found[f"{name}.qkv.bias"] = np.concatenate([x.reshape(-1) for x in biases])
            found[f"{name}.proj.weight"] = out.reshape(-1, out.shape[-1]).T
            found[f"{name}.proj.bias"] = left.take(f"{layer}.out.bias", 1)
    return heads


def _unstacked(state_dict: StateDict) -> dict[str, np.ndarray]:
    """Converts stacked blocks to numbered blocks."""
    start, arrays = f"{BLOCK}.", {}
    for key, array in state_dict.items():
        if not key.startswith(start):
            arrays[key] = array
            continue
        depth = len(array) if array.ndim else 0
        if not 1 <= depth <= MAX_DEPTH:
            raise DataError(f"{key!r} stacks {depth} blocks, and not 1 to {MAX_DEPTH}")
        for block in range(depth):
            arrays[f"{BLOCK}_{block}.{key.removeprefix(start)}"] = array[block]
    return arrays


def _depth(arrays: StateDict) -> int:
    return len({key.split(".")[1] for key in arrays if key.startswith(f"{BLOCK}_")})
