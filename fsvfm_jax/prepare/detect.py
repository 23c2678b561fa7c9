"""Finds and crops faces in photographs and videos: the stage `detect`, and its work on one file.

dlib and PyAV come with the extra `prepare`. `faces_of_source` does all the work on one photograph
or video. Except for the stage itself, the functions need no processes and write no files.
"""

import contextlib
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.data.images import MAX_FILE_BYTES, decode_image, read_file
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.prepare.files import MediaFile, find_sources, hash_file
from fsvfm_jax.prepare.manifest import TREE_MANIFEST, Line, Manifest, new_files
from fsvfm_jax.prepare.stages import do_stage
from fsvfm_jax.prepare.workers import DIED, spread, start_limits, tick

# A larger photograph is searched at a fraction of its size. The limit holds after upsampling, since
# dlib's detector then needs about 20 bytes of memory and some time for every pixel.
MAX_SEARCHED_PIXELS = 16_000_000
# One element of a pipeline has this many files: starting its process takes a second, and a video
# takes long.
SOURCES_AT_ONCE = 16


class Box(NamedTuple):
    """The edges of a box in pixels from the image's upper left corner."""

    left: int
    top: int
    right: int
    bottom: int


class Found(NamedTuple):
    """A face's box, which may reach beyond the image, and the score of the detector."""

    box: Box
    score: float | None


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces, sorted by descending score.

    Attributes:
        box_scale: Side of the crop, divided by that of the face's box.
    """

    box_scale: float

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]: ...


class CroppedFace(NamedTuple):
    """A face of an image, cut out.

    Attributes:
        number: Number of the face in the order of the detector, from 0.
        found: Number of faces that the detector found in the image.
        box: The square that was cut out.
        score: The score of the detector.
        pixels: The pixels of the square, resized; None if the square is outside the image.
    """

    number: int
    found: int
    box: Box
    score: float | None
    pixels: UInt8[np.ndarray, "size size 3"] | None


class Options(NamedTuple):
    """The options that determine the crops."""

    detector: str = "dlib"  # or "none": every image is a crop already
    upsample: int = 1  # how often to double the image's size before the search
    faces: str = "largest"  # or "all"
    frames: int | None = 32  # number of frames of a video; None for all
    size: int = 224  # side of a crop in pixels


class HogDetector:
    """dlib's frontal face detector by histograms of oriented gradients, which needs no weights.

    Without upsampling it finds faces from 80 pixels on; every upsampling halves that size.

    Args:
        upsample: How often to double the image's size before the search.
        margin: Margin of a crop on each side of a face's box, as a fraction of the box. By default
            a crop is 1.3 times as large as the box, as in FaceForensics++.
    """

    def __init__(self, upsample: int, *, margin: float | int = 0.15):
        import dlib  # It is an extra, and therefore imported only here.

        self.box_scale = 1 + 2 * margin
        self._detector = dlib.get_frontal_face_detector()
        self._upsample = upsample

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]:
        """Returns the faces by descending score."""
        height, width, _ = image.shape
        factor = math.ceil(math.sqrt(height * width * 4**self._upsample / MAX_SEARCHED_PIXELS))
        if factor > 1:
            image = np.asarray(Image.fromarray(image).reduce(factor))
        boxes, scores, _ = self._detector.run(image, self._upsample, 0.0)
        return [
            Found(Box(*(factor * x for x in (b.left(), b.top(), b.right(), b.bottom()))), score)
            for b, score in zip(boxes, scores, strict=True)
        ]


class WholeImage:
    """Returns the largest square in the middle, for images that are cropped already."""

    box_scale = 1.0

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]:
        """Returns the box of the square, without a score."""
        height, width, _ = image.shape
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        return [Found(Box(left, top, left + side, top + side), None)]


def make_detector(options: Options) -> FaceDetector:
    """Returns the detector that the options name."""
    return WholeImage() if options.detector == "none" else HogDetector(options.upsample)


def square_box(box: Box, *, scale: float, height: int, width: int) -> Box:
    """Returns the square around a box, `scale` times as large, within the image.

    This is the rule of FaceForensics++: the square's side follows the longer side of the box. A
    square that reaches beyond the upper or left edge is moved into the image. If the square then
    reaches beyond another edge, it becomes smaller.

    Args:
        box: The face's box.
        scale: Side of the square, divided by the longer side of the box.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """
    side = int(max(box.right - box.left, box.bottom - box.top) * scale)
    left = max((box.left + box.right) // 2 - side // 2, 0)
    top = max((box.top + box.bottom) // 2 - side // 2, 0)
    side = min(side, width - left, height - top)
    return Box(left, top, left + side, top + side)


def crop(
    image: UInt8[np.ndarray, "H W 3"], box: Box, *, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Returns the pixels of a box within the image, resized bicubically.

    Args:
        image: The image.
        box: A box that does not reach beyond the image.
        size: Side of the result in pixels.
    """
    face = Image.fromarray(np.ascontiguousarray(image[box.top : box.bottom, box.left : box.right]))
    return np.array(face.resize((size, size), Image.Resampling.BICUBIC))


