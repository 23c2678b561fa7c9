"""Encoders that others trained, under timm's parameter names (MAE's are the same), in NumPy.

timm's names of a plain vision transformer are the reference's, so the reference's table serves
here. Heads and decoders are left out; what would make the network another one is refused.
"""

import re
from collections.abc import Mapping

import jax
import numpy as np

from fsvfm_jax.convert import reference
from fsvfm_jax.convert.measures import side_of_table
from fsvfm_jax.errors import DataError
from fsvfm_jax.models.adapter import Detector
from fsvfm_jax.models.fsvfm import Params

StateDict = Mapping[str, np.ndarray]

# What stands on an encoder or beside it. `fc_norm` is a norm of pooled features, not of tokens.
OTHER_PARTS = re.compile(r"(head|fc_norm|mask_token|decoder_\w+)(\..+)?")
NAMED = 3  # of the keys that differ, in an error


def to_encoder(state_dict: StateDict) -> Params:
    """Turns timm's or MAE's names and layouts into our encoder's parameters, float32.

    The number of heads is in no state dict: timm's own ViT-S has 6, ours 12.

    Raises:
        DataError: It is no plain vision transformer with class token, positions and final norm.
    """
    kept = {key: array for key, array in state_dict.items() if not OTHER_PARTS.fullmatch(key)}
    blank = blank_encoder(
        cls_token=kept.get("cls_token"),
        positions=kept.get("pos_embed"),
        patches=kept.get("patch_embed.proj.weight"),
        depth=count_blocks(kept, "blocks."),
    )
    check_keys(kept, reference.to_state_dict(blank))
    return as_float32(reference.to_params(kept))


def blank_encoder(
    *,
    cls_token: np.ndarray | None,
    positions: np.ndarray | None,
    patches: np.ndarray | None,
    depth: int,
) -> Params:
    """What an encoder's parameters look like whose measures these arrays show; takes no memory.

    Raises:
        DataError: An array is missing or not of the form that a plain vision transformer has.
    """
    for name, array, form in (
        ("class token", cls_token, "[1, 1, D]"),
        ("position table", positions, "[1, 1 + N, D]"),
        ("patch embedding", patches, "[D, 3, P, P]"),
    ):
        if array is None or array.ndim != form.count(",") + 1 or 0 in array.shape:
            found = "no array of that name" if array is None else f"one of shape {array.shape}"
            raise DataError(f"an encoder needs a {name} of shape {form}, but there is {found}")
    patch_size, width = patches.shape[-1], cls_token.shape[-1]
    side = side_of_table("position table", positions, width=width)
    if depth == 0 or width % 4:
        raise DataError(f"{depth} blocks of {width} channels make no encoder")
    model = Detector(
        image_size=side * patch_size,
        patch_size=patch_size,
        width=width,
        depth=depth,
        num_heads=1,  # is in no shape
        pool="token",
    )
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    del shapes["head"]
    return jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)


def count_blocks(state_dict: StateDict, prefix: str) -> int:
    """Returns how many numbers follow `prefix` in the keys.

    Raises:
        DataError: There are more than any network has.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    blocks = {match[1] for key in state_dict if (match := pattern.match(key))}
    return reference.check_depth(prefix, len(blocks))


def as_float32(params: Params) -> Params:
    return jax.tree.map(lambda x: np.asarray(x, np.float32), params)


def check_keys(state_dict: StateDict, expected: StateDict) -> None:
    """Raises DataError naming the first keys that are missing, not expected, or of other shapes."""
    reshaped = [
        f"{key} {state_dict[key].shape} instead of {expected[key].shape}"
        for key in sorted(expected.keys() & state_dict.keys())
        if state_dict[key].shape != expected[key].shape
    ]
    differences = {
        "missing": sorted(expected.keys() - state_dict.keys()),
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
            "the weights are not those of a plain vision transformer with a class token;"
            f" {'; '.join(parts)}"
        )
