"""Positions of patches: fixed sine-cosine tables, and rotations of queries and keys (RoPE)."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

# How an encoder learns where a patch is: a table that is added to the patches, DINOv3's rotations,
# or a table and the rotations of Perception Encoder.
POSITIONS = ("table", "rope", "table_and_rope")
DINOV3_BASE, PERCEPTION_BASE = 100.0, 10000.0


class Rotation(NamedTuple):
    """Sine and cosine of the angle by which a token rotates each channel of a head.

    Attributes:
        sin: Sines, [L, D] for all images alike, or [B, L, D].
        cos: Cosines of the same angles.
    """

    sin: Float32[Array | np.ndarray, "*B L D"]
    cos: Float32[Array | np.ndarray, "*B L D"]


def sincos_positions(side: int, width: int) -> Float[np.ndarray, "1 tokens width"]:
    """Returns fixed 2-D sine-cosine positions of a class token and `side` x `side` patches.

    The position of the class token is zero. The first half of the channels encodes the column, the
    second the row; in each half, the sines of all frequencies precede the cosines.
    """
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    angles = np.arange(side)[:, None] * frequencies
    axis = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    columns = np.tile(axis, (side, 1))
    rows = np.repeat(axis, side, axis=0)
    patches = np.concatenate([columns, rows], axis=1)
    return np.concatenate([np.zeros((1, width)), patches])[None].astype(np.float32)


def rotation(positions: str, side: int, channels: int, *, prefix: int) -> Rotation:
    """Returns the rotations of the tokens of an image.

    DINOv3's ("rope"): the centre of a patch lies at -1 to 1 along each side; the periods are
    100^(4k / D); rows precede columns, and both halves of the channels have the same angles.
    Perception Encoder's ("table_and_rope"): a patch lies at 1 to `side`; the frequencies are
    10000^(-4k / D); columns precede rows, and neighbouring channels have the same angle.

    Args:
        positions: "rope" or "table_and_rope".
        side: Patches along a side of the image.
        channels: Channels D of a head, divisible by 4.
        prefix: Number of tokens before the patches, which are not rotated.
    """
    powers = np.arange(channels // 4) / (channels // 4)
    if positions == "rope":
        place = 2 * (np.arange(side) + 0.5) / side - 1
        axis = 2 * np.pi * place[:, None] * DINOV3_BASE**-powers
    else:
        axis = (np.arange(side) + 1)[:, None] * PERCEPTION_BASE**-powers
    rows, columns = np.repeat(axis, side, axis=0), np.tile(axis, (side, 1))
    if positions == "rope":
        angles = np.tile(np.concatenate([rows, columns], axis=1), (1, 2))
    else:
        angles = np.repeat(np.concatenate([columns, rows], axis=1), 2, axis=1)
    angles = np.concatenate([np.zeros((prefix, channels)), angles])
    return Rotation(np.sin(angles).astype(np.float32), np.cos(angles).astype(np.float32))


def rotate(
    x: Float[Array, "B L H D"], by: Rotation, *, interleaved: bool
) -> Float[Array, "B L H D"]:
    """Rotates pairs of channels of queries or keys, in float32; the dtype stays.

    Args:
        x: Queries or keys of H heads.
        by: The rotations of the L tokens.
        interleaved: Whether a pair is two neighbours (Perception Encoder), or channel c and channel
            c + D / 2 (DINOv3).
    """
    y = x.astype(jnp.float32)
    if interleaved:
        turned = jnp.stack([-y[..., 1::2], y[..., ::2]], axis=-1).reshape(y.shape)
    else:
        first, second = jnp.split(y, 2, axis=-1)
        turned = jnp.concatenate([-second, first], axis=-1)
    sin, cos = (jnp.reshape(table, (-1, *table.shape[-2:]))[:, :, None] for table in by)
    return (y * cos + turned * sin).astype(x.dtype)
