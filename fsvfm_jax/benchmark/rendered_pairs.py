"""Rendered forgeries with their real faces, and the patches that are forged."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from configs import offline
from fsvfm_jax.data.rendered.rendered_sets import RenderedFaces
from fsvfm_jax.models.vit import ViT


class Faces(NamedTuple):
    """Forged faces, and what is known of them.

    Attributes:
        names: Name of each face.
        images: The faces.
        parsing_maps: LaPa classes.
        forged: Whether each patch is forged.
    """

    names: list[str]
    images: UInt8[np.ndarray, "B S S 3"]
    parsing_maps: UInt8[np.ndarray, "B S S"]
    forged: Bool[np.ndarray, "B N"]


def forged_faces(count: int, *, split: str, model: ViT, name: str = offline.TRAINED) -> Faces:
    """Returns forged faces of a rendered set.

    Args:
        count: Number of faces.
        split: "train" or "test".
        model: The network, for its sizes.
        name: Name of the set; by default that on which the detectors are trained.
    """
    source = pairs(name, count, split=split, image_size=model.image_size)
    indices = range(1, 2 * count, 2)
    truths = [source.truth(index) for index in indices]
    side = model.image_size // model.patch_size
    pixels = np.stack([truth.forged for truth in truths])
    cells = pixels.reshape(count, side, model.patch_size, side, model.patch_size)
    forged = cells.mean(axis=(2, 4)).reshape(count, -1) >= 0.5
    return Faces(
        [source.name(index) for index in indices],
        np.stack([source[index]["image"] for index in indices]),
        np.stack([truth.parsing_map for truth in truths]),
        forged,
    )


def real_faces(faces: Faces, *, split: str, model: ViT, name: str = offline.TRAINED) -> Faces:
    """Returns the real faces that were forged, with the patches that are forged in the forgeries.

    The camera of a real face has another crop, which moves the face by up to a few pixels.

    Args:
        faces: The forgeries.
        split: As for `forged_faces`.
        model: As for `forged_faces`.
        name: As for `forged_faces`.
    """
    source = pairs(name, len(faces.images), split=split, image_size=model.image_size)
    indices = range(0, len(source), 2)
    return Faces(
        [source.name(index) for index in indices],
        np.stack([source[index]["image"] for index in indices]),
        np.stack([source.truth(index).parsing_map for index in indices]),
        faces.forged,
    )


def pairs(name: str, count: int, *, split: str, image_size: int) -> RenderedFaces:
    """Returns a rendered set of real faces, each followed by its forgery.

    Args:
        name: Name of the set.
        count: Number of pairs.
        split: "train", "val" or "test".
        image_size: Side of the images in pixels.
    """
    options = {"image_size": image_size, "seed": 0, "videos": 2 * count, "frames": 1}
    return RenderedFaces(name, split, **options)
