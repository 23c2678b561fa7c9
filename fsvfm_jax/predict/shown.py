"""Keeps a small picture of a file to show. Worker processes import this module."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

MAX_SHOWN_SIDE = 800  # pixels


class Shown(NamedTuple):
    """A picture of a file: of a video, the first frame with the most faces.

    Attributes:
        frame: Number of the frame; None for a photograph.
        scale: Side of the picture, divided by that of the photograph or frame.
        pixels: The picture, with at most MAX_SHOWN_SIDE pixels on a side.
    """

    frame: int | None
    scale: float
    pixels: UInt8[np.ndarray, "H W 3"]


def shown_picture(frame: int | None, image: UInt8[np.ndarray, "H W 3"]) -> Shown:
    """Returns a picture to show of a photograph or frame.

    Args:
        frame: Number of the frame; None for a photograph.
        image: Its pixels.
    """
    height, width, _ = image.shape
    scale = min(MAX_SHOWN_SIDE / max(height, width), 1.0)
    size = max(round(scale * width), 1), max(round(scale * height), 1)
    return Shown(frame, scale, np.array(Image.fromarray(image).resize(size)))
