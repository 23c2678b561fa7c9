"""Makes videos of every container and codec that matters."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from golden_files import need

av = need("av", "prepare")
CODECS = {
    "mp4": "libx264",
    "m4v": "mpeg4",
    "mov": "mpeg4",
    "mkv": "libx264",
    "webm": "libvpx",
    "avi": "mjpeg",
}
MILLISECONDS = Fraction(1, 1000)


def write_video(
    file: Path,
    count: int,
    *,
    size: int = 64,
    codec: str = "",
    times: Sequence[int] = (),
    metadata: dict[str, str] | None = None,
    **options: str,
) -> None:
    """Writes frames whose grey level is twice their number, with a blue corner.

    Args:
        file: The video to write; its suffix is the container.
        count: Number of frames.
        size: Width and height, in pixels.
        codec: Name of the codec; the usual one of the container if empty.
        times: The time of each frame, in milliseconds; multiples of 40 by default.
        metadata: Metadata of the container.
        options: Options of the container.
    """
    with av.open(str(file), "w", options=options) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec or CODECS[file.suffix[1:]], rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = "yuvj420p" if stream.name == "mjpeg" else "yuv420p"
        if times:
            stream.codec_context.time_base = MILLISECONDS
        for index in range(count):
            pixels = np.full((size, size, 3), 2 * index, np.uint8)
            pixels[:8, :8] = (0, 0, 255)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            if times:
                frame.time_base, frame.pts = MILLISECONDS, times[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
