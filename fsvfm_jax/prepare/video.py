"""Frames of a video, read by OpenCV (extra `prepare`).

FFmpeg opens what a file points to as readily as the file, and takes a playlist for a video whatever
it is called. So a file must begin as one of three containers do, and no other protocol is open.
"""

import contextlib
import os
from collections.abc import Collection, Iterator
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from fsvfm_jax.data.images import MAX_PIXELS, MAX_SIDE
from fsvfm_jax.errors import in_one_line
from fsvfm_jax.prepare.workers import tick

MAX_FRAMES = 1_000_000  # nine hours
# Where in the file, and what stands there: MP4 and MOV, Matroska and WebM, AVI.
_MAGIC = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (8, b"AVI "))


def count_frames(file: str) -> int:
    """Returns how many frames can be decoded, by decoding them.

    Raises:
        ValueError: It is no video, has larger frames than images may be, or is cut off: its header
            counts more frames than a rounded duration explains.
    """
    with _opened(file) as video:
        count = 0
        while video.grab():
            count += 1
            if count > MAX_FRAMES:
                raise ValueError(f"it has over {MAX_FRAMES} frames")
            tick()
        expected = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    if count == 0:
        raise ValueError("no frame of it can be decoded")
    if expected - count > 2 + expected // 100:
        raise ValueError(f"only {count} of its {expected} frames can be decoded: it is cut off")
    return count


def spaced_indices(count: int, wanted: int | None) -> list[int]:
    """Returns frame numbers evenly spaced from the first to the last; all for None, or if fewer."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return np.linspace(0, count - 1, wanted).round().astype(int).tolist()


def read_frames(
    file: str, indices: Collection[int]
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Yields the frames of these numbers, RGB, upright, in their order.

    Raises:
        ValueError: See `count_frames`; or a frame cannot be decoded.
    """
    wanted = set(indices)
    with _opened(file) as video:
        for index in range(max(wanted) + 1):
            tick()
            if not video.grab():
                raise ValueError(f"frame {index} cannot be decoded")
            if index in wanted:
                is_whole, frame = video.retrieve()
                if not is_whole:
                    raise ValueError(f"frame {index} cannot be decoded")
                yield index, np.ascontiguousarray(frame[:, :, ::-1])


@contextlib.contextmanager
def _opened(file: str) -> Iterator[Any]:
    try:
        with open(file, "rb") as opened:
            start = opened.read(16)
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from error
    if not any(start.startswith(magic, at) for at, magic in _MAGIC):
        raise ValueError("it is no MP4, MOV, Matroska, WebM or AVI file")
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "protocol_whitelist;file"
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"  # The manifest says what is wrong.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    video = cv2.VideoCapture(file, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not video.isOpened():
            raise ValueError("it cannot be opened: it is damaged, cut off or coded in another way")
        size = [int(video.get(x)) for x in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        if max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS:
            raise ValueError(f"its frames have {size[0]} x {size[1]} pixels")
        yield video
    except cv2.error as error:
        raise ValueError(in_one_line(error)) from error
    finally:
        video.release()
