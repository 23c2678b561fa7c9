"""Tests that images are decoded to Pillow's pixels, or refused with a reason."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fsvfm_jax.data import images
from fsvfm_jax.data.images import UnknownClass, decode_image, decode_map, read_file, resize_face
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.prepare.encode import encode_map

PIXELS = render_face(0, image_size=48)[0][:40]  # 40 x 48


def saved(image_format: str, *, mode: str = "RGB", **settings: Any) -> bytes:
    """Returns the picture as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, image_format, **settings)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    """Returns the array as the bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a chunk of a PNG file."""
    length, checksum = struct.pack(">I", len(content)), zlib.crc32(kind + content)
    return length + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, *, bits: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    """Returns a PNG file with this width and height in its header, whatever its rows contain."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpegs_have_the_pixels_that_pillow_gives(mode: str, settings: dict[str, Any]) -> None:
    data = saved("JPEG", mode=mode, quality=80, **settings)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.parametrize(
    ("image_format", "settings"),
    [("PNG", {"mode": mode}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")]
    + [("WEBP", {"lossless": True}), ("WEBP", {"quality": 50})]
    + [("BMP", {"mode": mode}) for mode in ("RGB", "L", "P", "1")]
    + [("TIFF", {"mode": mode}) for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK")]
    + [
        ("TIFF", {"mode": mode, "compression": compression})
        for mode in ("RGB", "L")
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits")
    ]
    + [("TIFF", {"big_endian": True})],
)
def test_other_images_have_the_pixels_that_pillow_gives(
    image_format: str, settings: dict[str, Any]
) -> None:
    data = saved(image_format, **settings)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data), expected)


def test_a_tall_image_is_put_together_from_its_strips() -> None:
    tall = np.random.default_rng(0).integers(0, 256, (600, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(tall).save(file, "PNG")
    np.testing.assert_array_equal(decode_image(file.getvalue()), tall)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_undone_as_pillow_does_it(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image_format, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_image(data, orient=True), expected)
    assert decode_image(data).shape == PIXELS.shape


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_file_that_is_cut_off_is_refused(image_format: str) -> None:
    data = saved(image_format)
    for tenths in range(10):
        with pytest.raises(ValueError):
            decode_image(data[: len(data) * tenths // 10])
    with pytest.raises(ValueError):
        decode_image(data[:-2])


@given(st.data())
def test_a_flipped_bit_in_a_png_is_noticed(data: st.DataObject) -> None:
    content = bytearray(saved("PNG"))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError):
        decode_image(bytes(content))


@given(st.binary(max_size=64), st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF"]))
def test_whatever_follows_the_first_bytes_is_an_image_or_a_value_error(
    content: bytes, image_format: str
) -> None:
    with pytest.raises(ValueError):
        decode_image(saved(image_format)[:12] + content, orient=True)


@given(st.data(), st.sampled_from(["JPEG", "WEBP", "BMP", "TIFF"]))
def test_a_damaged_file_is_an_image_or_a_value_error(
    data: st.DataObject, image_format: str
) -> None:
    """Flips bits, which not every one of these formats detects."""
    content = bytearray(saved(image_format))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 300) - 1))] = data.draw(
            st.integers(0, 255)
        )
    try:
        assert decode_image(bytes(content), orient=True).shape[2] == 3
    except ValueError as error:
        assert str(error)


def animation(image_format: str) -> bytes:
    """Returns a file with two pictures."""
    file, first = io.BytesIO(), Image.fromarray(PIXELS)
    first.save(file, image_format, save_all=True, append_images=[ImageOps.invert(first)])
    return file.getvalue()


MANY_SCANS = saved("JPEG", progressive=True)
MANY_SCANS = MANY_SCANS[:-2] + b"\xff\xda" * 300_000  # empty scans


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot identify"),
        (b"GIF89a" + bytes(100), "cannot identify"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot identify"),
        (b"II*\x00" + bytes(100), "its directory"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", "cannot identify"),
        (png(8001, 8000), "8001 x 8000 pixels are over 50000000"),
        (png(2**31 - 1, 2**31 - 1), ".+"),
        (png(16000, 1), "16000 x 1 pixels: a side is over 12000"),
        (png(1, 16000), "1 x 16000 pixels: a side is over 12000"),
        (png(0, 5), "its header is damaged"),
        (png(5, 5, bits=16), "16 bits per channel"),
        (png(5, 5, rows=bytes(10)), ".+"),
        (animation("PNG"), "it is animated, with 2 pictures"),
        (animation("WEBP"), "it is animated, with 2 pictures"),
        (animation("TIFF"), "it has several pages"),
        (saved("TIFF", mode="F"), "it holds floating-point numbers instead of 8 bits per channel"),
        (saved("TIFF", mode="I"), "no whole numbers from 0 up|32 bits per channel instead of 8"),
        (saved("TIFF", mode="I;16"), "16 bits per channel instead of 8"),
        (saved("TIFF", compression="jpeg"), "it is compressed by TIFF's method 7; save it with"),
        (saved("TIFF", big_tiff=True), "it is a BigTIFF"),
        (MANY_SCANS, "scans of 48 x 40 pixels are over"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_refused_and_why(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_image(data)


def test_a_large_webp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_WEBP_PIXELS", 100)
    decode_image(saved("PNG"))
    with pytest.raises(ValueError, match="48 x 40 pixels are over 100"):
        decode_image(saved("WEBP"))


@pytest.mark.parametrize("shape", [(40, 48), (1, 40, 48)])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_maps_are_read_from_npy(shape: tuple[int, ...], dtype: type) -> None:
    parsing_map = np.arange(40 * 48).reshape(40, 48) % 11
    read = decode_map(npy(parsing_map.astype(dtype).reshape(shape)))
    np.testing.assert_array_equal(read, parsing_map)
    assert read.dtype == np.uint8


def grey(array: np.ndarray, mode: str = "L", **settings: Any) -> bytes:
    """Returns the array as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).convert(mode).save(file, "PNG", **settings)
    return file.getvalue()


