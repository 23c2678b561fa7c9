"""Draws faces, each beside a copy that is coloured by its parsing map, as one picture."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.data.images import resize_face
from fsvfm_jax.host.pictures import image_grid, legend_strip
from fsvfm_jax.prepare.examine import Decoded
from fsvfm_jax.regions import CLASSES, PALETTE

TILE = 144  # pixels
FACES_PER_ROW = 4
_SHARE_OF_COLOUR = 0.5


def contact_sheet(faces: Sequence[Decoded]) -> UInt8[np.ndarray, "H W 3"]:
    """Returns rows of four faces, each beside a copy coloured by its map, above a legend.

    Args:
        faces: At least one face, of any size.
    """
    tiles = [resize_face(*face, image_size=TILE) for face in faces]
    images = np.stack([tile["image"] for tile in tiles])
    colours = PALETTE[np.stack([tile["parsing_map"] for tile in tiles])]
    blended = np.uint8(_SHARE_OF_COLOUR * colours + (1 - _SHARE_OF_COLOUR) * images)
    # White tiles complete the last row.
    missing = ((0, -len(tiles) % FACES_PER_ROW), (0, 0), (0, 0), (0, 0))
    columns = []
    for place in range(FACES_PER_ROW):
        for pictures in (images, blended):
            columns.append(np.pad(pictures, missing, constant_values=255)[place::FACES_PER_ROW])
    grid = image_grid(columns)
    legend = legend_strip(dict(zip(CLASSES, PALETTE, strict=True)), grid.shape[1])
    return np.concatenate([grid, legend])


def encode_sheet(sheet: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Returns the sheet as PNG."""
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG")
    return file.getvalue()
