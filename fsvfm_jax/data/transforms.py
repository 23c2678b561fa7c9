"""What happens to one face on its way into a batch. NumPy and Pillow: data workers import it."""

from typing import TypedDict

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from fsvfm_jax.regions import patch_classes


class Face(TypedDict):
    """A square face and the class (0 to 10) of each of its pixels, as every source returns it."""

    image: UInt8[np.ndarray, "S S 3"]
    parsing_map: UInt8[np.ndarray, "S S"]


class BatchElement(TypedDict):
    """What leaves a worker: the image and one 16-bit word per patch instead of the map."""

    image: UInt8[np.ndarray, "S S 3"]
    classes: UInt16[np.ndarray, " N"]


def resize_face(
    image: UInt8[np.ndarray, "H W 3"], parsing_map: UInt8[np.ndarray, "H W"], *, image_size: int
) -> Face:
    """Returns the pair at image_size x image_size, the image bicubic and the map nearest.

    A pair of that size is returned as it is. A pair that is not square is stretched, not cropped.
    """
    size = (image_size, image_size)
    if parsing_map.shape != size:
        bicubic, nearest = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
        image = np.array(Image.fromarray(image).resize(size, bicubic))
        parsing_map = np.array(Image.fromarray(parsing_map).resize(size, nearest))
    return {"image": image, "parsing_map": parsing_map}


def to_batch_element(face: Face, patch_size: int) -> BatchElement:
    """Returns the face with its map packed into one word per patch, row by row.

    Raises:
        ValueError: patch_size does not divide the image's size, or a class is outside 0 to 10.
    """
    classes = patch_classes(face["parsing_map"][None], patch_size)[0]
    return {"image": face["image"], "classes": classes}
