"""Turns a face into a row of a batch, for each task.

Data workers import this module, which needs NumPy and Pillow only. Random draws depend on the seed
and on the place in the stream alone, not on workers, hosts or restarts.
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
    """The image and one 16-bit word per patch, which a worker sends instead of the parsing map."""

    image: UInt8[np.ndarray, "S S 3"]
    classes: UInt16[np.ndarray, " N"]


class DetectionElement(TypedDict):
    """A face for training, and its index into `LABELS`."""

    image: UInt8[np.ndarray, "S S 3"]
    label: np.int32


class ViewedElement(TypedDict):
    """A face for evaluation, and whether it could be read."""

    image: UInt8[np.ndarray, "S S 3"]
    readable: np.bool_


def pretraining_element(
    face: Face, key: tuple[int, int], *, patch_size: int, augment: bool = False
) -> BatchElement:
    """Returns the image and one 16-bit word per patch.

    Args:
        face: The face.
        key: Seed, and place in the stream.
        patch_size: Side of a square patch in pixels.
        augment: Whether to crop and mirror the face at random.

    Raises:
        ValueError: As `to_batch_element`.
    """
    if augment:
        face = crop_and_flip(face, random_of(key))
    return to_batch_element(face, patch_size)


def random_of(key: tuple[int, int]) -> np.random.Generator:
    """Returns the generator of one sample; Philox is designed to be keyed like this.

    Args:
        key: Seed, and place in the stream.
    """
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
    """Returns a face as fine-tuning's data workers prepare it.

    Random erasing and mixing follow on the device.

    Args:
        face: The face in its stored size.
        key: Seed, and place in the stream.
        size: Side of the result in pixels.
        mean: Colour, 0 to 1, of areas that an operation uncovers.
        crop: Smallest share of the area that a random crop keeps; 1 keeps the whole picture.
        flip: Whether to mirror the face with probability 1/2.
        rand_magnitude: Magnitude of RandAugment; 0 turns it off.
        saturation: Strength of the saturation jitter; 0 turns it off.
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
    """Returns a face as it is evaluated, or a black picture if the face could not be read.

    Args:
        face: `image` in its stored size, and `readable`.
        key: Not used; every element function has this parameter.
        size: Side of the result in pixels.
        view: One of `rand_augment.EVALUATION_TRANSFORMS`.

    Raises:
        ConfigError: The view is unknown.
    """
    del key
    image = np.zeros((size, size, 3), np.uint8)
    if face["readable"]:
        image = rand_augment.evaluation_view(face["image"], size=size, transform=view)
    return {"image": image, "readable": np.bool_(face["readable"])}


def to_batch_element(face: Face, patch_size: int) -> BatchElement:
    """Returns the face with its map packed into one word per patch, row by row.

    Args:
        face: The face.
        patch_size: Side of a square patch in pixels.

    Raises:
        ValueError: patch_size does not divide the image's size, or a class is outside 0 to 10.
    """
    classes = patch_classes(face["parsing_map"][None], patch_size)[0]
    return {"image": face["image"], "classes": classes}
