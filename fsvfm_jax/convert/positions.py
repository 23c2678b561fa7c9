"""Converts a checkpoint to another image size: only the position tables depend on it."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.fsvfm import POSITION_TABLES
from fsvfm_jax.models.positions import sincos_positions


def resize_positions(params: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Returns the parameters with the position tables of another image size.

    A sine-cosine table is computed anew; any other table (learnt, fine-tuned, zeros) is
    interpolated, as PyTorch's `interpolate(mode="bicubic", align_corners=False)` does.

    Args:
        params: A student's, teacher's, encoder's or detector's tree.
        image_size: Side of the new images in pixels.

    Raises:
        ConfigError: `image_size` is not divisible by the patch size.
        DataError: A table is not that of a class token and a square of patches.
    """
    patch_size = round((np.shape(params["patch_embed"]["kernel"])[0] / 3) ** 0.5)
    if image_size < patch_size or image_size % patch_size:
        raise ConfigError(
            f"image size {image_size} is not divisible by the checkpoint's patch size {patch_size}"
        )
    side = image_size // patch_size
    resized = {
        name: resize_table(np.asarray(params[name]), side)
        for name in POSITION_TABLES
        if name in params
    }
    return {**params, **resized}


def resize_table(
    table: Float[np.ndarray, "1 tokens D"], side: int
) -> Float[np.ndarray, "1 new_tokens D"]:
    """Returns a table for a class token and `side` x `side` patches; the class token's row stays.

    Args:
        table: The old table.
        side: Patches along a side of the new image.

    Raises:
        DataError: The table is not that of a class token and a square of patches.
    """
    _, tokens, width = table.shape
    old_side = round(max(tokens - 1, 0) ** 0.5)
    if old_side == 0 or old_side**2 + 1 != tokens:
        raise DataError(
            f"a position table of {tokens} rows is not one of a class token and a square of patches"
        )
    if side == old_side:
        return table
    if np.allclose(table, sincos_positions(old_side, width), rtol=0, atol=1e-5):
        return sincos_positions(side, width).astype(table.dtype)
    patches = jax.image.resize(
        table[:, 1:].reshape(old_side, old_side, width),
        (side, side, width),
        "cubic-pytorch",
        antialias=False,
        precision="highest",
    )
    return np.concatenate([table[:, :1], np.asarray(patches).reshape(1, -1, width)], axis=1)
