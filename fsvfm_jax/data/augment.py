"""Augments a face and its parsing map together.

Data workers import this module, which needs NumPy and Pillow only.
"""

import math

import numpy as np

from fsvfm_jax.data.images import Face, resize_face
from fsvfm_jax.regions import CLASSES

# The share of the area that a crop keeps, and the crop's width / height.
CROP_AREA = (0.2, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_TRIES = 10


def _mirrored_classes() -> np.ndarray:
    """Returns for each class the class of its pixels after mirroring: right becomes left."""
    sides = {"right": "left", "left": "right"}
    names = ["_".join(sides.get(word, word) for word in name.split("_")) for name in CLASSES]
    return np.array([CLASSES.index(name) for name in names], np.uint8)


MIRRORED_CLASSES = _mirrored_classes()


def crop_and_flip(face: Face, rng: np.random.Generator) -> Face:
    """Returns a random part of the face at the face's size, mirrored with probability 1/2.

    As in MAE, the part has 0.2 to 1 of the area and a shape of 3:4 to 4:3. The image is resampled
    bicubic, the map nearest. Mirroring exchanges the classes of left and right.
    """
    face = _crop(face, rng)
    if rng.random() < 0.5:
        image, parsing_map = face["image"][:, ::-1], face["parsing_map"][:, ::-1]
        face = {
            "image": np.ascontiguousarray(image),
            "parsing_map": np.ascontiguousarray(MIRRORED_CLASSES[parsing_map]),
        }
    return face


def _crop(face: Face, rng: np.random.Generator) -> Face:
    size = face["parsing_map"].shape[0]
    box = draw_crop(size, size, rng=rng, area=CROP_AREA, aspect=CROP_ASPECT)
    return resize_face(face["image"][box], face["parsing_map"][box], image_size=size)


def draw_crop(
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[slice, slice]:
    """Draws a random part of a picture, as torchvision's RandomResizedCrop does.

    Args:
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        rng: Draws area and aspect until the part fits, at most ten times, and then the place.
        area: Range of the part's share of the picture's area, drawn uniformly.
        aspect: Range of the part's width / height, drawn uniformly in the logarithm.

    Returns:
        Rows and columns of the part. If none of ten parts fits, it is the middle of the picture,
        cut only where the picture's aspect is outside the range.
    """
    for _ in range(CROP_TRIES):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*np.log(aspect)))
        rows, columns = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            left, top = rng.integers(width - columns + 1), rng.integers(height - rows + 1)
            break
    else:
        rows = min(height, round(width / aspect[0]))
        columns = min(width, round(height * aspect[1]))
        left, top = (width - columns) // 2, (height - rows) // 2
    return slice(top, top + rows), slice(left, left + columns)
