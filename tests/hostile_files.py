"""Makes files whose content does not match their names, or that expand to huge sizes."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fsvfm_jax.data.rendered.synthetic import render_face


def png(width: int, height: int, rows: bytes, *, bits: int = 8, colour: int = 2) -> bytes:
    """Returns a PNG file with this width and height in its header, whatever its rows contain."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows, 1)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(picture: Image.Image, image_format: str, **settings: Any) -> bytes:
    """Returns the picture as the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, image_format, **settings)
    return file.getvalue()


def write_hostile_files(folder: Path) -> dict[str, str]:
    """Fills a folder with hostile files, and puts a secret file beside it.

    Returns:
        The outcomes that a detector should have for the few harmless files, by name.
    """
    (folder / "sub").mkdir(parents=True)
    pixels = np.full((200, 200, 3), 128, np.uint8)
    pixels[36:164, 36:164] = render_face(5, image_size=128)[0]
    face = Image.fromarray(pixels)
    (folder.parent / "secret.jpg").write_bytes(saved(face, "JPEG"))
    for name, content in {**_images(face), **_others(face), **_videos()}.items():
        (folder / name).write_bytes(content)
    _write_cut_off(folder, face)
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "up.jpg").symlink_to("../secret.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    harmless = {"cmyk.jpg": "face", "odd_exif.jpg": "face", "new\nline.png": "face"}
    harmless |= dict.fromkeys(["tiff.jpg", "bmp.webp", "small.tif"], "no_face")
    return harmless | {"sub/trailing.png": "face", "black.png": "no_face", "one.png": "no_face"}


def _images(face: Image.Image) -> dict[str, bytes]:
    """Returns images that exceed limits."""
    progressive = saved(face, "JPEG", progressive=True)
    start_of_png, rest_of_png = saved(face, "PNG")[:33], saved(face, "PNG")[33:]
    empty_chunk = b"\0\0\0\0prIv" + struct.pack(">I", zlib.crc32(b"prIv"))
    exif = Image.Exif()
    exif[0x0112] = 99
    animated = {"save_all": True, "append_images": [ImageOps.invert(face)]}
    return {
        "cmyk.jpg": saved(face.convert("CMYK"), "JPEG", quality=95),
        "odd_exif.jpg": saved(face, "JPEG", exif=exif),
        "new\nline.png": saved(face, "PNG"),
        "sub/trailing.png": saved(face, "PNG") + b"more",
        "black.png": png(7000, 7000, bytes(7000 * 21001)),
        "one.png": png(1, 1, bytes(4)),
        "claims.png": png(60000, 60000, bytes(10)),
        "largest.png": png(2**31 - 1, 2**31 - 1, bytes(10)),
        "bomb.png": png(9000, 9000, bytes(9000 * 27001)),
        "short.png": png(6000, 6000, bytes(10)),
        "none.png": png(0, 0, b""),
        "wide.png": png(16000, 1, bytes(48001)),
        "high.png": png(1, 16000, bytes(64000)),
        "wide.jpg": saved(Image.new("L", (16000, 1)), "JPEG"),
        "deep.png": png(64, 64, bytes(64 * 385), bits=16),
        "deep_grey.png": png(64, 64, bytes(64 * 129), bits=16, colour=0),
        "bad_bits.png": png(64, 64, bytes(64 * 193), bits=3),
        "animated.png": saved(face, "PNG", **animated),
        "animated.webp": saved(face, "WEBP", **animated),
        "scans.jpg": progressive[:-2] + b"\xff\xda" * 200_000,
        "chunks.png": start_of_png + empty_chunk * 1_000_000 + rest_of_png,
        "segments.jpg": progressive[:2] + b"\xff\xfe\0\2" * 1_000_000 + progressive[2:],
        "sixteen.tif": saved(face.convert("I;16"), "TIFF"),
        "pages.tif": saved(face, "TIFF", **animated),
        "float.tif": saved(face.convert("F"), "TIFF"),
        "large.webp": saved(Image.new("RGB", (5000, 4001)), "WEBP", lossless=True, method=0),
    }


def _others(face: Image.Image) -> dict[str, bytes]:
    """Returns files of other formats, or of no format, with the names of images."""
    small = face.resize((32, 32))
    return {
        "empty.jpg": b"",
        "zeros.png": bytes(5000),
        "magic.png": b"\x89PNG\r\n\x1a\n",
        "magic.jpg": b"\xff\xd8\xff",
        "magic.webp": b"RIFF\xff\xff\xff\xffWEBP",
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>",
        "tiff.jpg": saved(small, "TIFF"),
        "gif.png": saved(small, "GIF"),
        "bmp.webp": saved(small, "BMP"),
        "ppm.jpg": saved(small, "PPM"),
        "ico.png": saved(small, "ICO"),
        "jp2.jpg": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        "pdf.jpg": b"%PDF-1.7\n" + bytes(100),
        "html.png": b"<!doctype html><title>404</title>",
        "zip.png": b"PK\x03\x04" + bytes(100),
        "elf.jpg": b"\x7fELF" + bytes(100),
        "gzip.webp": zlib.compress(bytes(10**6)),
        "npy.png": b"\x93NUMPY\x01\0" + bytes(100),
        "small.tif": saved(small, "TIFF"),
        "eps.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "svg.svg": b"<svg/>",
    }


def _videos() -> dict[str, bytes]:
    """Returns playlists and other files with the names of videos."""
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n../secret.jpg\n#EXT-X-ENDLIST\n"
    return {
        "m3u8.mp4": playlist,
        "m3u8_2.avi": playlist,
        "concat.mp4": b"ffconcat version 1.0\nfile ../secret.jpg\n",
        "concat2.mkv": b"ffconcat version 1.0\nfile /dev/zero\n",
        "dash.mov": b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'/>",
        "pls.webm": b"[playlist]\nFile1=http://127.0.0.1:1/\n",
        "empty.mp4": b"",
        "box.mp4": b"\0\0\0\x1cftypisom" + bytes(1000),
        "endless.mp4": b"\0\0\0\x1cftypisom\0\0\x02\0isomiso2" + b"\xff" * 1000,
        "ebml.mkv": b"\x1aE\xdf\xa3" + b"\xff" * 1000,
        "riff.avi": b"RIFF\xff\xff\xff\xffAVI LIST" + b"\xff" * 1000,
        "image.mp4": png(64, 64, bytes(64 * 193)),
        "playlist.m3u8": playlist,
    }


def _write_cut_off(folder: Path, face: Image.Image) -> None:
    for suffix, image_format in {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}.items():
        content = saved(face, image_format)
        for tenths in range(1, 10):
            (folder / f"{image_format}{tenths}.{suffix}").write_bytes(
                content[: len(content) * tenths // 10]
            )
