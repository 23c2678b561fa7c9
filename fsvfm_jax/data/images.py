"""Decodes images and parsing maps to pixels, with NumPy, Pillow and simplejpeg.

Data workers import this module. The bytes may come from anywhere, so there is one way per format,
and every problem is a `ValueError` that states its reason. The decoders release the GIL.
"""

import io
import struct
import zlib
from typing import TypedDict

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from fsvfm_jax.data.image_parts import (
    check_bmp,
    jpeg_exif,
    jpeg_parts,
    plain_jpeg,
    plain_tiff,
    png_exif,
    png_parts,
    tiff_orientation,
)
from fsvfm_jax.errors import reason_of
from fsvfm_jax.host.plain_files import FileRefused, read_plain
from fsvfm_jax.regions import NUM_CLASSES

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
IMAGES = "PNG, JPEG, WebP, BMP or TIFF image"  # text for messages
# Pillow itself only warns between 89 and 179 megapixels. Pictures of telephones have up to 48.
MAX_PIXELS = 50_000_000
MAX_SIDE = 12_000
MAX_FILE_BYTES = 100_000_000
# libwebp holds several copies of the picture in memory.
MAX_WEBP_PIXELS = 20_000_000
# The limit is for pixels times scans, because every scan of a progressive JPEG goes over the whole
# picture. Ten scans are usual.
MAX_JPEG_WORK = 10 * MAX_PIXELS

_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_GREY = bytes((8, 0, 0, 0, 0))  # 8 bits, grey, and the only methods of PNG, not interlaced
_NPY_MAGIC = b"\x93NUMPY"
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # The last two begin a BigTIFF.
_ROWS_AT_ONCE = 256


class Face(TypedDict):
    """A square face and the class (0 to 10) of each of its pixels, as every source returns it."""

    image: UInt8[np.ndarray, "S S 3"]
    parsing_map: UInt8[np.ndarray, "S S"]


def read_file(file: str) -> bytes:
    """Returns the bytes of an image or map file.

    Raises:
        ValueError: The file cannot be read, is not a plain file, or is larger than any image.
    """
    try:
        return read_plain(file, max_bytes=MAX_FILE_BYTES)
    except FileRefused as error:
        raise ValueError(reason_of(error)) from error
    except OSError as error:
        raise ValueError(f"it cannot be read ({reason_of(error)})") from error


class UnknownClass(ValueError):
    """Raised for a parsing map with a number that is not a class."""


