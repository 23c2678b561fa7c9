"""Tests that images that would make a decoder work without bound are refused before decoding."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_trees import start_python
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from PIL.JpegImagePlugin import MARKER

from fsvfm_jax.data.image_parts import (
    MAX_JPEG_FILL_BYTES,
    MAX_JPEG_SEGMENTS,
    MAX_PNG_OTHER_CHUNKS,
    MAX_PNG_PIXEL_CHUNKS,
    jpeg_exif,
    jpeg_parts,
    plain_jpeg,
    plain_tiff,
    png_exif,
    png_parts,
    read_directory,
    tiff_orientation,
)
from fsvfm_jax.data.images import decode_image

MARKERS = [*range(0xC0, 0x100), 0, 1]
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def saved(image_format: str, *, mode: str = "RGB", **settings: Any) -> bytes:
    """Returns the picture as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, image_format, **settings)
    return file.getvalue()


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """Returns a chunk of a PNG file."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_with(chunks: bytes) -> bytes:
    """Returns a PNG with these chunks after its header."""
    data = saved("PNG")
    return data[:33] + chunks + data[33:]


def jpeg_with(segments: bytes, *, mode: str = "RGB") -> bytes:
    """Returns a JPEG with these segments after its start."""
    data = saved("JPEG", mode=mode)
    return data[:2] + segments + data[2:]


def segment(marker: bytes, content: bytes) -> bytes:
    """Returns a segment of a JPEG file."""
    return marker + struct.pack(">H", len(content) + 2) + content


def directory_of_copies(entries: int, size: int) -> bytes:
    """Returns a TIFF directory in which each entry is the complete file."""
    parts = [struct.pack("<HHII", 1000 + number, 7, size, 0) for number in range(entries)]
    whole = b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + b"".join(parts) + bytes(4)
    return whole.ljust(size, b"x")


PROFILE = b"n\0\0" + zlib.compress(bytes(2**20 - 100), 9)
TOO_MUCH = {
    "text": png_with(chunk(b"tEXt", b"a\0b") * 1_000_000),
    "private": png_with(chunk(b"prIv") * 1_000_000),
    "pixels": png_with(chunk(b"IDAT") * 1_000_000),
    "profiles": png_with(chunk(b"iCCP", PROFILE) * 2000),
    "comments": jpeg_with(b"\xff\xfe\0\2" * 5_000_000),
    "tables": jpeg_with(segment(b"\xff\xdb", b"\0" + bytes(range(1, 65))) * 200_000),
    "fill": jpeg_with(b"\xff" * 20_000_000),
    "junk": jpeg_with(b"\xff\xd0" * 10_000_000),
    "CMYK": jpeg_with(b"\xff\xfe\0\2" * 5_000_000, mode="CMYK"),
    "EXIF": jpeg_with(segment(b"\xff\xe1", b"Exif\0\0" + bytes(60_000)) * 1500),
    "RLE": saved("BMP", mode="L")[:30] + b"\1" + saved("BMP", mode="L")[31:],
    "strips": saved("TIFF").replace(
        struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 273, 4, 2**20)
    ),
}


@pytest.mark.parametrize("data", TOO_MUCH.values(), ids=TOO_MUCH)
def test_too_much_is_refused_at_once(data: bytes) -> None:
    """Checks the message, which shows that no decoder has read the file."""
    with pytest.raises(ValueError, match=r"it has over|it is a compressed BMP|has over 65536 val"):
        decode_image(data, orient=True)


def test_what_is_allowed_is_decoded() -> None:
    decode_image(png_with(chunk(b"IDAT") * (MAX_PNG_PIXEL_CHUNKS - 10)))
    decode_image(png_with(chunk(b"tEXt", b"a\0b") * (MAX_PNG_OTHER_CHUNKS - 10)))
    decode_image(png_with(chunk(b"iCCP", PROFILE) * (MAX_PNG_OTHER_CHUNKS - 10)))
    decode_image(jpeg_with(b"\xff\xfe\0\2" * (MAX_JPEG_SEGMENTS - 100), mode="CMYK"))


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_fill_bytes_are_no_segments(mode: str) -> None:
    """Puts any number of bytes 0xFF before a marker, which the format allows."""
    whole, exif = saved("JPEG", mode=mode), Image.Exif()
    exif[274] = 5
    turned = saved("JPEG", mode=mode, exif=exif)
    for count in (1, 20_000, MAX_JPEG_FILL_BYTES - 10):
        filled = jpeg_with(b"\xff" * count, mode=mode)
        np.testing.assert_array_equal(decode_image(filled), decode_image(whole))
        filled = turned[:2] + b"\xff" * count + turned[2:]
        assert tiff_orientation(jpeg_exif(filled)) == 5
        kinds = [part.kind for part in jpeg_parts(filled)]
        assert kinds == [part.kind for part in jpeg_parts(turned)]


@given(st.binary(max_size=60), st.lists(st.sampled_from(MARKERS), max_size=8), st.data())
def test_segments_are_those_that_a_search_byte_by_byte_finds(
    junk: bytes, markers: list[int], data: st.DataObject
) -> None:
    content = b"\xff\xd8" + junk
    for marker in markers:
        content += bytes([255, marker]) + data.draw(st.binary(max_size=6))
    found, place = [], 2
    while place + 2 <= len(content) and content[place : place + 2] != b"\xff\xda":
        if MARKER.get(int.from_bytes(content[place : place + 2]), (None,))[-1] is None:
            place += 1
            continue
        length = max(int.from_bytes(content[place + 2 : place + 4]), 2)
        found.append((content[place : place + 2], place + 4, place + 2 + length))
        place += 2 + length
    assert jpeg_parts(content) == found


COPIES = directory_of_copies(5000, 64_000)
AMPLIFIED = {
    "JPEG": jpeg_with(segment(b"\xff\xe1", b"Exif\0\0" + COPIES)),
    "CMYK": jpeg_with(segment(b"\xff\xe1", b"Exif\0\0" + COPIES), mode="CMYK"),
    "pictures": jpeg_with(segment(b"\xff\xe2", b"MPF\0" + COPIES), mode="CMYK"),
    "PNG": png_with(chunk(b"eXIf", directory_of_copies(5000, 2**20))),
    "WebP": saved("WEBP", exif=directory_of_copies(5000, 2**20)),
}


def tiff_of_copies() -> bytes:
    """Returns a TIFF with a megabyte to which 3,000 entries of its directory or EXIF refer."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[34665] = 2**31 - 1  # the place of EXIF, corrected below
    data = bytearray(saved("TIFF", tiffinfo=info))
    exif = directory_of_copies(3000, 2**20)[8:]
    pointer = data.index(struct.pack("<I", 2**31 - 1))
    data[pointer : pointer + 4] = struct.pack("<I", len(data))
    return bytes(data) + exif


def test_a_directory_does_not_multiply_a_file_in_memory(tmp_path: Path) -> None:
    """Runs in a new process with 300 MB to spare; each of these files needs 320 MB or more."""
    for name, data in {**AMPLIFIED, "TIFF": tiff_of_copies()}.items():
        (tmp_path / name).write_bytes(data)
    code = """
import resource, sys
from pathlib import Path
from fsvfm_jax.data.images import decode_image
from fsvfm_jax.prepare.encode import _keep
for file in sorted(Path(sys.argv[1]).iterdir()):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode_image(file.read_bytes(), orient=True).shape == (20, 30, 3)
    _keep(file.read_bytes())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, (file.name, grown)
"""
    process = start_python(code, str(tmp_path), stderr=-1)
    said = process.communicate()[1]
    assert process.returncode == 0, said


def test_a_tiff_keeps_what_its_pixels_need_alone() -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[274], info[270], info[700] = 6, "description", b"<x:xmpmeta/>"
    data = saved("TIFF", tiffinfo=info, compression="tiff_lzw")
    assert tiff_orientation(data) == 6
    with Image.open(io.BytesIO(plain_tiff(data))) as image:
        assert not {274, 270, 700} & set(image.tag_v2)
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
    np.testing.assert_array_equal(decode_image(data), PIXELS)
    np.testing.assert_array_equal(decode_image(data, orient=True), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("size", [0, 3, 8, 9, 30, 100])
def test_a_directory_that_is_cut_off_is_refused(size: int) -> None:
    for data in (saved("TIFF")[:size], directory_of_copies(50, 1000)[:size]):
        with pytest.raises(ValueError):
            read_directory(data)


def test_tiles_and_a_tag_twice_are_refused() -> None:
    data = saved("TIFF")
    tiled = data.replace(struct.pack("<HHI", 278, 4, 1), struct.pack("<HHI", 322, 4, 1))
    tiled = tiled.replace(struct.pack("<HHI", 278, 3, 1), struct.pack("<HHI", 322, 3, 1))
    with pytest.raises(ValueError, match="it is stored in tiles"):
        decode_image(tiled)
    with pytest.raises(ValueError, match="the tag 256 twice"):
        decode_image(data.replace(struct.pack("<H", 257), struct.pack("<H", 256), 1))


def test_parts_are_those_of_the_file() -> None:
    exif = Image.Exif()
    exif[274] = 5
    png, jpeg = saved("PNG", exif=exif), saved("JPEG", exif=exif)
    assert [part.kind for part in png_parts(png)] == [b"IHDR", b"eXIf", b"IDAT", b"IEND"]
    kinds = [part.kind for part in jpeg_parts(jpeg)]
    assert kinds[:2] == [b"\xff\xe0", b"\xff\xe1"] and kinds[-1] == b"\xff\xc4"
    assert tiff_orientation(png_exif(png)) == tiff_orientation(jpeg_exif(jpeg)) == 5
    assert jpeg_exif(plain_jpeg(jpeg)) == b"" and png_exif(saved("PNG")) == b""
    np.testing.assert_array_equal(decode_image(plain_jpeg(jpeg)), decode_image(jpeg))
