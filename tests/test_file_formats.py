"""Tests what the headers of image files say, against Pillow and on damaged files."""

import io
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fsvfm_jax.data.labelled.file_formats import (
    HEADER_BYTES,
    OTHER,
    FileFormat,
    parse_format,
    read_format,
)

SIZE = (67, 45)


def encoded(kind, size=SIZE, **options):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 80}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
        ("BMP", {}),
        ("TIFF", {}),
    ],
)
def test_format_and_size_are_pillows_whatever_the_name(tmp_path, kind, options):
    (tmp_path / "x.png").write_bytes(encoded(kind, **options))
    found = read_format(str(tmp_path / "x.png"))
    assert (found.kind, found.size) == (kind, SIZE)
    assert bool(found.tables) == (kind == "JPEG") == (found.quality is not None)


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 90, 95, 99, 100])
def test_the_quality_of_a_jpeg_is_that_of_libjpeg(quality):
    found = parse_format(encoded("JPEG", quality=quality))
    assert abs(found.quality - quality) <= (2 if quality < 3 else 0)
    other = parse_format(encoded("JPEG", quality=quality, size=(8, 8)))
    assert other.tables == found.tables and other.size == (8, 8)


def test_exif_before_the_tables_is_passed_over():
    data = encoded("JPEG", quality=80, exif=b"Exif\0\0" + encoded("JPEG", quality=20)[:60_000])
    found = parse_format(data[:HEADER_BYTES])
    assert (found.quality, found.size) == (80, SIZE)


def test_what_is_no_image_has_no_format(tmp_path):
    assert parse_format(b"") == FileFormat(OTHER)
    for content in (b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"BM"):
        assert parse_format(content) == FileFormat(OTHER)
    assert parse_format(b"\xff\xd8\xff") == FileFormat("JPEG")
    assert read_format(str(tmp_path / "no.png")) == FileFormat(OTHER)
    os.mkfifo(tmp_path / "pipe.png")
    assert read_format(str(tmp_path / "pipe.png")) == FileFormat(OTHER)


@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF"]), st.data())
def test_damaged_headers_raise_nothing(kind, data):
    content = bytearray(encoded(kind, size=(9, 7)))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, min(len(content), 700) - 1))] = data.draw(
            st.integers(0, 255)
        )
    parse_format(bytes(content[: data.draw(st.integers(0, len(content)))]))
