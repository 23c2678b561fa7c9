"""Reads from the header of an image file how it is stored: format, JPEG tables, size in pixels."""

import functools
import struct
from typing import NamedTuple

from fsvfm_jax.data.image_parts import jpeg_parts, read_directory
from fsvfm_jax.data.images import MAX_FILE_BYTES, format_of
from fsvfm_jax.host.plain_files import open_plain

HEADER_BYTES = 2**17  # More than EXIF data with a small picture and a colour profile.
OTHER = "unknown"  # the format of a file that cannot be read, or is none of the formats
_TABLES = b"\xff\xdb"
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # markers among those of frames that have another meaning
# The sum of the luminance table that libjpeg scales by the quality: table K.1 of the JPEG standard.
_TABLE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)


class FileFormat(NamedTuple):
    """How an image file is stored.

    Attributes:
        kind: "JPEG", "PNG", "WEBP", "TIFF", "BMP", or OTHER.
        size: Width and height in pixels, if they are known.
        tables: The quantisation tables of a JPEG, as they are in the file; b"" without any.
        quality: Quality of libjpeg, 1 to 100, whose table is nearest to that of a JPEG.
    """

    kind: str
    size: tuple[int, int] | None = None
    tables: bytes = b""
    quality: int | None = None


def read_format(file: str) -> FileFormat:
    """Returns how an image file is stored, by its first HEADER_BYTES; never raises an error."""
    try:
        with open_plain(file, max_bytes=MAX_FILE_BYTES) as opened:
            return parse_format(opened.read(HEADER_BYTES))
    except (OSError, ValueError):
        return FileFormat(OTHER)


def parse_format(data: bytes) -> FileFormat:
    """Returns how an image is stored.

    Args:
        data: The beginning of the file. What it lacks is not known.
    """
    try:
        kind = format_of(data)
        if kind == "JPEG":
            return _jpeg(data)
        return FileFormat(kind, _SIZES[kind](data))
    except (ValueError, struct.error, IndexError):
        return FileFormat(OTHER)


def _jpeg(data: bytes) -> FileFormat:
    parts = jpeg_parts(data)
    contents = [(one.kind, data[one.start : one.end]) for one in parts]
    tables = b"".join(content for kind, content in contents if kind == _TABLES)
    frames = (
        content
        for kind, content in contents
        if 0xC0 <= kind[1] <= 0xCF and kind[1] not in _NO_FRAME
    )
    frame = next(frames, b"")
    height, width = struct.unpack(">HH", frame[1:5]) if len(frame) >= 5 else (0, 0)
    return FileFormat("JPEG", (width, height) if width else None, tables, _quality(tables))


def _quality(tables: bytes) -> int | None:
    """Returns the quality of libjpeg whose luminance table has the nearest sum; that is table 0."""
    place = 0
    while place < len(tables):
        is_wide, number = tables[place] >> 4, tables[place] & 15
        form = ">64H" if is_wide else ">64B"
        end = place + 1 + struct.calcsize(form)
        if end > len(tables):
            return None
        if number == 0:
            total = sum(struct.unpack(form, tables[place + 1 : end]))
            return min(range(1, 101), key=lambda quality: abs(_sum(quality) - total))
        place = end
    return None


@functools.cache
def _sum(quality: int) -> int:
    """Returns the sum of the luminance table at a quality, as libjpeg scales it."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return sum(min(max((entry * scale + 50) // 100, 1), 255) for entry in _TABLE)


def _png_size(data: bytes) -> tuple[int, int]:
    return struct.unpack_from(">II", data, 16)


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = data[24:27], data[27:30]
    if len(height) < 3:
        raise ValueError("it is cut off")
    return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1


def _bmp_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    entries, _ = read_directory(data)
    sides = [entries[tag].values for tag in (256, 257) if tag in entries]
    return (sides[0][0], sides[1][0]) if len(sides) == 2 and all(sides) else None


_SIZES = {"PNG": _png_size, "WEBP": _webp_size, "BMP": _bmp_size, "TIFF": _tiff_size}
