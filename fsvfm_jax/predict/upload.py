"""Finds the faces of an uploaded file that is not too long.

Worker processes import this module, so it does not import JAX.
"""

from collections.abc import Callable
from typing import NamedTuple

from fsvfm_jax.predict.faces import (
    FaceOptions,
    FileFaces,
    detector_of,
    faces_of_file,
    unreadable,
)
from fsvfm_jax.prepare.files import MediaFile
from fsvfm_jax.prepare.workers import start_limits


class UploadOptions(NamedTuple):
    """The options that determine what is done with an uploaded file.

    Attributes:
        faces: The options that determine the faces.
        max_length: The longest video, in seconds.
    """

    faces: FaceOptions
    max_length: float | int


def make_worker(options: UploadOptions) -> Callable[[MediaFile], FileFaces]:
    """Returns a function that finds the faces of a file in limited time and memory, and a picture.

    Args:
        options: The options that determine what is done with the file.
    """
    faces = options.faces._replace(show=True)
    detector = detector_of(faces)
    start_limits()

    def work(media: MediaFile) -> FileFaces:
        if media.is_video:
            from fsvfm_jax.prepare import video  # It needs an extra.

            try:
                video.check_seconds(media.file, options.max_length)
            except ValueError as error:
                return unreadable(str(error))
        return faces_of_file(media, detector=detector, options=faces)

    return work
