"""Finds the faces of an uploaded file, and keeps a picture of it to show.

Worker processes import this module, so it does not import JAX.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.predict.faces import (
    FaceOptions,
    FileFaces,
    detector_of,
    faces_of_file,
    unreadable,
)
from fsvfm_jax.prepare.files import MediaFile
from fsvfm_jax.prepare.workers import start_limits

MAX_SHOWN_SIDE = 800  # pixels


class UploadOptions(NamedTuple):
    """The options that determine what is done with an uploaded file.

    Attributes:
        faces: The options that determine the faces.
        max_length: The longest video, in seconds.
    """

    faces: FaceOptions
    max_length: float | int


class Shown(NamedTuple):
    """A picture of the file.

    Attributes:
        frame: Number of the frame; None for a photograph.
        scale: Side of the picture, divided by that of the photograph or frame.
        pixels: The picture.
    """

    frame: int | None
    scale: float
    pixels: UInt8[np.ndarray, "H W 3"]


class UploadFaces(NamedTuple):
    """The faces of a file, and a picture of it: for a video, the first frame with the most faces.

    Attributes:
        faces: The faces.
        shown: The picture; None if the file cannot be read.
    """

    faces: FileFaces
    shown: Shown | None


def make_worker(options: UploadOptions) -> Callable[[MediaFile], UploadFaces]:
    """Returns a function that finds the faces of a file, in limited time and memory.

    Args:
        options: The options that determine what is done with the file.
    """
    detector = detector_of(options.faces)
    start_limits()

    def work(media: MediaFile) -> UploadFaces:
        if media.is_video:
            from fsvfm_jax.prepare import video  # It needs an extra.

            try:
                video.check_seconds(media.file, options.max_length)
            except ValueError as error:
                return UploadFaces(unreadable(str(error)), None)
        shown, most = None, -1

        def look(frame: int | None, image: UInt8[np.ndarray, "H W 3"], count: int) -> None:
            nonlocal shown, most
            if count > most:
                shown, most = _shown(frame, image), count

        faces = faces_of_file(media, detector=detector, options=options.faces, look=look)
        return UploadFaces(faces, shown if faces.error is None else None)

    return work


def _shown(frame: int | None, image: UInt8[np.ndarray, "H W 3"]) -> Shown:
    """Returns a picture of at most MAX_SHOWN_SIDE pixels."""
    height, width, _ = image.shape
    scale = min(MAX_SHOWN_SIDE / max(height, width), 1.0)
    size = max(round(scale * width), 1), max(round(scale * height), 1)
    return Shown(frame, scale, np.array(Image.fromarray(image).resize(size)))
