"""Finds and crops the faces of a photograph or video, as the network reads them.

The crops are those of `prepare detect`, and the view of a crop is that of an evaluation. Worker
processes import this module, so it does not import JAX.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from fsvfm_jax.data.images import decode_image, read_file
from fsvfm_jax.data.rand_augment import evaluation_view
from fsvfm_jax.errors import in_one_line
from fsvfm_jax.predict.inputs import Input
from fsvfm_jax.predict.shown import Shown, shown_picture
from fsvfm_jax.predict.tracks import follow
from fsvfm_jax.prepare.crops import (
    Box,
    CroppedFace,
    FaceDetector,
    crop_faces,
    make_detector,
    search_factor,
)
from fsvfm_jax.prepare.detect import Options
from fsvfm_jax.prepare.files import MediaFile
from fsvfm_jax.prepare.workers import AHEAD, DIED, spread, start_limits, tick

# Of the faces of one file. A process needs three times as much to send them.
MAX_PIXEL_BYTES = 100_000_000
MAX_BYTES_AHEAD = 8_000_000_000  # of the faces of all files that processes have at a time
BATCH_SIZE = 32  # faces that the network computes at once, by default
# What a crop of a face does not exceed. Whole photographs nearly always do.
MAX_CROP_SIDE, MAX_CROP_RATIO = 1024, 1.3
CROPPED = "cropped"
# The default settings of `prepare detect`, so that its crops are the same.
UPSAMPLE, CROP_SIZE = Options().upsample, Options().size


class FaceOptions(NamedTuple):
    """The options that determine the faces and their pixels.

    Attributes:
        detector: "dlib"; "none" takes the middle square of every picture; "cropped" takes every
            picture as it is.
        crop_margin: Margin on each side of a face's box, as a fraction of the box; for dlib.
        faces: "largest" or "all" faces of a picture or frame.
        frames: Number of frames of a video.
        image_size: Side of the network's input in pixels.
        view: One of `data.rand_augment.EVALUATION_TRANSFORMS`.
        show: Whether to keep a picture of the file to show.
    """

    detector: Literal["dlib", "none", "cropped"]
    crop_margin: float | int
    faces: Literal["largest", "all"]
    frames: int
    image_size: int
    view: str
    show: bool = False


class Face(NamedTuple):
    """A face as the network reads it.

    Attributes:
        pixels: The network's input.
        box: The part of the picture that was cut out.
        score: Score of the face detector, if it has one.
        frame: Number of the frame; None in a photograph.
        seconds: Time of the frame; None in a photograph, or if the video does not contain it.
        track: Number of the person.
    """

    pixels: UInt8[np.ndarray, "S S 3"]
    box: Box
    score: float | None
    frame: int | None
    seconds: float | None
    track: int


class FileFaces(NamedTuple):
    """The faces of a file, or why it could not be read.

    Attributes:
        faces: The faces by frame, in each frame by descending score of the detector.
        frames: Number of frames that were searched; 1 for a photograph.
        most: The largest number of faces that were found in a frame, even if one was chosen.
        outside: Number of faces whose boxes are outside the picture.
        error: Why the file could not be read, or None.
        work_seconds: Time that the file took.
        searched_at: Part of the side of the picture, or of the largest frame, at which dlib
            searched it: 1 or less. None if dlib did not search it.
        shown: A picture of the file, if the options ask for one and the file could be read.
    """

    faces: list[Face]
    frames: int
    most: int
    outside: int
    error: str | None
    work_seconds: float
    searched_at: float | None = None
    shown: Shown | None = None


class _Frame(NamedTuple):
    """A picture or a frame of a video, with its faces."""

    number: int | None
    seconds: float | None
    faces: list[CroppedFace]


def unreadable(error: str, *, work_seconds: float = 0.0) -> FileFaces:
    """Returns the result for a file that cannot be read.

    Args:
        error: Why it cannot be read.
        work_seconds: Time that the file took.
    """
    return FileFaces([], 0, 0, 0, error, work_seconds)


def most_faces(image_size: int) -> int:
    """Returns how many faces of one file fit into MAX_PIXEL_BYTES.

    Args:
        image_size: Side of the network's input in pixels.
    """
    return MAX_PIXEL_BYTES // (3 * image_size**2)


def looks_whole(box: Box) -> bool:
    """Returns whether a picture that was taken whole looks like a photograph, not like a crop."""
    sides = sorted((box.right - box.left, box.bottom - box.top))
    return sides[0] > MAX_CROP_SIDE or sides[1] > MAX_CROP_RATIO * sides[0]


def find_faces(
    inputs: Iterable[Input],
    options: FaceOptions,
    *,
    processes: int,
    idle_seconds: float | None = None,
) -> Iterator[tuple[int, FileFaces] | None]:
    """Yields the faces of each photograph and video with its place, in the order of finishing.

    An input is taken when a process is free for it, so that any number of them fits into memory.
    There are fewer processes if their results could take more than MAX_BYTES_AHEAD together.

    Args:
        inputs: The files; those that cannot be read are left out.
        options: The options that determine the faces.
        processes: Largest number of processes.
        idle_seconds: If given, None is yielded whenever no file is finished for so long.
    """
    items = ((place, one.media) for place, one in enumerate(inputs) if one.media is not None)
    faces = options.frames if options.faces == "largest" else most_faces(options.image_size)
    ahead = AHEAD * faces * 3 * options.image_size**2
    processes = max(1, min(processes, MAX_BYTES_AHEAD // max(ahead, 1)))
    workers = [options] * processes
    found = spread(items, make_worker, workers, idle_seconds=idle_seconds)
    with contextlib.closing(found) as stream:
        for one in stream:
            yield None if one is None else (one[0][0], one[1] or unreadable(DIED))


def make_worker(options: FaceOptions) -> Callable[[tuple[int, MediaFile]], FileFaces]:
    """Returns a function that finds the faces of a numbered file, in limited time and memory.

    Args:
        options: The options that determine the faces.
    """
    detector = detector_of(options)
    start_limits()

    def work(numbered: tuple[int, MediaFile]) -> FileFaces:
        return faces_of_file(numbered[1], detector=detector, options=options)

    return work


def detector_of(options: FaceOptions) -> FaceDetector | None:
    """Returns the detector that the options name; None if pictures are cropped already."""
    if options.detector == CROPPED:
        return None
    return make_detector(options.detector, upsample=UPSAMPLE, margin=options.crop_margin)


def faces_of_file(
    media: MediaFile,
    *,
    detector: FaceDetector | None,
    options: FaceOptions,
) -> FileFaces:
    """Returns the faces of a photograph or video, or why it cannot be read.

    Args:
        media: The photograph or video.
        detector: Finds the faces; None if pictures are cropped already.
        options: The options that determine the faces.
    """
    started = time.perf_counter()
    shown, most_shown, factor = None, -1, 1

    def search(
        index: int | None, seconds: float | None, image: UInt8[np.ndarray, "H W 3"], most: int
    ) -> _Frame:
        nonlocal shown, most_shown, factor
        faces = _faces_of_image(image, detector, options, most=most)
        if options.show and len(faces) > most_shown:
            shown, most_shown = shown_picture(index, image), len(faces)
        height, width, _ = image.shape
        factor = max(factor, search_factor(height, width, upsample=UPSAMPLE))
        return _Frame(index, seconds, faces)

    try:
        frames = list(_frames_of_file(media, search, options))
    except Exception as error:  # Odd files make libraries raise almost anything.
        return unreadable(_reason(error), work_seconds=time.perf_counter() - started)
    inside = [[face for face in frame.faces if face.pixels is not None] for frame in frames]
    tracks = follow([[face.box for face in faces] for faces in inside])
    begin = frames[0].seconds
    faces = [
        Face(
            face.pixels,
            face.box,
            face.score,
            frame.number,
            None if frame.seconds is None or begin is None else frame.seconds - begin,
            track,
        )
        for frame, faces, numbers in zip(frames, inside, tracks, strict=True)
        for face, track in zip(faces, numbers, strict=True)
    ]
    return FileFaces(
        faces,
        len(frames),
        max(max((face.found for face in frame.faces), default=0) for frame in frames),
        sum(len(frame.faces) for frame in frames) - len(faces),
        None,
        time.perf_counter() - started,
        searched_at=1 / factor if options.detector == "dlib" else None,
        shown=shown,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    if isinstance(error, ValueError):
        return str(error) or type(error).__name__
    return in_one_line(error)


def _frames_of_file(
    media: MediaFile,
    search: Callable[[int | None, float | None, UInt8[np.ndarray, "H W 3"], int], _Frame],
    options: FaceOptions,
) -> Iterator[_Frame]:
    """Yields the photograph, or evenly spaced frames of the video, with their faces.

    Args:
        media: The photograph or video.
        search: Takes number, time and pixels of a frame, and finds its faces, at most as many as
            the last argument.
        options: The options that determine the faces.

    Raises:
        ValueError: The file cannot be read, or its faces take too much memory.
    """
    most = most_faces(options.image_size)
    if not media.is_video:
        # An evaluation takes the pixels of crops as they are stored, and so does this.
        image = decode_image(read_file(media.file), orient=options.detector != CROPPED)
        yield search(None, None, image, most)
        return
    from fsvfm_jax.prepare import video  # It needs an extra, and is therefore imported only here.

    count = 0

    def search_few(index: int, seconds: float | None, image: UInt8[np.ndarray, "H W 3"]) -> _Frame:
        nonlocal count
        tick()
        count = count if index else 0  # The video may be decoded again from 0.
        frame = search(index, seconds, image, most - count)
        count += len(frame.faces)
        return frame

    yield from video.map_spaced_frames(media.file, options.frames, search_few)


def _faces_of_image(
    image: UInt8[np.ndarray, "H W 3"],
    detector: FaceDetector | None,
    options: FaceOptions,
    *,
    most: int,
) -> list[CroppedFace]:
    """Returns the faces of an image, with the network's input as their pixels.

    Raises ValueError if there are more than `most`.
    """
    if detector is None:
        height, width, _ = image.shape
        found = [CroppedFace(0, 1, Box(0, 0, width, height), None, image)]
    else:
        found = crop_faces(image, detector, faces=options.faces, size=CROP_SIZE)
    faces = [
        face._replace(pixels=_view(face.pixels, options))
        for face in itertools.islice(found, most + 1)
    ]
    if len(faces) > most:
        raise ValueError(
            f"it has over {most_faces(options.image_size)} faces, which take too much memory: give"
            " fewer --frames, or --faces=largest"
        )
    return faces


def _view(
    pixels: UInt8[np.ndarray, "H W 3"] | None, options: FaceOptions
) -> UInt8[np.ndarray, "S S 3"] | None:
    if pixels is None:
        return None
    return evaluation_view(pixels, size=options.image_size, transform=options.view)
