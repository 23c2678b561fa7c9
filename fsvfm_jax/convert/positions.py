"""Converts a checkpoint to another image size: only the position tables depend on it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.fsvfm import POSITION_TABLES
from fsvfm_jax.models.positions import sincos_positions
from fsvfm_jax.models.vit import ViT

MAX_IMAGE_SIZE = 4096  # pixels


def resize_positions(
    params: Mapping[str, Any], image_size: int, model: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Returns the parameters with the position tables of another image size.

    A sine-cosine table is computed anew; any other table (learnt, fine-tuned, zeros) is
    interpolated, as PyTorch's `interpolate(mode="bicubic", align_corners=False)` does. DINOv2's
    networks with registers interpolate with `antialias=True`. Rotations need no table.

    Args:
        params: A student's, teacher's, encoder's or detector's tree.
        image_size: Side of the new images in pixels.
        model: Measures and options of the network.

    Raises:
        ConfigError: `image_size` is not divisible by the patch size, or is over MAX_IMAGE_SIZE, or
            the network has a table and rotations.
        DataError: A table is not that of a square of patches.
    """
    if model.get("positions") == "table_and_rope":
        raise ConfigError(
            "another image size is not supported for a table with rotations (Perception Encoder):"
            " their size would have to change together"
        )
    patch_size = round((np.shape(params["patch_embed"]["kernel"])[0] / 3) ** 0.5)
    if image_size < patch_size or image_size % patch_size:
        raise ConfigError(
            f"image size {image_size} is not divisible by the checkpoint's patch size {patch_size}"
        )
    if image_size > MAX_IMAGE_SIZE:
        raise ConfigError(f"image size {image_size} is over {MAX_IMAGE_SIZE} pixels")
    side = image_size // patch_size
    resized = {
        name: resize_table(np.asarray(params[name]), side, prefix=1)
        for name in POSITION_TABLES
        if name in params and name != "pos_embed"
    }
    if "pos_embed" in params:
        resized["pos_embed"] = resize_table(
            np.asarray(params["pos_embed"]),
            side,
            prefix=model.get("prefix_positions", ViT.prefix_positions),
            antialias="reg_token" in params,
        )
    return {**params, **resized}


def resize_table(
    table: Float[np.ndarray, "1 tokens D"], side: int, *, prefix: int = 1, antialias: bool = False
) -> Float[np.ndarray, "1 new_tokens D"]:
    """Returns a table for `side` x `side` patches; the rows before those of the patches stay.

    Args:
        table: The old table.
        side: Patches along a side of the new image.
        prefix: Rows before those of the patches.
        antialias: Whether a smaller table is made with a filter against aliasing.

    Raises:
        DataError: The table is not that of a square of patches.
    """
    _, tokens, width = table.shape
    old_side = round(max(tokens - prefix, 0) ** 0.5)
    if old_side == 0 or old_side**2 + prefix != tokens:
        before = "a class token and " if prefix == 1 else ""
        raise DataError(
            f"a position table of {tokens} rows is not one of {before}a square of patches"
        )
    if side == old_side:
        return table
    fixed, fresh = (sincos_positions(n, width).astype(table.dtype) for n in (old_side, side))
    if prefix == 1 and np.allclose(table, fixed, rtol=0, atol=1e-5):
        return fresh
    if np.allclose(table[:, prefix:], fixed[:, 1:], rtol=0, atol=1e-5):
        return np.concatenate([table[:, :prefix], fresh[:, 1:]], axis=1)
    patches = jax.image.resize(
        table[:, prefix:].reshape(old_side, old_side, width),
        (side, side, width),
        # PyTorch uses another cubic kernel if it filters.
        "cubic" if antialias else "cubic-pytorch",
        antialias=antialias,
        precision="highest",
    )
    return np.concatenate([table[:, :prefix], np.asarray(patches).reshape(1, -1, width)], axis=1)
