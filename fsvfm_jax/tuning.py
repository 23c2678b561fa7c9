"""Decides which parameters fine-tuning trains: `split`, `join`, and the factors of LoRA.

| mode | trained parameters |
|---|---|
| full | all |
| adapter | the FS-Adapter, its projector and the head |
| linear | the head |
| norms | all LayerNorms and the head |
| lora | two factors beside some kernels of the blocks, and the head |
| partial | the last blocks, the norm and the attention pool after them, and the head |
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import PRNGKeyArray, PyTree
from ml_collections import ConfigDict, FrozenConfigDict

from fsvfm_jax.train_state import Params

MODES = ("full", "adapter", "linear", "norms", "lora", "partial")
HEAD = ("head",)
# An anti-spoofing network with an adapter also has the adapter's head, which it does not use.
FAS_HEAD = ("embedder", "classifier")
ADAPTER = ("adapter", "projector")
# The layers between the blocks and the head.
POOLING = ("norm", "fc_norm", "attn_pool")
BLOCKS = "blocks"
# The part of the tree with the factors; like that of the blocks, it has the blocks on axis 0.
FACTORS = "lora_blocks"


class Target(NamedTuple):
    """A kernel of the blocks, or one of several equal parts of its output channels.

    Attributes:
        path: The kernel's path in a block.
        part: Index of the part.
        parts: Number of the parts.
    """

    path: tuple[str, ...]
    part: int = 0
    parts: int = 1


QKV = ("attn", "qkv", "kernel")
TARGETS = {
    "qkv": Target(QKV),
    "q": Target(QKV, 0, 3),
    "k": Target(QKV, 1, 3),
    "v": Target(QKV, 2, 3),
    "proj": Target(("attn", "proj", "kernel")),
    "fc1": Target(("mlp", "fc1", "kernel")),
    "fc2": Target(("mlp", "fc2", "kernel")),
}


class Tuning(NamedTuple):
    """The way a detector is trained.

    Attributes:
        mode: One of `MODES`.
        fas: Whether the detector has the anti-spoofing head.
        last_blocks: Number of blocks that the mode "partial" trains.
        rank: Rank of LoRA's factors.
        alpha: LoRA's alpha; the product of the factors is multiplied by alpha / rank.
        targets: LoRA's kernels, by their names in `TARGETS`.
    """

    mode: str
    fas: bool = False
    last_blocks: int = 1
    rank: int = 1
    alpha: float = 1.0
    targets: tuple[str, ...] = ()


def make_tuning(config: ConfigDict | FrozenConfigDict) -> Tuning:
    """Returns the way of training of a resolved config of fine-tuning."""
    return Tuning(
        mode=config.mode,
        fas=config.model.fas,
        last_blocks=config.partial.blocks,
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        targets=tuple(config.lora.targets),
    )


def split(params: Params, tuning: Tuning) -> tuple[Params, Params]:
    """Splits a detector's tree into the trained and the frozen parameters.

    Args:
        params: The tree. In the mode "lora" it contains the factors.
        tuning: The way of training.

    Returns:
        Two trees. In the mode "partial" both contain the arrays of the blocks: the trained tree
        those of the last blocks, the frozen tree those of the blocks below.
    """
    trained, frozen = {}, {}
    for path, x in traverse_util.flatten_dict(params).items():
        if tuning.mode == "partial" and path[0] == BLOCKS:
            first = x.shape[0] - tuning.last_blocks
            frozen[path], trained[path] = x[:first], x[first:]
        elif _is_trained(path, tuning):
            trained[path] = x
        else:
            frozen[path] = x
    return traverse_util.unflatten_dict(trained), traverse_util.unflatten_dict(frozen)


def join(trained: Params, frozen: Params) -> Params:
    """Returns the tree that `split` splits; an array in both trees begins with its frozen part."""
    joined = dict(frozen)
    for name, x in trained.items():
        if name not in frozen:
            joined[name] = x
        elif isinstance(x, dict):
            joined[name] = join(x, frozen[name])
        else:
            joined[name] = jnp.concatenate([frozen[name], x])
    return joined


def _is_trained(path: tuple[str, ...], tuning: Tuning) -> bool:
    """Returns whether a whole array is trained."""
    top = path[0]
    if tuning.mode == "full" or top in (FAS_HEAD if tuning.fas else HEAD):
        return True
    return {
        "adapter": top in ADAPTER,
        "linear": False,
        "norms": any("norm" in name for name in path),
        "lora": top == FACTORS,
        "partial": top in POOLING,
    }[tuning.mode]


def count(tree: PyTree) -> int:
    """Returns the number of values in a tree of arrays or of their shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def init_factors(key: PRNGKeyArray, blocks: Params, tuning: Tuning) -> Params:
    """Returns new factors A and B of each target; their product is zero.

    A is normal with variance 1 / D, and B is zero. The paper (arXiv:2106.09685) draws A from a
    Gaussian and does not state its variance.

    Args:
        key: Key of the random numbers.
        blocks: The parameters of the blocks, stacked on axis 0.
        tuning: The way of training.

    Returns:
        By target, `a` float32 [depth, D, rank] and `b` float32 [depth, rank, E], for a kernel
        [depth, D, E] or a part of it.
    """
    factors: dict[str, Any] = {}
    for number, name in enumerate(tuning.targets):
        target = TARGETS[name]
        depth, width, output = _at(blocks, target.path).shape
        a = jax.random.normal(jax.random.fold_in(key, number), (depth, width, tuning.rank))
        b = jnp.zeros((depth, tuning.rank, output // target.parts))
        factors[name] = {"a": a / math.sqrt(width), "b": b}
    return factors


def merge(params: Params, tuning: Tuning) -> Params:
    """Adds alpha / rank * A B to the kernels, and returns a tree without factors.

    Args:
        params: A detector's tree; without factors it is returned as it is.
        tuning: The way of training.
    """
    if FACTORS not in params:
        return params
    blocks = traverse_util.flatten_dict(params[BLOCKS])
    for name, factors in params[FACTORS].items():
        path, part, parts = TARGETS[name]
        product = jnp.matmul(factors["a"], factors["b"], precision="highest")
        before, width = part * product.shape[-1], product.shape[-1]
        padding = (before, (parts - 1) * width - before)
        change = jnp.pad(product, ((0, 0), (0, 0), padding))
        blocks[path] = blocks[path] + tuning.alpha / tuning.rank * change
    return without_factors(params) | {BLOCKS: traverse_util.unflatten_dict(blocks)}


def without_factors(params: Params) -> Params:
    """Returns a detector's tree without the factors of LoRA."""
    return {name: x for name, x in params.items() if name != FACTORS}


def _at(tree: Params, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree
