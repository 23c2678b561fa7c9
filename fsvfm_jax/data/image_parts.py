"""Checks the parts of an image file before a decoder reads it.

Decoders limit neither the number of parts nor the work for each part. A PNG of 2 MB can have 2,000
colour profiles, each of which is decompressed to 1 MB. The directory of a TIFF, or of EXIF, can
have 65,535 entries, each of which Pillow copies and each of which can span the whole file. A file
beyond the limits raises a `ValueError`. Data workers import this module.
"""

import re
import struct
from typing import NamedTuple

from PIL.JpegImagePlugin import MARKER

# Encoders put at least 8 kB of pixels into each chunk.
MAX_PNG_PIXEL_CHUNKS = 50_000
MAX_PNG_OTHER_CHUNKS = 100
# These limits hold before the first scan, where a JPEG has segments of at most 64 kB, and fill
# bytes between them.
MAX_JPEG_SEGMENTS = 10_000
MAX_JPEG_FILL_BYTES = 2**20
MAX_JPEG_HEADER_BYTES = 2**25
MAX_TIFF_STRIPS = 2**16

_SCAN = b"\xff\xda"
# Pillow's table lists the markers after which Pillow reads a length.
_WITH_LENGTH = [marker.to_bytes(2) for marker, (*_, reads) in MARKER.items() if reads is not None]
_MARKER = re.compile(b"|".join(map(re.escape, [*_WITH_LENGTH, _SCAN])))
_EXTRAS = (b"\xff\xe1", b"\xff\xe2")  # EXIF and XMP; colour profiles and lists of pictures
_UNCOMPRESSED_BMP = (0, 3)  # rows of pixels; rows of pixels with masks
# The numbers mean none, LZW, Deflate (two numbers) and PackBits.
_TIFF_COMPRESSIONS = (1, 5, 8, 32946, 32773)
_ORIENTATION = 274
_BITS, _COMPRESSION, _STRIPS, _STRIP_BYTES, _TILE_WIDTH, _FORMAT = 258, 259, 273, 279, 322, 339
# The tags that decoding the pixels needs: sizes, colours, order, strips, predictor, palette.
_TIFF_PIXEL_TAGS = {256, 257, _BITS, _COMPRESSION, 262, 266, _STRIPS, 277, 278, _STRIP_BYTES}
_TIFF_PIXEL_TAGS |= {284, 317, 320, 338, _FORMAT}
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # type of a TIFF's entry to format of `struct`


class Part(NamedTuple):
    """A chunk of a PNG, or a segment of a JPEG.

    Attributes:
        kind: Four letters, or the two bytes of a marker.
        start: Place in the file where the content begins.
        end: Place where the content ends; it may be beyond the end of a truncated file.
    """

    kind: bytes
    start: int
    end: int


def png_parts(data: bytes) -> list[Part]:
    """Returns the chunks of a PNG up to its end.

    Raises:
        ValueError: The file has more chunks than any program writes.
    """
    parts, pixels, place = [], 0, 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        parts.append(Part(kind, place + 8, place + 8 + length))
        if kind == b"IEND":
            break
        pixels += kind == b"IDAT"
        if pixels > MAX_PNG_PIXEL_CHUNKS or len(parts) - pixels > MAX_PNG_OTHER_CHUNKS:
            raise ValueError(
                f"it has over {MAX_PNG_PIXEL_CHUNKS} chunks of pixels, or over"
                f" {MAX_PNG_OTHER_CHUNKS} others"
            )
        place += 12 + length
    return parts


def jpeg_parts(data: bytes) -> list[Part]:
    """Returns the segments of a JPEG before its first scan.

    Raises:
        ValueError: The file has more data before that scan than any program writes.
    """
    parts, place, between = [], 2, 0
    while len(parts) < MAX_JPEG_SEGMENTS:
        found = _MARKER.search(data, place)
        begin = found.start() if found else len(data)
        between += begin - place
        if begin > MAX_JPEG_HEADER_BYTES or between > MAX_JPEG_FILL_BYTES:
            break
        if found is None or found[0] == _SCAN:
            return parts
        length = max(int.from_bytes(data[begin + 2 : begin + 4]), 2)
        parts.append(Part(found[0], begin + 4, begin + 2 + length))
        place = begin + 2 + length
    raise ValueError(
        f"it has over {MAX_JPEG_SEGMENTS} segments, {MAX_JPEG_FILL_BYTES} bytes between them, or"
        f" {MAX_JPEG_HEADER_BYTES} bytes in all, before its first scan"
    )


def plain_jpeg(data: bytes) -> bytes:
    """Returns a JPEG without EXIF and similar segments, and without the bytes between segments.

    Pillow would read those segments, and would go through those bytes one by one.

    Raises:
        ValueError: As `jpeg_parts`.
    """
    parts = jpeg_parts(data)
    kept = [data[one.start - 4 : one.end] for one in parts if one.kind not in _EXTRAS]
    _, scan, pixels = data[parts[-1].end if parts else 2 :].partition(_SCAN)
    return b"".join([data[:2], *kept, scan, pixels])


def png_exif(data: bytes) -> bytes:
    """Returns the EXIF data of a PNG, or b""; errors are those of `png_parts`."""
    found = (data[start:end] for kind, start, end in png_parts(data) if kind == b"eXIf")
    return next(found, b"")


def jpeg_exif(data: bytes) -> bytes:
    """Returns the EXIF data of a JPEG, or b""; errors are those of `jpeg_parts`."""
    segments = (data[start:end] for kind, start, end in jpeg_parts(data) if kind == b"\xff\xe1")
    return next((one[6:] for one in segments if one.startswith(b"Exif\0\0")), b"")


def check_bmp(data: bytes) -> None:
    """Checks that a BMP is not compressed, because Pillow decompresses a BMP in slow Python code.

    Raises:
        ValueError: The BMP is compressed.
    """
    header_bytes = int.from_bytes(data[14:18], "little")
    compression = int.from_bytes(data[30:34], "little") if header_bytes >= 40 else 0
    if compression not in _UNCOMPRESSED_BMP:
        raise ValueError("it is a compressed BMP; save it as PNG")


class Entry(NamedTuple):
    """An entry of a TIFF's directory.

    Attributes:
        place: Place of the entry in the file.
        values: Integers, at most MAX_TIFF_STRIPS of them; empty if the entry has values of another
            type, or is not needed here.
    """

    place: int
    values: tuple[int, ...]


def plain_tiff(data: bytes) -> bytes:
    """Returns a TIFF with only the entries that its pixels need: no EXIF, no orientation, one page.

    Raises:
        ValueError: The file is not a TIFF with one picture of at most 8 bits per channel, in
            strips.
    """
    entries, following = read_directory(data)
    values = {tag: entry.values for tag, entry in entries.items()}
    if following:
        raise ValueError("it has several pages")
    if _TILE_WIDTH in values:
        raise ValueError("it is stored in tiles; save it in strips")
    if max(values.get(_FORMAT, (1,)), default=0) == 3:
        raise ValueError("it holds floating-point numbers instead of 8 bits per channel")
    if set(values.get(_FORMAT, ())) - {1, 4}:
        raise ValueError("it holds no whole numbers from 0 up")
    bits = max(values.get(_BITS, (1,)), default=0)
    if bits > 8:
        raise ValueError(f"{bits} bits per channel instead of 8")
    (compression,) = values.get(_COMPRESSION, (1,))[:1] or (0,)
    if compression not in _TIFF_COMPRESSIONS:
        raise ValueError(
            f"it is compressed by TIFF's method {compression}; save it with LZW, Deflate or none"
        )
    plain = bytearray(data)
    for tag, entry in entries.items():
        if tag not in _TIFF_PIXEL_TAGS:
            # Readers ignore an entry of type 0.
            plain[entry.place + 2 : entry.place + 4] = b"\0\0"
    return bytes(plain)


def tiff_orientation(data: bytes) -> int:
    """Returns the orientation, 1 to 8, in a TIFF or in EXIF data, which have the same form.

    Returns 1 if the file states no orientation.
    """
    entry = read_directory(data)[0].get(_ORIENTATION)
    return entry.values[0] if entry and entry.values else 1


def read_directory(data: bytes) -> tuple[dict[int, Entry], int]:
    """Returns the entries of a TIFF's first directory by tag, and the place of the second.

    Raises:
        ValueError: There is no such directory, or a tag occurs twice in it.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        is_big = data[:4] in (b"II+\0", b"MM\0+")
        raise ValueError("it is a BigTIFF" if is_big else "it has no TIFF directory")
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        entries: dict[int, Entry] = {}
        for place in range(start + 2, start + 2 + 12 * count, 12):
            (tag,) = struct.unpack_from(order + "H", data, place)
            if tag in entries:
                raise ValueError(f"its directory has the tag {tag} twice")
            is_needed = tag in _TIFF_PIXEL_TAGS or tag in (_TILE_WIDTH, _ORIENTATION)
            entries[tag] = Entry(place, _values(data, place, order) if is_needed else ())
        end = start + 2 + 12 * count
        # EXIF data may end here, and then there is no second directory.
        return entries, int.from_bytes(data[end : end + 4])
    except struct.error:
        raise ValueError("its directory is cut off") from None


def _values(data: bytes, place: int, order: str) -> tuple[int, ...]:
    kind, count = struct.unpack_from(order + "HI", data, place + 2)
    if kind not in _INTEGERS:
        return ()
    values = f"{order}{count}{_INTEGERS[kind]}"
    where = place + 8
    if count > MAX_TIFF_STRIPS:
        raise ValueError(f"an entry of its directory has over {MAX_TIFF_STRIPS} values")
    if struct.calcsize(values) > 4:
        (where,) = struct.unpack_from(order + "I", data, where)
    return struct.unpack_from(values, data, where)
