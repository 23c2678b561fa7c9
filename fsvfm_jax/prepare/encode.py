"""Turns an image file and its parsing map into a record of a packed set, without state."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import Int64, UInt8
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from fsvfm_jax.data.images import decode_image, decode_map, exif_orientation, read_file, resize_face
from fsvfm_jax.data.moments import power_sums
from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.trees import Pair

ENCODINGS = ("jpeg", "original", "raw")
JPEG_QUALITY = 95


class Packed(NamedTuple):
    """A record, and the numbers that the manifest sums up."""

    record: bytes
    size: tuple[int, int]  # height, width
    power_sums: Int64[np.ndarray, "3 3"]
    classes: tuple[int, ...]  # the classes that occur


class LeftOut(NamedTuple):
    """An image or another file that is not packed."""

    name: str
    reason: str


def pack_pair(pair: Pair, *, encoding: str, image_size: int | None) -> Packed | LeftOut:
    """Returns the record of a face, or the reason why there is none.

    Args:
        pair: The files of the face.
        encoding: "jpeg" is JPEG of quality 95 without subsampling. "original" keeps the bytes of a
            JPEG or PNG that every reader decodes to the same pixels, and makes a PNG of any other
            file. "raw" stores pixels.
        image_size: Side in pixels to which the face is resized; None keeps its size. "raw" needs a
            size.

    Raises:
        DataError: The system cannot open a file, which does not mean that the image is damaged.
    """
    if pair.parsing_map is None:
        return LeftOut(pair.name, "it has no parsing map")
    original, stored_map = read_or_stop(pair.image), read_or_stop(pair.parsing_map)
    try:
        image = decode_image(original)
    except ValueError as error:
        return LeftOut(pair.name, f"its image cannot be decoded: {error}")
    try:
        parsing_map = decode_map(stored_map)
    except ValueError as error:
        return LeftOut(pair.name, f"its parsing map cannot be decoded: {error}")
    if image.shape[:2] != parsing_map.shape:
        sizes = "{} x {} pixels, but its parsing map {} x {}".format(
            *image.shape[:2], *parsing_map.shape
        )
        return LeftOut(pair.name, f"it has {sizes}")
    if image_size is not None and image.shape[:2] != (image_size, image_size):
        image, parsing_map = resize_face(image, parsing_map, image_size=image_size).values()
        original = b""
    if encoding == "raw":
        coded = image.tobytes(), parsing_map.tobytes()
    else:
        data = _keep(original) if encoding == "original" else encode_jpeg(image)
        coded = data or encode_png(image), encode_map(parsing_map)
        image = decode_image(coded[0])
    occur = np.flatnonzero(np.bincount(parsing_map.ravel())).tolist()
    record = make_record(*coded, name=pair.name)
    return Packed(record, image.shape[:2], power_sums(image), tuple(occur))


def pack_pairs(
    pairs: Sequence[Pair], *, encoding: str, image_size: int | None
) -> list[Packed | LeftOut]:
    """Returns the result of `pack_pair` for each pair in turn."""
    return [pack_pair(pair, encoding=encoding, image_size=image_size) for pair in pairs]


def make_record(image: bytes, parsing_map: bytes, *, name: str) -> bytes:
    """Returns a `tf.Example`, with the same bytes at every call.

    Args:
        image: The encoded image, or its pixels.
        parsing_map: The map as PNG, or its pixels.
        name: Name of the face.
    """
    example = tf_example_pb2.Example()
    # The name of a file need not be UTF-8; TFDS returns text as bytes.
    fields = {"image": image, "parsing_map": parsing_map, "name": name.encode(errors="replace")}
    for key, value in fields.items():
        example.features.feature[key].bytes_list.value.append(value)
    # By default the order of the fields differs between processes.
    return example.SerializeToString(deterministic=True)


def encode_jpeg(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Returns a JPEG of quality 95, with colours in full resolution."""
    image = np.ascontiguousarray(image)
    return simplejpeg.encode_jpeg(image, JPEG_QUALITY, "RGB", "444")


def encode_png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Returns a PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def encode_map(parsing_map: UInt8[np.ndarray, "H W"]) -> bytes:
    """Returns a PNG of 8-bit grey without filters.

    A map consists of areas of one number. Such rows compress better, and decode faster, without the
    differences that PNG encoders usually store.
    """
    height, width = parsing_map.shape
    rows = np.zeros((height, width + 1), np.uint8)  # A row begins with its filter; 0 is none.
    rows[:, 1:] = parsing_map
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        png += struct.pack(">I", len(data)) + kind + data
        png += struct.pack(">I", zlib.crc32(kind + data))
    return png


def read_or_stop(file: str) -> bytes:
    """Returns the bytes of an image or map.

    Raises:
        DataError: The system cannot read the file.
    """
    try:
        return read_file(file)
    except ValueError as error:
        raise DataError(
            f"{file}: {error}; mend that and give the command again: it goes on from here"
        ) from error


def _keep(original: bytes) -> bytes:
    """Returns the bytes themselves if every reader decodes them to the same pixels, or else b""."""
    if not original:
        return b""
    if original.startswith(b"\x89PNG"):
        is_plain = tuple(original[24:26]) == (8, 2)  # RGB of 8 bits
    elif original.startswith(b"\xff\xd8"):
        is_plain = simplejpeg.decode_jpeg_header(original)[2] in ("YCbCr", "RGB")
    else:
        return b""
    try:
        is_upright = exif_orientation(original) == 1
    except ValueError:  # Programs read damaged EXIF data differently.
        return b""
    return original if is_plain and is_upright else b""
