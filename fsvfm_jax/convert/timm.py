"""Converts encoders with timm's parameter names (MAE's are the same) to ours, in NumPy.

timm's names of a plain vision transformer are the reference's, so this module uses the reference's
table. Heads and decoders are dropped; arrays of a different kind of network are refused.
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from fsvfm_jax.convert import reference
from fsvfm_jax.convert.families import check_supported
from fsvfm_jax.convert.measures import prefix_rows, shapes_of, side_of_table
from fsvfm_jax.convert.names import has_pool
from fsvfm_jax.errors import DataError
from fsvfm_jax.models import build_encoder
from fsvfm_jax.train_state import Params

StateDict = Mapping[str, np.ndarray]

# Parts that do not belong to the encoder. `fc_norm` is a norm of pooled features, not of tokens.
OTHER_PARTS = re.compile(r"(head|fc_norm|mask_token|decoder_\w+)(\..+)?")
MAX_REGISTERS = 1024
NAMED = 3  # differing keys in an error


def to_encoder(
    state_dict: StateDict, *, called: Mapping[str, str] = MappingProxyType({}), **options: Any
) -> Params:
    """Converts timm's or MAE's names and layouts to our encoder's parameters, float32.

    No state dict contains the number of heads: timm's own ViT-S has 6, ours 12.

    Args:
        state_dict: The arrays.
        called: The names for messages of keys that have other names in the file.
        options: Options of `ViT` that no array shows.

    Raises:
        DataError: The network is not a vision transformer with the parts of `ViT`.
    """
    kept = {key: array for key, array in state_dict.items() if not OTHER_PARTS.fullmatch(key)}
    check_supported(kept)
    blank = blank_encoder(
        cls_token=kept.get("cls_token"),
        registers=kept.get("reg_token"),
        table=kept.get("pos_embed"),
        patches=kept.get("patch_embed.proj.weight"),
        depth=count_blocks(kept, "blocks."),
        pre_norm="norm_pre.weight" in kept,
        layer_scale=any(key.endswith(".ls1.gamma") for key in kept),
        pool_heads=int(has_pool(kept)),  # Their number is in no shape.
        **options,
    )
    check_keys(kept, reference.to_state_dict(blank), called=called)
    return as_float32(reference.to_params(kept))


def blank_encoder(
    *,
    cls_token: np.ndarray | None,
    table: np.ndarray | None,
    patches: np.ndarray | None,
    depth: int,
    registers: np.ndarray | None = None,
    **options: Any,
) -> Params:
    """Returns an encoder's tree of zeros, with the measures of these arrays; it takes no memory.

    Args:
        cls_token: The class token, [1, 1, D].
        table: The position table, [1, rows + N, D].
        patches: The kernel of the patch embedding, [D, 3, P, P].
        depth: Number of blocks.
        registers: The register tokens, [1, R, D].
        options: Other options of `ViT`. Without rotations there must be a table, and with a table
            and no rows for a prefix there need not be a class token.

    Raises:
        DataError: An array is missing, or has a form that a vision transformer does not have.
    """
    rotates = options.get("positions") == "rope"
    has_class = cls_token is not None or rotates or table is None or _has_a_row(table)
    none = np.zeros((1, 1, 1))
    for name, array, form in (
        ("class token", cls_token if has_class else none, "[1, 1, D]"),
        ("table of registers", none if registers is None else registers, "[1, R, D]"),
        ("position table", none if rotates else table, "[1, 1 + N, D]"),
        ("patch embedding", patches, "[D, 3, P, P]"),
    ):
        if array is None or array.ndim != form.count(",") + 1 or 0 in array.shape:
            found = "no array of that name" if array is None else f"one of shape {array.shape}"
            raise DataError(f"an encoder needs a {name} of shape {form}, but there is {found}")
    patch_size, width = patches.shape[-1], patches.shape[0]
    count = 0 if registers is None else registers.shape[1]
    rows, side = 1, 1
    if not rotates:
        rows = prefix_rows(table, has_class + count)
        side = side_of_table("position table", table, width=width, prefix=rows)
    _check_registers(registers, width)
    if depth == 0 or width % 4:
        raise DataError(f"{depth} blocks of {width} channels make no encoder")
    model = build_encoder(
        {
            "image_size": side * patch_size,
            "patch_size": patch_size,
            "width": width,
            "depth": depth,
            "num_heads": 1,  # It is in no shape.
            "class_token": has_class,
            "registers": count,
            "prefix_positions": rows,
            **options,
        }
    )
    return jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes_of(model))


def _check_registers(registers: np.ndarray | None, width: int) -> None:
    """Raises DataError for registers of another width, and for too many of them."""
    if registers is None:
        return
    count = registers.shape[1]
    if count > MAX_REGISTERS or registers.shape != (1, count, width):
        raise DataError(
            f"the register tokens have shape {list(registers.shape)}, not [1, up to"
            f" {MAX_REGISTERS}, {width}]"
        )


def _has_a_row(table: np.ndarray) -> bool:
    """Returns whether a position table has a row for a class token."""
    return table.ndim != 3 or math.isqrt(table.shape[1]) ** 2 != table.shape[1]


def count_blocks(state_dict: StateDict, prefix: str) -> int:
    """Returns how many different numbers follow `prefix` in the keys.

    Raises:
        DataError: There are more blocks than in any network.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    blocks = {match[1] for key in state_dict if (match := pattern.match(key))}
    return reference.check_depth(prefix, len(blocks))


def as_float32(params: Params) -> Params:
    """Returns the parameters as float32; larger values become infinite."""
    with np.errstate(over="ignore"):
        return jax.tree.map(lambda x: np.asarray(x, np.float32), params)


def check_keys(
    state_dict: StateDict,
    expected: StateDict,
    *,
    called: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raises DataError with the first keys that are missing, unexpected, or of another shape.

    Args:
        state_dict: The arrays.
        expected: Arrays with the keys and shapes that they should have.
        called: The names for the message of keys that have other names in the file.
    """
    reshaped = [
        f"{called.get(key, key)} {state_dict[key].shape} instead of {expected[key].shape}"
        for key in sorted(expected.keys() & state_dict.keys())
        if state_dict[key].shape != expected[key].shape
    ]
    differences = {
        "missing": sorted(called.get(key, key) for key in expected.keys() - state_dict.keys()),
        "not expected": sorted(state_dict.keys() - expected.keys()),
        "of another shape": reshaped,
    }
    if any(differences.values()):
        parts = [
            f"{len(keys)} {what}: {', '.join(keys[:NAMED])}{', ...' if len(keys) > NAMED else ''}"
            for what, keys in differences.items()
            if keys
        ]
        raise DataError(
            "the weights are not those of a vision transformer that is known here;"
            f" {'; '.join(parts)}"
        )
