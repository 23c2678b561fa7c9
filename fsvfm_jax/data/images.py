"""Bytes of an image or of a parsing map to pixels. NumPy, Pillow, simplejpeg: workers import it.

Bytes come from anywhere: there is one way per format, and whatever is wrong with them is a
`ValueError` that says why. The decoders release the GIL.
"""

import io
from typing import TypedDict

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

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
IMAGES = "PNG, JPEG, WebP, BMP or TIFF image"  # for messages
# Pillow itself only warns between 89 and 179 megapixels. What telephones make, 48, passes.
MAX_PIXELS = 50_000_000
MAX_SIDE = 12_000
MAX_FILE_BYTES = 100_000_000
# libwebp holds the picture several times over.
MAX_WEBP_PIXELS = 20_000_000
# Pixels times scans: every scan of a progressive JPEG goes over the whole picture. Usual are ten.
MAX_JPEG_WORK = 10 * MAX_PIXELS

_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_NPY_MAGIC = b"\x93NUMPY"
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two of BigTIFF
_ROWS_AT_ONCE = 256


class Face(TypedDict):
    """A square face and the class (0 to 10) of each of its pixels, as every source returns it."""

    image: UInt8[np.ndarray, "S S 3"]
    parsing_map: UInt8[np.ndarray, "S S"]


def read_file(file: str) -> bytes:
    """Returns the bytes of an image or map.

    Raises:
        ValueError: It cannot be read, is no plain file, or is larger than any image.
    """
    try:
        return read_plain(file, max_bytes=MAX_FILE_BYTES)
    except FileRefused as error:
        raise ValueError(reason_of(error)) from error
    except OSError as error:
        raise ValueError(f"it cannot be read ({reason_of(error)})") from error


class UnknownClass(ValueError):
    """A parsing map holds a number that is no class."""


def decode_image(data: bytes, *, orient: bool = False) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the RGB pixels of a PNG, JPEG, WebP, BMP or TIFF file.

    Grey, palette and CMYK become RGB as Pillow converts them; transparency is dropped.

    Args:
        data: The file's bytes.
        orient: Turn the image as its EXIF orientation asks; else its pixels are as stored.

    Raises:
        ValueError: It is damaged, truncated, of another format, animated or of several pages, has
            16 bits per channel or floating-point numbers, more pixels than MAX_PIXELS, longer sides
            than MAX_SIDE, or asks for more work than any program does (`image_parts`).
    """
    try:
        pixels = _decode_jpeg(data) if data.startswith(_JPEG_MAGIC) else _decode_other(data)
        return _turn(pixels, exif_orientation(data)) if orient else pixels
    except Exception as error:  # Damaged bytes make a decoder raise almost anything.
        raise ValueError(str(error) or type(error).__name__) from error


def decode_map(data: bytes, *, num_classes: int = NUM_CLASSES) -> UInt8[np.ndarray, "H W"]:
    """Returns the class of every pixel, from an 8-bit grey PNG or from NPY ([H, W] or [1, H, W]).

    Raises:
        UnknownClass: A number is below 0 or not below num_classes.
        ValueError: It is damaged, or neither; UnknownClass is one too.
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
    # Among compressed data the second byte of a marker never follows the first.
    scans = data.count(b"\xff\xda")
    if scans * width * height > MAX_JPEG_WORK:
        raise ValueError(f"{scans} scans of {width} x {height} pixels are over {MAX_JPEG_WORK}")
    if colours in ("CMYK", "YCCK"):  # simplejpeg does not convert them
        with Image.open(io.BytesIO(plain_jpeg(data)), formats=("JPEG",)) as image:
            return _rgb(image)
    return simplejpeg.decode_jpeg(data)


def _decode_other(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    image_format, most = _format_of(data), MAX_PIXELS
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


def _format_of(data: bytes) -> str:
    """As Pillow calls it."""
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
    """Raises unless every chunk is there and has its checksum: Pillow reads pixels without."""
    png_parts(data)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()
    if _PNG_END not in data:  # Pillow has seen only its name.
        raise ValueError("it is cut off")


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    # In strips: of a large picture Pillow would hold four copies at once.
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS_AT_ONCE):
        strip = pixels[top : top + _ROWS_AT_ONCE]
        strip[:] = image.crop((0, top, image.width, top + len(strip))).convert("RGB")
    return pixels


def exif_orientation(data: bytes) -> int:
    """Returns how the camera was held, 1 to 8, by a file that `decode_image` takes; 1 is upright.

    Raises:
        ValueError: What the file says of it is damaged.
    """
    # Not by Pillow, which would copy each of its entries.
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
    """Undoes how the camera was held: EXIF's 1 to 8; any other number asks for nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _grey_png(data: bytes) -> UInt8[np.ndarray, "H W"]:
    _verify_png(data)
    # Pillow would scale fewer bits to 0 to 255, and palettes and colours are no classes.
    if tuple(data[24:26]) != (8, 0):
        raise ValueError("it is not 8-bit grey")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        _check_size(*image.size)
        return np.array(image)


def _npy(data: bytes) -> np.ndarray:
    if not data.startswith(_NPY_MAGIC):
        raise ValueError("cannot identify it as PNG or NPY")
    stored = np.load(io.BytesIO(data), allow_pickle=False)
    if stored.dtype.kind not in "iu":  # NumPy takes a time span for an integer.
        raise ValueError("no array of whole numbers")
    if stored.ndim not in (2, 3) or stored.shape[:-2] not in ((), (1,)):
        raise ValueError(f"its shape is {list(stored.shape)}")
    return stored.reshape(stored.shape[-2:])


def resize_face(
    image: UInt8[np.ndarray, "H W 3"], parsing_map: UInt8[np.ndarray, "H W"], *, image_size: int
) -> Face:
    """Returns the pair at image_size x image_size, the image bicubic and the map nearest.

    A pair of that size is returned as it is. A pair that is not square is stretched, not cropped.
    """
    size = (image_size, image_size)
    if parsing_map.shape != size:
        bicubic, nearest = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
        image = np.array(Image.fromarray(image).resize(size, bicubic))
        parsing_map = np.array(Image.fromarray(parsing_map).resize(size, nearest))
    return {"image": image, "parsing_map": parsing_map}
