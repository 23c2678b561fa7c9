"""Turns the pictures that a program gives, in whatever form, into RGB pixels."""

import os
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.data.images import decode_image, read_file
from fsvfm_jax.data.rand_augment import evaluation_view
from fsvfm_jax.errors import DataError, shortened
from fsvfm_jax.predict.faces import looks_whole
from fsvfm_jax.prepare.crops import Box

Picture = np.ndarray | Image.Image | str | os.PathLike
Pictures = Picture | Iterable[Picture]

# Modes of Pillow whose pixels fit into 8 bits per channel.
PILLOW_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")


def views_of(images: Pictures, *, size: int, view: str) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
    """Yields faces as a network takes them, and warns at the end of what looks like no crop.

    Args:
        images: The faces.
        size: Side of the network's input in pixels.
        view: How a face is resized, one of `EVALUATION_TRANSFORMS`.

    Raises:
        DataError: As `pixels_of`.
    """
    first, whole = "", 0
    for number, image in enumerate(each(images)):
        pixels = pixels_of(image)
        height, width, _ = pixels.shape
        if looks_whole(Box(0, 0, width, height)):
            is_path = isinstance(image, str | os.PathLike)
            first = first or (os.fspath(image) if is_path else f"the one with index {number}")
            whole += 1
        yield evaluation_view(pixels, size=size, transform=view)
    if whole:
        warnings.warn(
            f"{whole} of {number + 1} pictures look like whole photographs, and not like crops of"
            f" faces, such as {shortened(first)}: `predict score` finds and crops the faces",
            stacklevel=2,
        )


def each(images: Pictures) -> Iterable[Picture]:
    """Returns the pictures one by one."""
    if isinstance(images, np.ndarray):
        return images if images.ndim == 4 else [images]
    if isinstance(images, str | os.PathLike) or not isinstance(images, Iterable):
        return [images]
    return images


def pixels_of(picture: Picture) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the RGB pixels of a picture. Pixels are used as stored, without EXIF orientation.

    Args:
        picture: Pixels, a picture of Pillow, or a path.

    Raises:
        DataError: The picture cannot be read, or has another shape or dtype.
    """
    if isinstance(picture, str | os.PathLike):
        try:
            return decode_image(read_file(os.fspath(picture)))
        except ValueError as error:
            raise DataError(f"image {os.fspath(picture)}: {error}") from error
    if isinstance(picture, Image.Image):
        if picture.mode not in PILLOW_MODES:
            raise DataError(f"a picture has Pillow's mode {picture.mode}: convert it to RGB")
        try:
            picture = np.array(picture.convert("RGB"))
        except Exception as error:  # Damaged bytes make a decoder raise almost anything.
            raise DataError(f"a picture of Pillow cannot be read ({error})") from error
    if not isinstance(picture, np.ndarray):
        raise DataError(
            f"a picture is of type {type(picture).__name__}: give a NumPy array, a picture of"
            " Pillow or a path"
        )
    if picture.dtype != np.uint8:
        raise DataError(f"an image has dtype {picture.dtype}: give uint8 pixels, from 0 to 255")
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise DataError(
            f"an image has shape {list(picture.shape)}: give RGB pixels [H, W, 3], or [N, H, W, 3]"
            " for several"
        )
    return picture