def decode_image(data: bytes, *, orient: bool = False) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the RGB pixels of a PNG, JPEG, WebP, BMP or TIFF file.

    Grey, palette and CMYK images become RGB as Pillow converts them; transparency is dropped.

    Args:
        data: Content of the file.
        orient: Whether to turn the image by its EXIF orientation. Otherwise the pixels are returned
            as stored.

    Raises:
        ValueError: The image is damaged, truncated, of another format, animated or of several
            pages, has 16 bits per channel or floating-point numbers, has more than MAX_PIXELS
            pixels or a side over MAX_SIDE, or needs more work than the file of any usual program
            (see `image_parts`).
    """
    try:
        pixels = _decode_jpeg(data) if data.startswith(_JPEG_MAGIC) else _decode_other(data)
        return _turn(pixels, exif_orientation(data)) if orient else pixels
    except UnidentifiedImageError as error:  # Its text contains an address in memory.
        raise ValueError("its header is damaged") from error
    except Exception as error:  # Damaged bytes make a decoder raise almost anything.
        raise ValueError(str(error) or type(error).__name__) from error


def decode_map(data: bytes, *, num_classes: int = NUM_CLASSES) -> UInt8[np.ndarray, "H W"]:
    """Returns the class of every pixel, from an 8-bit grey PNG or from NPY ([H, W] or [1, H, W]).

    Args:
        data: Content of the file.
        num_classes: Number of classes; the classes are 0 to num_classes - 1.

    Raises:
        UnknownClass: A number is not a class. This error is a ValueError, too.
        ValueError: The file is damaged or has another format.
    """
    try:
        stored = _grey_png(data) if data.startswith(_PNG_MAGIC) else _npy(data)
    except Exception as error:  # Damaged bytes make a reader raise almost anything.
        raise ValueError(str(error) or type(error).__name__) from error
    lowest, highest = stored.min(initial=0), stored.max(initial=0)
    if lowest < 0 or highest >= num_classes:
        raise UnknownClass(f"holds class {lowest if lowest < 0 else highest}")
    return stored.astype(np.uint8)


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    _check_size(width, height)
    jpeg_parts(data)
    # The two bytes of this marker never follow each other inside compressed data.
    scans = data.count(b"\xff\xda")
    if scans * width * height > MAX_JPEG_WORK:
        raise ValueError(f"{scans} scans of {width} x {height} pixels are over {MAX_JPEG_WORK}")
    if colours in ("CMYK", "YCCK"):  # simplejpeg does not convert these.
        with Image.open(io.BytesIO(plain_jpeg(data)), formats=("JPEG",)) as image:
            return _rgb(image)
    return simplejpeg.decode_jpeg(data)


def _decode_other(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    image_format, most = format_of(data), MAX_PIXELS
    if image_format == "PNG":
        _verify_png(data)
        if data[24] == 16:
            raise ValueError("16 bits per channel instead of 8")
    elif image_format == "WEBP":
        most = MAX_WEBP_PIXELS
    elif image_format == "BMP":
        check_bmp(data)
    elif image_format == "TIFF":
        data = plain_tiff(data)
    with Image.open(io.BytesIO(data), formats=(image_format,)) as image:
        _check_size(*image.size, most=most)
        if getattr(image, "is_animated", False):
            raise ValueError(f"it is animated, with {image.n_frames} pictures")
        return _rgb(image)


def format_of(data: bytes) -> str:
    """Returns the format by Pillow's name: JPEG, PNG, WEBP, TIFF or BMP.

    Args:
        data: Content of the file, or at least its first 12 bytes.

    Raises:
        ValueError: The content begins like none of these formats.
    """
    if data.startswith(_JPEG_MAGIC):
        return "JPEG"
    if data.startswith(_PNG_MAGIC):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(_TIFF_MAGICS):
        return "TIFF"
    if data.startswith(b"BM"):
        return "BMP"
    raise ValueError("cannot identify it as PNG, JPEG, WebP, BMP or TIFF")


def _check_size(width: int, height: int, *, most: int = MAX_PIXELS) -> None:
    if width * height > most:
        raise ValueError(f"{width} x {height} pixels are over {most}")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width} x {height} pixels: a side is over {MAX_SIDE}")


def _verify_png(data: bytes) -> None:
    """Raises unless every chunk is complete and matches its checksum, which Pillow ignores."""
    png_parts(data)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()
    if _PNG_END not in data:  # Pillow has checked only the name of the last chunk.
        raise ValueError("it is cut off")


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    # Strips save memory: for a whole picture Pillow would hold four copies at once.
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS_AT_ONCE):
        strip = pixels[top : top + _ROWS_AT_ONCE]
        strip[:] = image.crop((0, top, image.width, top + len(strip))).convert("RGB")
    return pixels


def exif_orientation(data: bytes) -> int:
    """Returns the EXIF orientation, 1 (upright) to 8, of a file that `decode_image` accepts.

    Raises:
        ValueError: The EXIF data are damaged.
    """
    # Pillow does not read EXIF here, because it would copy each of the entries.
    if data.startswith(_TIFF_MAGICS):
        exif = data
    elif data.startswith(_JPEG_MAGIC):
        exif = jpeg_exif(data)
    elif data.startswith(_PNG_MAGIC):
        exif = png_exif(data)
    elif data.startswith(b"BM"):
        exif = b""
    else:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    return tiff_orientation(exif) if exif else 1


def _turn(pixels: UInt8[np.ndarray, "H W 3"], orientation: int) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Undoes the camera's orientation, 1 to 8 as in EXIF; any other number changes nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _grey_png(data: bytes) -> UInt8[np.ndarray, "H W"]:
    plain = _plain_grey_png(data)
    if plain is not None:
        return plain
    _verify_png(data)
    # Pillow would scale fewer bits to 0 to 255, and palettes and colours are not classes.
    if tuple(data[24:26]) != (8, 0):
        raise ValueError("it is not 8-bit grey")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        _check_size(*image.size)
        return np.array(image)


def _plain_grey_png(data: bytes) -> UInt8[np.ndarray, "H W"] | None:
    """Returns the pixels of a whole PNG as `prepare pack` writes it: grey, one chunk, no filters.

    Takes a third of Pillow's time. Returns None for any other file, which Pillow then decodes or
    refuses.
    """
    parts = png_parts(data)
    if [part.kind for part in parts] != [b"IHDR", b"IDAT", b"IEND"]:
        return None
    for _, start, end in parts:
        if data[end : end + 4] != struct.pack(">I", zlib.crc32(data[start - 4 : end])):
            return None
    header, pixels, _ = (data[start:end] for _, start, end in parts)
    if len(header) != 13 or header[8:] != _GREY:
        return None
    width, height = struct.unpack(">II", header[:8])
    _check_size(width, height)
    stream, size = zlib.decompressobj(), height * (width + 1)
    rows = stream.decompress(pixels, size + 1)
    if len(rows) != size or not stream.eof:
        return None
    rows = np.frombuffer(rows, np.uint8).reshape(height, width + 1)
    return None if rows[:, 0].any() else rows[:, 1:]


def _npy(data: bytes) -> np.ndarray:
    if not data.startswith(_NPY_MAGIC):
        raise ValueError("cannot identify it as PNG or NPY")
    stored = np.load(io.BytesIO(data), allow_pickle=False)
    if stored.dtype.kind not in "iu":  # For NumPy a time span is an integer, too.
        raise ValueError("no array of whole numbers")
    if stored.ndim not in (2, 3) or stored.shape[:-2] not in ((), (1,)):
        raise ValueError(f"its shape is {list(stored.shape)}")
    return stored.reshape(stored.shape[-2:])


def resize_face(
    image: UInt8[np.ndarray, "H W 3"], parsing_map: UInt8[np.ndarray, "H W"], *, image_size: int
) -> Face:
    """Returns the pair at image_size x image_size: the image resampled bicubic, the map nearest.

    A pair of that size is returned unchanged. A pair that is not square is stretched, not cropped.

    Args:
        image: RGB pixels.
        parsing_map: Class of each pixel.
        image_size: S, in pixels.
    """
    size = (image_size, image_size)
    if parsing_map.shape != size:
        bicubic, nearest = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
        image = np.array(Image.fromarray(image).resize(size, bicubic))
        parsing_map = np.array(Image.fromarray(parsing_map).resize(size, nearest))
    return {"image": image, "parsing_map": parsing_map}
