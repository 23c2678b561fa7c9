"""Reads frames of a video by PyAV (extra `prepare`), which contains FFmpeg's libraries.

FFmpeg accepts a playlist with any file name as a video, and opens the files that the playlist
names. Therefore a file must begin like one of three containers, FFmpeg gets the name of that
container, and it reads an open file instead of a path. FFmpeg then cannot open another file or the
network.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator
from typing import BinaryIO, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video import VideoFrame, VideoStream
from jaxtyping import UInt8

from fsvfm_jax.data.images import MAX_PIXELS, MAX_SIDE
from fsvfm_jax.errors import reason_of
from fsvfm_jax.host.plain_files import open_plain
from fsvfm_jax.prepare.files import MAX_VIDEO_BYTES
from fsvfm_jax.prepare.workers import tick

T = TypeVar("T")

MAX_FRAMES = 1_000_000  # nine hours
# This limit is for all frames together: 80 minutes of 1920 x 1080 at 25 frames a second. A frame
# that repeats the one before takes a few bytes of a file, but as long to decode as any other.
MAX_VIDEO_PIXELS = 250_000_000_000
# FFmpeg's name of a container, by the bytes that identify it and their place. A QuickTime file from
# before 2001 has no `ftyp`.
_CONTAINERS = {
    (4, b"ftyp"): "mov",
    (4, b"moov"): "mov",
    (4, b"mdat"): "mov",
    (4, b"wide"): "mov",
    (4, b"free"): "mov",
    (4, b"skip"): "mov",
    (4, b"pnot"): "mov",
    (0, b"\x1aE\xdf\xa3"): "matroska",
    (8, b"AVI "): "avi",
}
_START_BYTES = 64
_SEGMENT = b"\x18\x53\x80\x67"  # the element of Matroska and WebM after the header


def count_frames(file: str) -> int:
    """Returns the number of frames that a player shows, by decoding them.

    Raises:
        ValueError: The file is not a video, is cut off, has larger frames than images may have, or
            has a codec that cannot be decoded.
    """
    _check_whole(file)
    return _visit(file, lambda index, frame: None)


def spaced_indices(count: int, wanted: int | None) -> list[int]:
    """Returns `wanted` frame numbers evenly spaced from the first to the last, or all.

    Args:
        count: Number of frames.
        wanted: Number of frame numbers; None for all.
    """
    if wanted is None or wanted >= count:
        return list(range(count))
    return np.linspace(0, count - 1, wanted).round().astype(int).tolist()


def read_frames(
    file: str, indices: Collection[int]
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Yields the frames of these numbers, RGB and upright, in the order in which they are shown.

    Args:
        file: The video.
        indices: Numbers of frames, counted as `count_frames` does.

    Raises:
        ValueError: As `count_frames`, or a number has no frame.
    """
    wanted = set(indices)
    with _opened(file) as (container, stream):
        for index, frame in enumerate(_frames(container, stream)):
            if index in wanted:
                yield index, _upright(frame)
                wanted.remove(index)
            if not wanted:
                return
    raise ValueError(f"frame {min(wanted)} cannot be decoded")


def check_seconds(file: str, most: float | int) -> None:
    """Checks that no frame of a video is shown later than `most` seconds after the first stored.

    The times of the stored frames count, not the duration in the file's header, which may be wrong.

    Raises:
        ValueError: The video is longer, or the file is not a video.
    """
    begin = None
    with _opened(file) as (container, stream):
        for packet in container.demux(stream):
            tick()
            if packet.pts is None:
                continue
            seconds = float(packet.pts * packet.time_base)
            begin = seconds if begin is None else begin
            if seconds - begin > most:
                raise ValueError(f"it is longer than {most:g} s")


def map_spaced_frames(
    file: str, wanted: int, work: Callable[[int, float | None, UInt8[np.ndarray, "H W 3"]], T]
) -> list[T]:
    """Returns the results of a function for evenly spaced frames, in the order of the frames.

    The frames are those with the numbers `spaced_indices(count_frames(file), wanted)`. The number
    of frames is known only after decoding. But in nearly all videos every stored frame is shown, so
    the video is decoded once under this assumption, and once more if the assumption was wrong.

    Args:
        file: The video.
        wanted: Number of frames.
        work: Takes the number of a frame, its time in seconds if the video contains it, and its
            pixels, RGB and upright. If the video is decoded twice, all this work is done twice.

    Raises:
        ValueError: As `count_frames`.
    """
    assumed = _check_whole(file)
    for _ in range(2):
        indices, results = set(spaced_indices(assumed, wanted)), list[T]()

        def visit(index: int, frame: VideoFrame, indices=indices, results=results) -> None:
            if index in indices:
                results.append(work(index, frame.time, _upright(frame)))

        count = _visit(file, visit)
        if count == assumed:
            return results
        assumed = count
    raise ValueError("it has another number of frames whenever it is read")


