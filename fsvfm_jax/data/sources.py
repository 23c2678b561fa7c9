"""Random-access sources of faces with parsing maps.

A source has a length and returns, for an index, a `Face` of the wanted size. Every problem with a
file is a `DataError` that names the file. Data workers import this module, so it does not import
JAX.
"""

import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from fsvfm_jax.data.images import (
    IMAGES,
    Face,
    UnknownClass,
    decode_image,
    decode_map,
    read_file,
    resize_face,
)
from fsvfm_jax.data.listing import Tally, walk, warn_of_left_out
from fsvfm_jax.data.moments import Stats, pool_stats
from fsvfm_jax.data.parts import Parts
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.regions import NUM_CLASSES

KEPT_BYTES = 2**27  # memory for the rendered faces of a source, in each process


@runtime_checkable
class Source(Protocol):
    """A sequence of faces that any process may read at any index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Face: ...

    def read(self, indices: Sequence[int]) -> list[Face]:
        """Returns several faces in the order of the indices, in some sources much faster."""
        ...


class FaceSet(Source, Protocol):
    """A source that identifies and names its faces."""

    def fingerprint(self) -> str:
        """Returns the SHA-256, in hexadecimal, of the faces' names in their order."""
        ...

    def name(self, index: int) -> str:
        """Returns a name by which a person can find the face."""
        ...

    def stats(self) -> Stats | None:
        """Returns mean and deviation of all pixels, or None if that requires reading them."""
        ...


