"""Imports existing parsing maps, with the labels of LaPa or CelebAMask-HQ."""

import os

import numpy as np
from jaxtyping import UInt8

from fsvfm_jax.data.images import UnknownClass, decode_map, read_file
from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.files import is_below
from fsvfm_jax.regions import CLASSES

MAP_SUFFIXES = (".npy", ".png")
# CelebAMask-HQ's 19 classes in the order of its own scripts, with the LaPa class for each. LaPa
# counts ears, neck, hats, jewellery and clothes as background; glasses count as skin.
_CELEBAMASK19 = {
    "background": "background",
    "skin": "skin",
    "nose": "nose",
    "eye_g": "skin",
    "l_eye": "left_eye",
    "r_eye": "right_eye",
    "l_brow": "left_brow",
    "r_brow": "right_brow",
    "l_ear": "background",
    "r_ear": "background",
    "mouth": "inner_mouth",
    "u_lip": "upper_lip",
    "l_lip": "lower_lip",
    "hair": "hair",
    "hat": "background",
    "ear_r": "background",
    "neck_l": "background",
    "neck": "background",
    "cloth": "background",
}
# The LaPa class of each stored number, by the name of the data set.
LABELS = {"lapa": CLASSES, "celebamask19": tuple(_CELEBAMASK19.values())}


class ImportParser:
    """Returns the map in `<maps>/<name>.npy` or `.png` for the image `<name>.png`.

    Args:
        maps: Folder of the maps. Links out of the folder are not followed.
        labels: Name in LABELS of the data set whose numbers the maps contain.
        of_crops: Whether the images are faces cropped from photographs. A map of another size may
            then be the photograph's, and is refused. Otherwise a map needs only the image's aspect
            ratio.

    Raises:
        DataError: The folder does not exist.
    """

    def __init__(self, maps: str, *, labels: str, of_crops: bool):
        if not os.path.isdir(maps):
            raise DataError(f"--maps {maps} does not exist; name a folder of .npy or .png maps")
        self._root, self._of_crops = os.path.realpath(maps), of_crops
        self._classes = np.array([CLASSES.index(name) for name in LABELS[labels]], np.uint8)

    def __call__(
        self, names: list[str], images: list[UInt8[np.ndarray, "_H _W 3"]]
    ) -> list[UInt8[np.ndarray, "_H _W"] | str]:
        """Returns the map of each image in its stored size, or the reason why there is none."""
        return [self._map(name, x.shape[:2]) for name, x in zip(names, images, strict=True)]

    def _map(self, name: str, size: tuple[int, int]) -> UInt8[np.ndarray, "_H _W"] | str:
        stem = os.path.join(self._root, os.path.splitext(name)[0])
        files = [stem + suffix for suffix in MAP_SUFFIXES if os.path.lexists(stem + suffix)]
        if len(files) != 1:
            return f"{len(files)} maps, .npy and .png, are there" if files else "it has no map"
        if not is_below(os.path.realpath(files[0]), self._root):
            return f"its map is a link out of {self._root}"
        try:
            stored = decode_map(read_file(files[0]), num_classes=len(self._classes))
        except UnknownClass as error:
            return f"its map {error} of 0 to {len(self._classes) - 1}: choose other --labels"
        except ValueError as error:
            return f"its map: {error}"
        if stored.shape != size and self._of_crops:
            return (
                f"its map has {stored.shape[0]} x {stored.shape[1]} pixels and the image {size[0]}"
                f" x {size[1]}, which was cut out of a photograph: make it anew for this crop"
            )
        if stored.shape[0] * size[1] != stored.shape[1] * size[0]:
            return (
                f"its map has {stored.shape[0]} x {stored.shape[1]} pixels and the image {size[0]}"
                f" x {size[1]}, another aspect ratio: make it anew for this image"
            )
        return self._classes[stored]