def crop_faces(
    image: UInt8[np.ndarray, "H W 3"], detector: FaceDetector, *, faces: str, size: int
) -> Iterator[CroppedFace]:
    """Yields the faces of an image by descending score, or only the largest.

    Args:
        image: The image.
        detector: The detector that finds the faces.
        faces: "largest" or "all".
        size: Side of the pixels of a face.
    """
    found = detector(image)
    chosen = list(enumerate(found))
    if faces == "largest":
        chosen = [max(chosen, key=lambda one: _area(one[1]))] if chosen else []
    height, width, _ = image.shape
    for number, (box, score) in chosen:
        around = square_box(box, scale=detector.box_scale, height=height, width=width)
        inside = around.right > around.left
        pixels = crop(image, around, size=size) if inside else None
        yield CroppedFace(number, len(found), around, score, pixels)


def faces_of_source(
    source: MediaFile, detector: FaceDetector, options: Options
) -> Iterator[tuple[Line, bytes | None]]:
    """Yields a manifest line for every face, with a PNG, and for every picture without a face.

    Args:
        source: The photograph or video.
        detector: The detector that finds the faces.
        options: The options that determine the crops.

    Raises:
        ValueError: The photograph or video cannot be read. Lines that were yielded before are
            invalid.
    """
    if not source.is_video:
        data = read_file(source.file)
        line = {"source": source.name, "frame": None, "sha256": hashlib.sha256(data).hexdigest()}
        image = decode_image(data, orient=True)
        yield from _faces_of_image(image, source.stem, line, detector, options)
        return
    from fsvfm_jax.prepare import video  # It needs an extra, and is therefore imported only here.

    count = video.count_frames(source.file)
    # The hash comes after the check above, which refuses such files as 50 GB of zeros.
    sha256 = hash_file(source.file)
    indices = video.spaced_indices(count, options.frames)
    for index, image in video.read_frames(source.file, indices):
        line = {"source": source.name, "frame": index, "sha256": sha256}
        stem = f"{source.stem}_frame_{index}"
        yield from _faces_of_image(image, stem, line, detector, options)