def test_maps_are_read_from_png() -> None:
    parsing_map = np.arange(40 * 48).reshape(40, 48) % 11
    np.testing.assert_array_equal(decode_map(grey(parsing_map)), parsing_map)


def test_a_packed_map_with_any_byte_changed_is_damaged_or_the_same() -> None:
    """Tests the decoder of packed maps; whatever it does not accept, Pillow decodes or refuses."""
    parsing_map = np.arange(12 * 9).reshape(12, 9) % 11
    whole = encode_map(parsing_map.astype(np.uint8))
    np.testing.assert_array_equal(decode_map(whole), parsing_map)
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1
        with pytest.raises(ValueError, match=r".+"):
            decode_map(bytes(data))
    for end in range(len(whole)):
        with pytest.raises(ValueError, match=r".+"):
            decode_map(whole[:end])


@pytest.mark.parametrize(
    ("size", "rows"),
    [((9000, 9000), b""), ((3, 2), b"\5" * 8)],
)
def test_a_packed_map_with_wrong_rows_is_refused(size: tuple[int, int], rows: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_map(png(*size, colour=0, rows=rows))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot identify it as PNG or NPY"),
        (saved("JPEG", mode="L"), "cannot identify it as PNG or NPY"),
        (grey(np.zeros((5, 5)), "RGB"), "it is not 8-bit grey"),
        (grey(np.zeros((5, 5)), "P"), "it is not 8-bit grey"),
        (grey(np.zeros((5, 5)), "1"), "it is not 8-bit grey"),
        (png(5, 5, bits=4, colour=0, rows=bytes(20)), "it is not 8-bit grey"),
        (png(5, 5, bits=16, colour=0, rows=bytes(60)), "it is not 8-bit grey"),
        (png(9000, 9000, colour=0), "pixels are over"),
        (grey(np.zeros((5, 5)))[:-20], ".+"),
        (npy(np.zeros((5, 5), np.float32)), "no array of whole numbers"),
        (npy(np.zeros((5, 5), "m8[s]")), "no array of whole numbers"),
        (npy(np.zeros((5, 5), "M8[s]")), "no array of whole numbers"),
        (npy(np.zeros((5, 5), bool)), "no array of whole numbers"),
        (npy(np.zeros((2, 5, 5), np.int8)), r"its shape is \[2, 5, 5\]"),
        (npy(np.array([{}], object)), ".+"),
        (npy(np.zeros((5, 5), np.int8))[:-1], ".+"),
        (grey(np.full((5, 5), 11)), "holds class 11"),
        (npy(np.full((5, 5), -1, np.int8)), "holds class -1"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_no_map_and_why(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_map(data)


def test_another_number_of_classes_may_be_asked_for() -> None:
    data = grey(np.full((5, 5), 18))
    assert decode_map(data, num_classes=19).max() == 18
    with pytest.raises(UnknownClass):
        decode_map(data, num_classes=18)


def test_files_are_read_unless_they_are_none_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert read_file(str(tmp_path / "a.jpg")) == b"x"
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        read_file(str(tmp_path / "b.jpg"))
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name, kind in (("pipe.jpg", "named pipe"), ("zero.jpg", "device")):
        with pytest.raises(ValueError, match=f"it is a {kind}, not a plain file"):
            read_file(str(tmp_path / name))
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 0)
    with pytest.raises(ValueError, match="it has 1 bytes; such a file has at most 0"):
        read_file(str(tmp_path / "a.jpg"))


def test_a_face_of_the_right_size_is_left_alone() -> None:
    image, parsing_map = render_face(0, image_size=32)
    face = resize_face(image, parsing_map, image_size=32)
    assert face["image"] is image
    assert face["parsing_map"] is parsing_map


@settings(max_examples=25)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    image_size=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_resizing_invents_no_class(height: int, width: int, image_size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parsing_map = rng.choice(np.array([0, 3, 10], np.uint8), (height, width))
    image = np.full((height, width, 3), (10, 128, 250), np.uint8)
    face = resize_face(image, parsing_map, image_size=image_size)
    assert face["image"].shape == (image_size, image_size, 3)
    assert face["parsing_map"].shape == (image_size, image_size)
    assert set(face["parsing_map"].flat) <= set(parsing_map.flat)
    assert (face["image"] == (10, 128, 250)).all()


def test_resizing_and_mirroring_can_be_exchanged() -> None:
    image, parsing_map = render_face(1, image_size=96)
    face = resize_face(image, parsing_map, image_size=32)
    mirrored = resize_face(image[:, ::-1], parsing_map[:, ::-1], image_size=32)
    np.testing.assert_array_equal(mirrored["image"], face["image"][:, ::-1])
    np.testing.assert_array_equal(mirrored["parsing_map"], face["parsing_map"][:, ::-1])


def test_image_and_map_stay_aligned() -> None:
    parsing_map = np.zeros((90, 60), np.uint8)
    parsing_map[30:60, 20:40] = 6
    image = np.where(parsing_map[..., None] == 6, 255, 0).astype(np.uint8).repeat(3, axis=2)
    face = resize_face(image, parsing_map, image_size=30)
    assert (face["parsing_map"][10:20, 10:20] == 6).all()
    assert (face["parsing_map"] == 6).sum() == 100
    assert ((face["image"][..., 0] > 127) == (face["parsing_map"] == 6)).all()
