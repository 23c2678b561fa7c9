"""Joint augmentation of a face and its parsing map. NumPy and Pillow: data workers import it."""

import math

import numpy as np

from fsvfm_jax.data.transforms import Face, resize_face
from fsvfm_jax.regions import CLASSES

# Share of the area that a crop keeps, and its width / height.
CROP_AREA = (0.2, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_TRIES = 10


def _mirrored_classes() -> np.ndarray:
    """Class of a pixel once the face is mirrored: what was right is left."""
    sides = {"right": "left", "left": "right"}
    names = ["_".join(sides.get(word, word) for word in name.split("_")) for name in CLASSES]
    return np.array([CLASSES.index(name) for name in names], np.uint8)


MIRRORED_CLASSES = _mirrored_classes()


def crop_and_flip(face: Face, rng: np.random.Generator) -> Face:
    """Returns a random part of the face, at the face's size, mirrored every other time.

    The part has 0.2 to 1 of the area and is 3:4 to 4:3, as in MAE. The image is resampled bicubic,
    the map nearest; mirroring exchanges the classes of left and right.
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
    for _ in range(CROP_TRIES):
        area = size * size * rng.uniform(*CROP_AREA)
        aspect = math.exp(rng.uniform(*np.log(CROP_ASPECT)))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if width <= size and height <= size:
            break
    else:
        return face
    left, top = rng.integers(size - width + 1), rng.integers(size - height + 1)
    box = np.s_[top : top + height, left : left + width]
    return resize_face(face["image"][box], face["parsing_map"][box], image_size=size)
