"""Bytes of an image or of a parsing map to pixels. NumPy, Pillow, simplejpeg: workers import it.

Bytes come from anywhere: there is one way per format, and whatever is wrong with them is a
`ValueError` that says why. The decoders release the GIL.
"""

import io
import os
import stat

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.regions import NUM_CLASSES

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
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
_EXIF_ORIENTATION = 0x0112
_ROWS_AT_ONCE = 256


def read_file(file: str) -> bytes:
    """Returns the bytes of an image or map.

    Raises:
        ValueError: It cannot be read, is no regular file, or is larger than any image.
    """
    try:
        # Without waiting: opening a pipe would last until somebody writes to it.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ValueError(f"it has over {MAX_FILE_BYTES} bytes")
            return opened.read()
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from error


class UnknownClass(ValueError):
    """A parsing map holds a number that is no class."""


def decode_image(data: bytes, *, orient: bool = False) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the RGB pixels of a PNG, JPEG or WebP file.

    Grey, palette and CMYK become RGB as Pillow converts them; transparency is dropped.

    Args:
        data: The file's bytes.
        orient: Turn the image as its EXIF orientation asks; else its pixels are as stored.

    Raises:
        ValueError: It is damaged, truncated, of another format, animated, has 16 bits per channel,
            or more pixels than MAX_PIXELS or longer sides than MAX_SIDE.
    """
    try:
        pixels = _decode_jpeg(data) if data.startswith(_JPEG_MAGIC) else _decode_other(data)
        if not orient:
            return pixels
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            return _turn(pixels, exif_orientation(image))
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
    # Among compressed data the second byte of a marker never follows the first.
    scans = data.count(b"\xff\xda")
    if scans * width * height > MAX_JPEG_WORK:
        raise ValueError(f"{scans} scans of {width} x {height} pixels are over {MAX_JPEG_WORK}")
    if colours in ("CMYK", "YCCK"):  # simplejpeg does not convert them
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return _rgb(image)
    return simplejpeg.decode_jpeg(data)


def _decode_other(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    is_png = data.startswith(_PNG_MAGIC)
    if not is_png and not (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        raise ValueError("cannot identify it as PNG, JPEG or WebP")
    if is_png:
        _verify_png(data)
        if data[24] == 16:
            raise ValueError("16 bits per channel instead of 8")
    with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
        _check_size(*image.size, most=MAX_PIXELS if is_png else MAX_WEBP_PIXELS)
        if image.is_animated:
            raise ValueError(f"it is animated, with {image.n_frames} pictures")
        return _rgb(image)


def _check_size(width: int, height: int, *, most: int = MAX_PIXELS) -> None:
    if width * height > most:
        raise ValueError(f"{width} x {height} pixels are over {most}")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width} x {height} pixels: a side is over {MAX_SIDE}")


def _verify_png(data: bytes) -> None:
    """Raises unless every chunk is there and has its checksum: Pillow reads pixels without."""
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


def exif_orientation(image: Image.Image) -> int:
    """How the camera was held, 1 to 8; 1 is upright."""
    return image.getexif().get(_EXIF_ORIENTATION, 1)


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
    if not np.issubdtype(stored.dtype, np.integer):
        raise ValueError("no array of whole numbers")
    if stored.ndim not in (2, 3) or stored.shape[:-2] not in ((), (1,)):
        raise ValueError(f"its shape is {list(stored.shape)}")
    return stored.reshape(stored.shape[-2:])
