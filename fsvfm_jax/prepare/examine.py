"""Decodes every face of a packed set or a tree, and collects problems, classes and statistics."""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from fsvfm_jax.data.images import decode_image, decode_map, read_file
from fsvfm_jax.data.moments import power_sums
from fsvfm_jax.errors import DataError
from fsvfm_jax.host.progress import progress
from fsvfm_jax.prepare.trees import Pair
from fsvfm_jax.prepare.workers import in_order
from fsvfm_jax.regions import NUM_CLASSES

FACES_AT_ONCE = 32  # faces sent to a process at once

# An image and its map in their stored size, which may differ between faces.
Decoded = tuple[UInt8[np.ndarray, "_ _ 3"], UInt8[np.ndarray, "_ _"]]


@runtime_checkable
class Faces(Protocol):
    """A split, or a tree."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Returns a name by which a person can find the face."""
        ...

    def decoded(self, index: int) -> Decoded:
        """Returns image and map in their stored size; a DataError states the problem."""
        ...


class TreeFaces:
    """The images of a tree that have a map.

    Args:
        pairs: Images with their maps.
    """

    def __init__(self, pairs: Sequence[Pair]):
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def name(self, index: int) -> str:
        """Returns the path of the image."""
        return self._pairs[index].image

    def decoded(self, index: int) -> Decoded:
        """Reads and decodes both files.

        Raises:
            DataError: A file cannot be read, or their sizes differ.
        """
        pair = self._pairs[index]
        image, parsing_map = (
            _decode(decode, file)
            for decode, file in ((decode_image, pair.image), (decode_map, pair.parsing_map))
        )
        if image.shape[:2] != parsing_map.shape:
            sizes = "{} x {} pixels, and a parsing map of {} x {}".format(
                *image.shape[:2], *parsing_map.shape
            )
            raise DataError(f"{pair.image}: {sizes}")
        return image, parsing_map


class Seen(NamedTuple):
    """The result for one face."""

    digest: int  # 64 bits of a hash of the decoded pixels
    power_sums: Int64[np.ndarray, "3 3"]
    classes: tuple[int, ...]  # the classes that occur
    size: tuple[int, int]  # height, width


@dataclass(frozen=True)
class Examined:
    """The results for all faces of a split or tree.

    Attributes:
        problems: Problems of the faces that cannot be decoded.
        indices: Indices of the faces that can be decoded.
        digests: 64 bits of a hash of the decoded pixels of each of these faces.
        power_sums: Sums of all their pixels for the powers 0, 1 and 2 (rows), as Python's integers.
        images_per_class: Number of images that show each class.
        sizes: Number of images of each height and width.
    """

    problems: list[str]
    indices: Int64[np.ndarray, " N"]
    digests: UInt64[np.ndarray, " N"]
    power_sums: list[list[int]]
    images_per_class: list[int]
    sizes: Counter


def examine(faces: Faces, *, workers: int, description: str) -> Examined:
    """Decodes every face and returns the results; progress goes to stderr.

    Args:
        faces: The split or tree.
        workers: Number of processes.
        description: Name of the work in the progress display.
    """
    count = len(faces)
    chunks = [range(count)[i : i + FACES_AT_ONCE] for i in range(0, count, FACES_AT_ONCE)]
    work = functools.partial(_see, faces)
    seen = chain.from_iterable(
        in_order(work, chunks, workers=max(min(workers, len(chunks) // 4), 1))
    )
    problems, indices, digests, sizes = [], [], [], Counter()
    sums, images_per_class = np.zeros((3, 3), object), np.zeros(NUM_CLASSES, np.int64)
    for index, face in enumerate(progress(seen, total=count, description=description)):
        if isinstance(face, str):
            problems.append(face)
            continue
        indices.append(index)
        digests.append(face.digest)
        sums += face.power_sums
        images_per_class[list(face.classes)] += 1
        sizes[face.size] += 1
    return Examined(
        problems,
        np.array(indices, np.int64),
        np.array(digests, np.uint64),
        sums.tolist(),
        images_per_class.tolist(),
        sizes,
    )


def _see(faces: Faces, indices: Sequence[int]) -> list[Seen | str]:
    return [_see_one(faces, index) for index in indices]


def _see_one(faces: Faces, index: int) -> Seen | str:
    try:
        image, parsing_map = faces.decoded(index)
    except DataError as error:
        return str(error)
    digest = hashlib.blake2b(image, digest_size=8, key=repr(image.shape).encode())
    occur = np.flatnonzero(np.bincount(parsing_map.ravel(), minlength=NUM_CLASSES))
    return Seen(
        int.from_bytes(digest.digest(), "big"),
        power_sums(image),
        tuple(occur.tolist()),
        parsing_map.shape,
    )


def _decode(decode: Callable[[bytes], np.ndarray], file: str) -> np.ndarray:
    try:
        return decode(read_file(file))
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error
