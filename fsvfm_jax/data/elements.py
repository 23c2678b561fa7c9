"""From a face to a row of a batch, for each task. NumPy and Pillow: data workers import it.

What is drawn hangs on the seed and the place in the stream alone: not on workers, hosts, restarts.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from jaxtyping import UInt8, UInt16

from fsvfm_jax.data import rand_augment
from fsvfm_jax.data.augment import crop_and_flip
from fsvfm_jax.data.images import Face
from fsvfm_jax.data.labelled.faces import LabelledFace
from fsvfm_jax.regions import patch_classes


class BatchElement(TypedDict):
    """What leaves a worker: the image and one 16-bit word per patch instead of the map."""

    image: UInt8[np.ndarray, "S S 3"]
    classes: UInt16[np.ndarray, " N"]


class DetectionElement(TypedDict):
    """A face to train on, and its index into `LABELS`."""

    image: UInt8[np.ndarray, "S S 3"]
    label: np.int32


class ViewedElement(TypedDict):
    """A face to evaluate, and whether it could be read at all."""

    image: UInt8[np.ndarray, "S S 3"]
    readable: np.bool_


def pretraining_element(
    face: Face, key: tuple[int, int], *, patch_size: int, augment: bool = False
) -> BatchElement:
    """Image and one 16-bit word per patch; cropped and flipped at random if `augment`."""
    if augment:
        face = crop_and_flip(face, random_of(key))
    return to_batch_element(face, patch_size)


def random_of(key: tuple[int, int]) -> np.random.Generator:
    """Draws of one sample by (seed, place); Philox is made to be keyed so."""
    return np.random.Generator(np.random.Philox(key=key))


def detection_element(
    face: LabelledFace,
    key: tuple[int, int],
    *,
    size: int,
    mean: tuple[float, float, float],
    crop: float | int,
    flip: bool,
    rand_magnitude: float | int,
    saturation: float | int,
) -> DetectionElement:
    """What fine-tuning's host side makes of a face; erasing and mixing follow on the device.

    Args:
        face: In the size it is stored in.
        key: Seed and place.
        size: Side of the result in pixels.
        mean: Colour from 0 to 1 of what an operation uncovers.
        crop: Least share of the area that is kept; 1 shows the whole picture.
        flip: Mirror every other face.
        rand_magnitude: Of RandAugment; 0 is off.
        saturation: Of the saturation's jitter; 0 is off.
    """
    rng, image = random_of(key), face["image"]
    if crop < 1:
        image = rand_augment.random_resized_crop(image, rng, size=size, area=(crop, 1.0))
    else:
        image = rand_augment.evaluation_view(image, size=size, transform="resize")
    if flip:
        image = rand_augment.flip(image, rng)
    if saturation:
        image = rand_augment.saturation_jitter(image, rng, strength=saturation)
    if rand_magnitude:
        image = rand_augment.rand_augment(image, rng, mean=mean, magnitude=rand_magnitude)
    return {"image": image, "label": np.int32(face["label"])}


def evaluation_element(
    face: Mapping[str, Any], key: tuple[int, int], *, size: int, view: str
) -> ViewedElement:
    """A face as it is evaluated; black if it could not be read."""
    del key
    image = np.zeros((size, size, 3), np.uint8)
    if face["readable"]:
        image = rand_augment.evaluation_view(face["image"], size=size, transform=view)
    return {"image": image, "readable": np.bool_(face["readable"])}


def to_batch_element(face: Face, patch_size: int) -> BatchElement:
    """Returns the face with its map packed into one word per patch, row by row.

    Raises:
        ValueError: patch_size does not divide the image's size, or a class is outside 0 to 10.
    """
    classes = patch_classes(face["parsing_map"][None], patch_size)[0]
    return {"image": face["image"], "classes": classes}
