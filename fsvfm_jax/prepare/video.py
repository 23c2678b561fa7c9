"""Frames of a video, read by PyAV (extra `prepare`), which contains FFmpeg's libraries.

FFmpeg takes a playlist for a video whatever the playlist is called, and opens what it names. So a
file must begin as one of three containers does, FFmpeg is given that container's name, and it sees
the bytes of an open file, no path: no other file and no network can be reached from there.
"""

import contextlib
import itertools
import os
from collections.abc import Collection, Iterator
from typing import BinaryIO

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

MAX_FRAMES = 1_000_000  # nine hours
# Of all frames together: 80 minutes of 1920 x 1080 at 25 frames a second. A frame that repeats the
# one before takes a few bytes of a file, and as long to decode as any other.
MAX_VIDEO_PIXELS = 250_000_000_000
# FFmpeg's name of a container by what a file begins with, and where. A QuickTime file of before
# 2001 has no `ftyp`.
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
_SEGMENT = b"\x18\x53\x80\x67"  # of Matroska and WebM: everything after the header


def count_frames(file: str) -> int:
    """Returns how many frames a player shows, by decoding them.

    Raises:
        ValueError: The file is no video, is cut off, has larger frames than images may have, or is
            coded in a way that cannot be decoded.
    """
    _check_whole(file)
    with _opened(file) as (container, stream):
        count = sum(1 for _ in itertools.islice(_frames(container, stream), MAX_FRAMES + 1))
    if count == 0:
        raise ValueError(f"no frame of it can be decoded (codec {stream.name})")
    if count > MAX_FRAMES:
        raise ValueError(f"it has over {MAX_FRAMES} frames")
    return count


def spaced_indices(count: int, wanted: int | None) -> list[int]:
    """Returns frame numbers evenly spaced from the first to the last; all for None, or if fewer."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return np.linspace(0, count - 1, wanted).round().astype(int).tolist()


def read_frames(
    file: str, indices: Collection[int]
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Yields the frames of these numbers, RGB, upright, in the order in which a player shows them.

    Raises:
        ValueError: As `count_frames`; or there is no frame of a number.
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


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Yields the frames that a player shows: an edit list may leave out some that are stored."""
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
    """The frame's pixels, turned as the container asks."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _check_size(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ValueError(f"its frames have {width} x {height} pixels")


def _check_whole(file: str) -> None:
    """Raises ValueError if the file ends before what its container declares.

    The number of frames in a header of Matroska or AVI is a duration times a nominal rate: it says
    nothing of a video of variable rate. So these two are compared by their size in bytes. MP4 and
    QuickTime have an index of all frames, also of those that an edit list leaves out.
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


def _declared_bytes(start: bytes) -> int:
    """The size that AVI and Matroska state near the start of the file; 0 where none is stated."""
    if start[8:12] == b"AVI ":
        return 8 + int.from_bytes(start[4:8], "little")
    at = start.find(_SEGMENT)
    if not start.startswith(b"\x1aE\xdf\xa3") or at < 0:
        return 0
    at += len(_SEGMENT)
    if not start[at : at + 1].strip(b"\0"):
        return 0  # damaged: FFmpeg says so
    # A number whose first bits state its length: 1 of 8 bits, 01 of 16, and so on. All ones stand
    # for an unknown size, as while a recording goes on.
    length = 9 - start[at].bit_length()
    bits = 7 * length
    value = int.from_bytes(start[at : at + length], "big") & (1 << bits) - 1
    return 0 if value == (1 << bits) - 1 else at + length + value


@contextlib.contextmanager
def _opened(file: str, **options: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container, and the stream of video in it that a player shows."""
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
            # A title may be in any encoding.
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
            stream.codec_context.thread_count = 1  # Videos are what is spread over processes.
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
