"""Converts encoders with timm's parameter names (MAE's are the same) to ours, in NumPy.

timm's names of a plain vision transformer are the reference's, so this module uses the reference's
table. Heads and decoders are dropped; arrays of a different kind of network are refused.
"""

import re
from collections.abc import Mapping

import jax
import numpy as np

from fsvfm_jax.convert import reference
from fsvfm_jax.convert.measures import shapes_of, side_of_table
from fsvfm_jax.errors import DataError
from fsvfm_jax.models.adapter import Detector
from fsvfm_jax.models.fsvfm import encoder_subset
from fsvfm_jax.train_state import Params

StateDict = Mapping[str, np.ndarray]

# Parts that do not belong to the encoder. `fc_norm` is a norm of pooled features, not of tokens.
OTHER_PARTS = re.compile(r"(head|fc_norm|mask_token|decoder_\w+)(\..+)?")
NAMED = 3  # differing keys in an error


def to_encoder(state_dict: StateDict) -> Params:
    """Converts timm's or MAE's names and layouts to our encoder's parameters, float32.

    No state dict contains the number of heads: timm's own ViT-S has 6, ours 12.

    Raises:
        DataError: The network is not a plain vision transformer with class token, positions and
            final norm.
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
    """Returns an encoder's tree of zeros, with the measures of these arrays; it takes no memory.

    Args:
        cls_token: The class token, [1, 1, D].
        positions: The position table, [1, 1 + N, D].
        patches: The kernel of the patch embedding, [D, 3, P, P].
        depth: Number of blocks.

    Raises:
        DataError: An array is missing, or has a form that a plain vision transformer does not have.
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
        num_heads=1,  # It is in no shape.
        pool="token",
    )
    shapes = encoder_subset(shapes_of(model))
    return jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)


def count_blocks(state_dict: StateDict, prefix: str) -> int:
    """Returns how many different numbers follow `prefix` in the keys.

    Raises:
        DataError: There are more blocks than in any network.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    blocks = {match[1] for key in state_dict if (match := pattern.match(key))}
    return reference.check_depth(prefix, len(blocks))


def as_float32(params: Params) -> Params:
    """Returns the parameters as float32."""
    return jax.tree.map(lambda x: np.asarray(x, np.float32), params)


def check_keys(state_dict: StateDict, expected: StateDict) -> None:
    """Raises DataError with the first keys that are missing, unexpected, or of another shape."""
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
