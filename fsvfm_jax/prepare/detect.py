"""Finds and crops faces in photographs and videos: the stage `detect`, and its work on one file.

PyAV comes with the extra `prepare`. `faces_of_source` does all the work on one photograph
or video. Except for the stage itself, the functions need no processes and write no files.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.data.images import MAX_FILE_BYTES, decode_image, read_file
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare.crops import FaceDetector, crop_faces, make_detector, search_factor
from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.prepare.files import MediaFile, find_sources, hash_file
from fsvfm_jax.prepare.manifest import TREE_MANIFEST, Line, Manifest, new_files
from fsvfm_jax.prepare.stages import do_stage
from fsvfm_jax.prepare.workers import DIED, spread, start_limits, tick

# One element of a pipeline has this many files: starting its process takes a second, and a video
# takes long.
SOURCES_AT_ONCE = 16


class Options(NamedTuple):
    """The options that determine the crops."""

    detector: str = "dlib"  # or "none": every image is a crop already
    upsample: int = 1  # how often to double the image's size before the search
    faces: str = "largest"  # or "all"
    frames: int | None = 32  # number of frames of a video; None for all
    size: int = 224  # side of a crop in pixels


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
    check_libraries(sources, detector=options.detector)
    stored = options._asdict() | {"src": os.path.abspath(src), "root": root}
    with Manifest(tree, "detect", key="source", options=stored) as manifest:
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


def check_libraries(files: Iterable[MediaFile], *, detector: str) -> None:
    """Checks that the libraries are installed that the files and the detector need.

    Args:
        files: The photographs and videos.
        detector: Name of the detector of faces.

    Raises:
        ConfigError: One is missing; the message names the extra.
    """
    needed = {"dlib"} if detector == "dlib" else set()
    needed |= {"av"} if any(one.is_video for one in files) else set()
    check_installed(needed, extra="prepare")


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
        facts = {**line, "face": number, "box": list(face.box), "score": face.score}
        if face.pixels is None:
            yield _line(**facts, outcome="refused", reason="its box is outside the picture"), None
            continue
        others = options.faces == "largest" and face.found > 1
        reason = f"the largest of {face.found}" if others else None
        yield _line(**facts, outcome="face", reason=reason, image=f"{name}.png"), _png(face.pixels)
    if not is_found:
        reason = f"no face found ({options.detector}, upsample {options.upsample})"
        height, width, _ = image.shape
        factor = search_factor(height, width, upsample=options.upsample)
        if options.detector == "dlib" and factor > 1:
            reason += f", searched at 1/{factor} of its size"
        yield _line(**line, outcome="no_face", reason=reason), None


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
    detector = make_detector(options.detector, upsample=options.upsample)
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
