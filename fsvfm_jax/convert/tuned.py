"""The small file of a detector: what fine-tuning changed and the head, without the frozen encoder.

The arrays have timm's names. The factors of LoRA are `blocks.<i>.<target>.lora_A` [rank, D] and
`.lora_B` [E, rank], where `<target>` is attn.qkv, attn.q, attn.k, attn.v, attn.proj, mlp.fc1 or
mlp.fc2: lora_B @ lora_A is added to the weight, or to the rows of q, k or v in attn.qkv. lora_B
contains the factor alpha / rank.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.train_state import Params
from fsvfm_jax.tuning import FACTORS, TARGETS, Tuning, split, without_factors

StateDict = dict[str, np.ndarray]
A, B = ".lora_A", ".lora_B"


class Tuned(NamedTuple):
    """A detector in which fine-tuning changed some arrays.

    Attributes:
        params: The detector's tree; the factors of LoRA are apart from the kernels.
        tuning: The way of training.
    """

    params: Params
    tuning: Tuning


def small_file(
    tuned: Tuned | None, to_timm: Callable[[Params], StateDict]
) -> tuple[StateDict, StateDict]:
    """Returns the arrays of the small file, and the arrays of the encoder that are not in it.

    The norm of pooled features is in the small file, because no encoder has it.

    Args:
        tuned: The detector; None if its way of training is not known or trains all.
        to_timm: Returns a tree, or a part of one, under timm's names.

    Raises:
        ConfigError: The way of training is not known or trains all.
    """
    if tuned is None:
        raise ConfigError(
            "only a run of another mode than full, or a detector with an adapter, can be written"
            " without its encoder"
        )
    params, tuning = tuned
    arrays = to_timm(without_factors(params))
    trained, frozen = split(params, tuning)
    kept = {name: params[name] for name in ("fc_norm",) if name in params}
    first = len(frozen["blocks"]["norm1"]["scale"]) if tuning.mode == "partial" else 0
    small = {
        re.sub(r"^blocks\.(\d+)", lambda block: f"blocks.{int(block[1]) + first}", name): array
        for name, array in to_timm(without_factors(trained) | kept).items()
    }
    encoder = {name: x for name, x in arrays.items() if name not in small}
    return small | _factors(params, tuning), encoder


def add_factors(state_dict: StateDict) -> StateDict:
    """Returns a detector's arrays with the products of the factors added to their weights.

    Args:
        state_dict: The arrays of the small file and those of its encoder.

    Raises:
        DataError: A factor has no partner or no weight, or does not fit it.
    """
    merged = {name: x for name, x in state_dict.items() if not name.endswith((A, B))}
    starts = {name.removesuffix(A).removesuffix(B) for name in state_dict.keys() - merged.keys()}
    for start in sorted(starts):
        layer, _, name = start.rpartition(".")
        target = TARGETS.get(name)
        path = f"{layer}.qkv.weight" if target and target.parts > 1 else f"{start}.weight"
        a, b, weight = state_dict.get(start + A), state_dict.get(start + B), merged.get(path)
        if target is None or a is None or b is None or weight is None or weight.ndim != 2:
            raise DataError(f"the factors of {start!r} have no weight, or one of them is missing")
        rows, width = weight.shape[0] // target.parts, weight.shape[1]
        if a.ndim != 2 or a.shape[1] != width or b.shape != (rows, a.shape[0]):
            raise DataError(
                f"the factors of {start!r} are {list(a.shape)} and {list(b.shape)}, and do not fit"
                f" {path!r}, which is {list(weight.shape)}"
            )
        merged[path] = np.array(weight, np.float32)
        merged[path][target.part * rows : (target.part + 1) * rows] += b @ a
    return merged


def _factors(params: Params, tuning: Tuning) -> StateDict:
    """Returns the factors of all blocks under the names of the small file."""
    arrays = {}
    for target, factors in params.get(FACTORS, {}).items():
        layer = TARGETS[target].path[0]
        for block, (a, b) in enumerate(zip(factors["a"], factors["b"], strict=True)):
            start = f"blocks.{block}.{layer}.{target}"
            arrays[start + A] = np.asarray(a).T
            arrays[start + B] = np.asarray(b).T * np.float32(tuning.alpha / tuning.rank)
    return arrays