def _visit(file: str, work: Callable[[int, VideoFrame], None]) -> int:
    """Calls a function with each frame and its number, and returns the number of frames."""
    count = 0
    with _opened(file) as (container, stream):
        for frame in itertools.islice(_frames(container, stream), MAX_FRAMES + 1):
            work(count, frame)
            count += 1
    if count == 0:
        raise ValueError(f"no frame of it can be decoded (codec {stream.name})")
    if count > MAX_FRAMES:
        raise ValueError(f"it has over {MAX_FRAMES} frames")
    return count


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Yields the frames that a player shows; an edit list may leave out some stored frames."""
    pixels = 0
    for packet in container.demux(stream):
        tick()
        for frame in packet.decode():
            _check_size(frame.width, frame.height)
            pixels += frame.width * frame.height
            if pixels > MAX_VIDEO_PIXELS:
                raise ValueError(f"its frames have over {MAX_VIDEO_PIXELS:,} pixels together")
            yield frame


def _upright(frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the frame's pixels, turned by the container's orientation."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _check_size(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ValueError(f"its frames have {width} x {height} pixels")


def _check_whole(file: str) -> int:
    """Returns the number of stored frames, including those that an edit list leaves out.

    Raises ValueError if the file ends before the end that its container declares.

    The number of frames in a header of Matroska or AVI is a duration times a nominal rate, which is
    wrong for a video of variable rate. So these two are checked by their size in bytes. MP4 and
    QuickTime have an index of all frames, including those that an edit list leaves out.
    """
    with _open(file) as opened:
        declared = _declared_bytes(opened.read(_START_BYTES))
        size = os.fstat(opened.fileno()).st_size
    if declared > size:
        raise ValueError(f"it is cut off: it has {size} of {declared} bytes")
    with _opened(file, ignore_editlist="1") as (container, stream):
        found = 0
        for packet in container.demux(stream):
            tick()
            if packet.is_corrupt:
                raise ValueError(f"it is cut off after {found} frames")
            found += packet.size > 0
            if found > MAX_FRAMES:
                raise ValueError(f"it has over {MAX_FRAMES} frames")
        if container.format.name.startswith("mov") and found < stream.frames:
            raise ValueError(f"it is cut off: it has {found} of {stream.frames} frames")
    return found


def _declared_bytes(start: bytes) -> int:
    """Returns the size that AVI and Matroska state near the file's start; 0 if none is stated."""
    if start[8:12] == b"AVI ":
        return 8 + int.from_bytes(start[4:8], "little")
    at = start.find(_SEGMENT)
    if not start.startswith(b"\x1aE\xdf\xa3") or at < 0:
        return 0
    at += len(_SEGMENT)
    if not start[at : at + 1].strip(b"\0"):
        return 0  # The file is damaged, and FFmpeg will report that.
    # The first bits of the number state its length: 1 is 8 bits, 01 is 16, and so on. If all other
    # bits are 1, the size is unknown, as during a recording.
    length = 9 - start[at].bit_length()
    bits = 7 * length
    value = int.from_bytes(start[at : at + length], "big") & (1 << bits) - 1
    return 0 if value == (1 << bits) - 1 else at + length + value


@contextlib.contextmanager
def _opened(file: str, **options: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yields the container, and the video stream in it that a player shows."""
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(_open(file))
        start = opened.read(_START_BYTES)
        opened.seek(0)
        names = (name for (at, magic), name in _CONTAINERS.items() if start.startswith(magic, at))
        container_name = next(names, None)
        if container_name is None:
            raise ValueError("it is no MP4, MOV, Matroska, WebM or AVI file")
        codec = "unknown"
        try:
            # A title may have any encoding, so wrong bytes are replaced.
            container = stack.enter_context(
                av.open(opened, format=container_name, options=options, metadata_errors="replace")
            )
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError("it has no stream of video")
            if stream.codec_context is None:
                raise ValueError("its stream of video has a codec that FFmpeg does not know")
            codec = stream.name
            _check_size(stream.width, stream.height)
            stream.codec_context.thread_count = 1  # Each process decodes another video.
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            yield container, stream
        except av.FFmpegError as error:
            raise ValueError(
                f"it cannot be decoded, since it is damaged or cut off (codec {codec};"
                f" {reason_of(error)})"
            ) from error


@contextlib.contextmanager
def _open(file: str) -> Iterator[BinaryIO]:
    try:
        opened = open_plain(file, max_bytes=MAX_VIDEO_BYTES)
    except OSError as error:
        raise ValueError(f"it cannot be read ({reason_of(error)})") from error
    with opened:
        yield opened
