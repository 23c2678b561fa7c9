"""The regions of an average face: a parsing map without a network, for aligned crops."""

import numpy as np
from jaxtyping import UInt8

from fsvfm_jax.regions import CLASSES

_ROWS_AT_ONCE = 256
# The centres and half-axes of ellipses, x and y, as shares of the crop's side; later ellipses cover
# earlier ones. They fit crops of 1.3 times the box of a frontal face.
_REGIONS = (
    ("hair", (0.50, 0.19, 0.40, 0.22)),
    ("skin", (0.50, 0.52, 0.36, 0.44)),
    ("right_brow", (0.335, 0.265, 0.105, 0.032)),
    ("left_brow", (0.665, 0.265, 0.105, 0.032)),
    ("right_eye", (0.36, 0.355, 0.058, 0.024)),
    ("left_eye", (0.64, 0.355, 0.058, 0.024)),
    ("nose", (0.50, 0.48, 0.07, 0.115)),
    ("lower_lip", (0.50, 0.705, 0.125, 0.055)),
    ("upper_lip", (0.50, 0.66, 0.12, 0.03)),
    ("inner_mouth", (0.50, 0.682, 0.10, 0.024)),
)


def average_map(height: int, width: int) -> UInt8[np.ndarray, "height width"]:
    """Returns the class of every pixel of an average face that fills a crop of this size.

    Args:
        height: Height of the crop in pixels.
        width: Width of the crop in pixels.
    """
    y = (np.arange(height)[:, None] + 0.5) / height
    x = (np.arange(width) + 0.5) / width
    parsing_map = np.zeros((height, width), np.uint8)
    # Strips save memory: a whole crop would need eight times the memory of its pixels.
    for top in range(0, height, _ROWS_AT_ONCE):
        rows = slice(top, top + _ROWS_AT_ONCE)
        for name, (centre_x, centre_y, half_x, half_y) in _REGIONS:
            inside = ((x - centre_x) / half_x) ** 2 + ((y[rows] - centre_y) / half_y) ** 2 <= 1
            parsing_map[rows][inside] = CLASSES.index(name)
    return parsing_map


class AverageParser:
    """Gives every face the same regions, for frontal crops as `detect` makes them."""

    def __call__(
        self, names: list[str], images: list[UInt8[np.ndarray, "_H _W 3"]]
    ) -> list[UInt8[np.ndarray, "_H _W"] | str]:
        """Returns a map for each image."""
        return [average_map(*image.shape[:2]) for image in images]