def detect(
    src: str,
    tree: Path,
    options: Options,
    *,
    root: str | None = None,
    processes: int,
    beam: str | None = None,
) -> dict[str, int]:
    """Finds and crops all faces, writes `images/` and the manifest, and continues a stopped run.

    Args:
        src: A folder, list or file; see `find_sources`.
        tree: The folder to write.
        options: The options that determine the crops.
        root: Folder to which a list's paths are relative.
        processes: Number of processes.
        beam: Options of the Apache Beam pipeline that runs the stage, or None.

    Returns:
        The number of manifest lines by outcome.

    Raises:
        DataError: There is nothing to read, or no face in it.
        ConfigError: The tree was made with other options, an extra is missing, or the tree is in
            src.
        StorageError: The tree cannot be written.
    """
    _check(src, tree, options)
    sources, refusals = find_sources(src, root=root)
    needed = {"dlib"} if options.detector == "dlib" else set()
    check_installed(
        needed | ({"av"} if any(x.is_video for x in sources) else set()), extra="prepare"
    )
    told = options._asdict() | {"src": os.path.abspath(src), "root": root}
    with Manifest(tree, "detect", key="source", options=told) as manifest:
        for refusal in refusals:
            if refusal.name not in manifest:
                manifest.add([_line(source=refusal.name, outcome="skipped", reason=refusal.reason)])
        # The runner of a pipeline decides how many processes a machine has.
        processes = processes if beam is None else 1
        work = partial(_detected, tree=tree.absolute(), options=options, processes=processes)
        items = {source.name: source for source in sources}
        do_stage(manifest, items, work, beam=beam, at_once=SOURCES_AT_ONCE)
        counts = manifest.finish()
    if not counts.get("face"):
        raise DataError(f"no face was found in {src}; {tree / TREE_MANIFEST} says why for each")
    return counts


def _faces_of_image(
    image: UInt8[np.ndarray, "H W 3"],
    stem: str,
    line: Line,
    detector: FaceDetector,
    options: Options,
) -> Iterator[tuple[Line, bytes | None]]:
    is_found = False
    for face in crop_faces(image, detector, faces=options.faces, size=options.size):
        is_found = True
        number = face.number if options.faces == "all" else None
        name = stem if number is None else f"{stem}_{number}"
        told = {**line, "face": number, "box": list(face.box), "score": face.score}
        if face.pixels is None:
            yield _line(**told, outcome="refused", reason="its box is outside the picture"), None
            continue
        others = options.faces == "largest" and face.found > 1
        reason = f"the largest of {face.found}" if others else None
        yield _line(**told, outcome="face", reason=reason, image=f"{name}.png"), _png(face.pixels)
    if not is_found:
        reason = f"no face found ({options.detector}, upsample {options.upsample})"
        yield _line(**line, outcome="no_face", reason=reason), None


def _area(found: Found) -> int:
    return (found.box.right - found.box.left) * (found.box.bottom - found.box.top)


def _png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _line(**known: Any) -> Line:
    names = ("source", "frame", "face", "sha256", "outcome", "reason", "box", "score", "image")
    return {name: known.get(name) for name in names}


def _detected(
    sources: Sequence[MediaFile], *, tree: Path, options: Options, processes: int
) -> Iterator[list[Line]]:
    arguments = [(tree, options)] * min(processes, max(len(sources), 1))
    for source, lines in spread(sources, _make_worker, arguments):
        yield lines or [_refused(source, DIED)]


def _make_worker(arguments: tuple[Path, Options]) -> Callable[[MediaFile], list[Line]]:
    tree, options = arguments
    detector = make_detector(options)
    start_limits()
    return partial(_write_faces, tree=tree, detector=detector, options=options)


def _write_faces(
    source: MediaFile, *, tree: Path, detector: FaceDetector, options: Options
) -> list[Line]:
    lines = []
    try:
        with new_files(tree) as write:
            for line, png in faces_of_source(source, detector, options):
                tick()
                lines.append(line)
                if png is not None:
                    write(f"images/{line['image']}", png)
    except (ValueError, RuntimeError, MemoryError) as error:
        return [_refused(source, str(error) or type(error).__name__)]
    return lines


def _refused(source: MediaFile, reason: str) -> Line:
    sha256 = None
    # A file that is refused for its size is too large to hash, and a disk may fail to read it.
    with contextlib.suppress(ValueError):
        sha256 = hash_file(source.file, max_bytes=MAX_FILE_BYTES)
    return _line(source=source.name, sha256=sha256, outcome="refused", reason=reason)


def _check(src: str, tree: Path, options: Options) -> None:
    for name, least in (("upsample", 0), ("size", 1), ("frames", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} is {value}; it must be at least {least}")
    if os.path.isdir(src) and tree.resolve().is_relative_to(Path(src).resolve()):
        raise ConfigError(f"{tree} is in {src}, where it would be searched; name another folder")