class SyntheticFaces:
    """Faces rendered on demand; the same index and seed give the same face everywhere.

    The first KEPT_BYTES of rendered faces stay in memory, as read-only arrays, because rendering a
    face takes about as long as training a tiny network on it. A copy in another process starts
    without them.

    Args:
        num_samples: Number of faces.
        image_size: Side of every face in pixels.
        seed: Seed of the faces.
    """

    def __init__(self, num_samples: int, *, image_size: int, seed: int):
        self._indices = range(num_samples)
        self._image_size = image_size
        self._seed = seed
        self._kept: dict[int, Face] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}

    def __len__(self) -> int:
        return len(self._indices)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of number, size and seed."""
        identity = f"synthetic {len(self)} {self._image_size} {self._seed}"
        return hashlib.sha256(identity.encode()).hexdigest()

    def name(self, index: int) -> str:
        """Returns the number of the face."""
        return f"synthetic face {index}"

    def stats(self) -> None:
        """Returns None: the statistics are not known."""

    def read(self, indices: Sequence[int]) -> list[Face]:
        """Returns the faces, rendered one after another."""
        return [self[index] for index in indices]

    def __getitem__(self, index: int) -> Face:
        number = self._indices[index]
        if face := self._kept.get(number):
            return {**face}
        image, parsing_map = render_face(number, image_size=self._image_size, seed=self._seed)
        for array in (image, parsing_map):
            array.flags.writeable = False
        if (len(self._kept) + 1) * (image.nbytes + parsing_map.nbytes) <= KEPT_BYTES:
            self._kept[number] = {"image": image, "parsing_map": parsing_map}
        return {"image": image, "parsing_map": parsing_map}


class FaceFolder:
    """Face crops on disk: `<root>/images/**.png` with `<root>/parsing_maps/**.npy`.

    An image (PNG, JPEG, WebP, BMP or TIFF) and its map have the same relative path except for the
    suffix, and the same height and width. Files are sorted by relative path. Symbolic links are
    followed. Pixels are used as stored, without applying an EXIF orientation, because the map was
    made from the stored pixels.

    Args:
        root: The folder.
        image_size: Side of every returned face in pixels.

    Raises:
        DataError: At construction, if the root does not exist, contains no image, cannot be listed,
            or lacks a map; at reading, if a file is damaged, or image and map do not fit together.
    """

    def __init__(self, root: str, *, image_size: int):
        # Every worker gets millions of names, and an array of bytes is far smaller than a list.
        self._names = _list_root(root)
        self._root = Path(root)
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._names)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the images' relative paths, which does not depend on the root."""
        return hashlib.sha256(b"\n".join(self._names)).hexdigest()

    def name(self, index: int) -> str:
        """Returns the path of the image."""
        return str(self._image_file(index))

    def stats(self) -> None:
        """Returns None: the statistics are not known."""

    def read(self, indices: Sequence[int]) -> list[Face]:
        """Returns the faces, read one after another."""
        return [self[index] for index in indices]

    def __getitem__(self, index: int) -> Face:
        return resize_face(*self.decoded(index), image_size=self._image_size)

    def decoded(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
        """Returns the image and the parsing map of one face in their stored size."""
        map_file = self._root / "parsing_maps" / _map_name(os.fsdecode(self._names[index]))
        return read_pair(self._image_file(index), map_file)

    def _image_file(self, index: int) -> Path:
        return self._root / "images" / os.fsdecode(self._names[index])


class JoinedSets:
    """Several sets as one: the faces of the first set, then those of the next, and so on.

    Attributes:
        sets: The joined sets.
        sizes: Number of faces of each set.
    """

    def __init__(self, sets: Sequence[FaceSet]):
        self.sets = sets
        self._parts = Parts([len(one) for one in sets])
        self.sizes = self._parts.sizes

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Face:
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[Face]:
        """Returns the faces in the order of the indices, with one call per set."""
        return self._parts.read(indices, lambda number, places: self.sets[number].read(places))

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the sets' fingerprints in their order."""
        prints = "\n".join(one.fingerprint() for one in self.sets)
        return hashlib.sha256(prints.encode()).hexdigest()

    def name(self, index: int) -> str:
        """Returns the name that the face has in its set."""
        number, within = self._parts.locate(index)
        return self.sets[number].name(within)

    def stats(self) -> Stats | None:
        """Returns the statistics of all faces together, or None unless every set knows its own."""
        known = [one.stats() for one in self.sets]
        return None if None in known else pool_stats(known, self.sizes)


def make_source(
    name: str,
    *,
    image_size: int,
    paths: Sequence[str] = (),
    split: str = "train",
    num_samples: int,
    seed: int,
) -> FaceSet:
    """Returns the source that `config.data.source` names.

    Args:
        name: "synthetic", "folder" or "tfds".
        image_size: Side of every image and map in pixels.
        paths: Folders for "folder"; packed sets, or folders among them, for "tfds".
        split: Split of the packed sets.
        num_samples: Number of faces for "synthetic".
        seed: Seed for "synthetic".

    Raises:
        ConfigError: The name is unknown, or the source has no samples or no paths.
        DataError: A folder or a packed set is damaged or incomplete.
    """
    if name == "synthetic":
        if num_samples < 1:
            raise ConfigError(f"config.data.num_samples is {num_samples}; it must be at least 1")
        return SyntheticFaces(num_samples, image_size=image_size, seed=seed)
    if name not in ("folder", "tfds"):
        raise ConfigError(
            f"config.data.source is {name!r}; the choices are 'synthetic', 'folder' and 'tfds'"
        )
    if not paths:
        raise ConfigError(
            "config.data.paths is empty: name the folders that hold images/ and parsing_maps/,"
            """ such as --config.data.paths="('DIR',)", or with --config.data.source=tfds packed"""
            " sets, or add :smoke after the config file to run on synthetic faces"
        )
    if name == "folder":
        return JoinedSets([FaceFolder(path, image_size=image_size) for path in paths])
    # The import is here because it imports TensorFlow Datasets, which only packed sets need.
    from fsvfm_jax.data.records import FaceRecords

    def open_set(path: str) -> FaceSet:
        if os.path.isdir(os.path.join(path, "images")):
            return FaceFolder(path, image_size=image_size)
        return FaceRecords(path, image_size=image_size, split=split)

    return JoinedSets([open_set(path) for path in paths])


def read_pair(
    image_file: Path, map_file: Path
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """Returns an image and its parsing map in their stored size.

    Raises:
        DataError: A file is damaged, or image and map have different sizes.
    """
    image, parsing_map = read_image(image_file), _read_map(map_file)
    if image.shape[:2] != parsing_map.shape:
        raise DataError(
            f"{image_file} has {image.shape[0]} x {image.shape[1]} pixels but its parsing map"
            f" {map_file} has {parsing_map.shape[0]} x {parsing_map.shape[1]}; make the map"
            " anew from this image, or bring all maps to their images' sizes by `python -m"
            " fsvfm_jax.prepare parse DIR --parser import --maps MAPS`"
        )
    return image, parsing_map


def read_image(file: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the pixels of an image; raises DataError if the file is damaged."""
    try:
        return decode_image(read_file(str(file)))
    except ValueError as error:
        raise DataError(
            f"image {file} cannot be read ({error}); replace it, or remove it with its parsing map"
        ) from error


def _list_root(root: str) -> np.ndarray:
    """Returns the images' sorted paths relative to `<root>/images`, as an array of bytes."""
    layout = "a data folder holds images/**.png (or jpg, jpeg, webp, bmp, tif) and"
    layout += " parsing_maps/**.npy"
    if not os.path.isdir(root):
        raise DataError(f"the data folder {root} does not exist; {layout}")
    image_root, map_root = os.path.join(root, "images"), os.path.join(root, "parsing_maps")
    left_out = Tally()
    names = sorted(walk(image_root, leave_out=left_out.add))
    if not names:
        warn_of_left_out(image_root, left_out)
        raise DataError(f"no {IMAGES} was found under {image_root}; {layout}")
    maps = set(walk(map_root, (".npy",), leave_out=left_out.add))
    warn_of_left_out(root, left_out)
    for first, second in itertools.pairwise(names):
        if _map_name(first) == _map_name(second):
            raise DataError(
                f"{first} and {second} under {image_root} share one parsing map; remove or rename"
                " one of them"
            )
    missing = [name for name in names if _map_name(name) not in maps]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} images under {image_root} have no parsing map, first"
            f" {missing[0]}, which needs {os.path.join(map_root, _map_name(missing[0]))}; make the"
            " missing maps or remove these images"
        )
    return np.array([os.fsencode(name) for name in names])


def _map_name(name: str) -> str:
    return os.path.splitext(name)[0] + ".npy"


def _read_map(file: Path) -> UInt8[np.ndarray, "H W"]:
    try:
        return decode_map(read_file(str(file)))
    except UnknownClass as error:
        raise DataError(
            f"parsing map {file} {error}; translate its labels to LaPa's classes 0 to"
            f" {NUM_CLASSES - 1}"
        ) from error
    except ValueError as error:
        raise DataError(
            f"parsing map {file} cannot be read ({error}); make it anew as int8 [1, H, W]"
        ) from error
