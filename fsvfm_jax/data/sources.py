"""Random-access sources of faces with parsing maps. NumPy and Pillow: data workers import it.

A source has a length and returns, for an index, a `Face` of the wanted size. Whatever is wrong with
a file is a `DataError` that names it.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.data.synthetic import render_face
from fsvfm_jax.data.transforms import Face, resize_face
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.regions import NUM_CLASSES

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Pillow itself only warns between 89 and 179 megapixels.
MAX_PIXELS = 64_000_000


@runtime_checkable
class Source(Protocol):
    """A sequence of faces that any process may read at any index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Face: ...


class FaceSet(Source, Protocol):
    """A source that says which faces it has."""

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of which faces there are, by name, and in which order."""
        ...

    def name(self, index: int) -> str:
        """What a person would look the face up by."""
        ...


class SyntheticFaces:
    """Faces rendered on demand; the same index and seed give the same face everywhere."""

    def __init__(self, num_samples: int, *, image_size: int, seed: int):
        self._indices = range(num_samples)
        self._image_size = image_size
        self._seed = seed

    def __len__(self) -> int:
        return len(self._indices)

    def fingerprint(self) -> str:
        """SHA-256 of number, size and seed."""
        told = f"synthetic {len(self)} {self._image_size} {self._seed}"
        return hashlib.sha256(told.encode()).hexdigest()

    def name(self, index: int) -> str:
        """Its number."""
        return f"synthetic face {index}"

    def __getitem__(self, index: int) -> Face:
        image, parsing_map = render_face(
            self._indices[index], image_size=self._image_size, seed=self._seed
        )
        return {"image": image, "parsing_map": parsing_map}


class FaceFolders:
    """Face crops on disk: `<root>/images/**.png` with `<root>/parsing_maps/**.npy`.

    An image (PNG, JPEG or WebP) and its map have the same relative path up to the suffix, and the
    same height and width. Roots follow each other as given; within a root, files are sorted by
    relative path. Symbolic links are followed. Pixels are taken as stored: the orientation an EXIF
    tag may ask for is ignored, because the map was made from the stored pixels.

    Raises:
        DataError: At construction, if a root does not exist, holds no image, cannot be listed, or
            lacks a map; at reading, if a file is damaged, or the two do not fit together.
    """

    def __init__(self, paths: Sequence[str], *, image_size: int):
        names = [_list_root(root) for root in paths]
        self._roots = [Path(root) for root in paths]
        # Millions of names go to every worker: arrays of bytes are far smaller than lists of str.
        self._names = np.concatenate(names)
        self._root_of = np.repeat(np.arange(len(names)), [len(of_root) for of_root in names])
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._names)

    def fingerprint(self) -> str:
        """SHA-256 of the images' relative paths, root by root; where the roots lie is left out."""
        digest = hashlib.sha256(np.bincount(self._root_of).tobytes())
        digest.update(b"\n".join(self._names))
        return digest.hexdigest()

    def name(self, index: int) -> str:
        """Its file."""
        return str(self._image_file(index))

    def __getitem__(self, index: int) -> Face:
        image_file = self._image_file(index)
        root, name = self._roots[self._root_of[index]], os.fsdecode(self._names[index])
        map_file = root / "parsing_maps" / _map_name(name)
        image, parsing_map = _read_image(image_file), _read_map(map_file)
        if image.shape[:2] != parsing_map.shape:
            raise DataError(
                f"{image_file} has {image.shape[0]} x {image.shape[1]} pixels but its parsing map"
                f" {map_file} has {parsing_map.shape[0]} x {parsing_map.shape[1]}; make the map"
                " anew from this image"
            )
        return resize_face(image, parsing_map, image_size=self._image_size)

    def _image_file(self, index: int) -> Path:
        return self._roots[self._root_of[index]] / "images" / os.fsdecode(self._names[index])


def make_source(
    name: str, *, image_size: int, paths: Sequence[str] = (), num_samples: int, seed: int
) -> FaceSet:
    """Returns the source that `config.data.source` names.

    Args:
        name: "synthetic" or "folder".
        image_size: Side of every image and map, in pixels.
        paths: Folders for "folder".
        num_samples: Number of faces for "synthetic".
        seed: Seed for "synthetic".

    Raises:
        ConfigError: The name is unknown, or the source named has no samples.
        DataError: A folder is not as it should be.
    """
    if name == "synthetic":
        if num_samples < 1:
            raise ConfigError(f"config.data.num_samples is {num_samples}; it must be at least 1")
        return SyntheticFaces(num_samples, image_size=image_size, seed=seed)
    if name == "folder":
        if not paths:
            raise ConfigError(
                "config.data.paths is empty: name the folders that hold images/ and parsing_maps/,"
                """ such as --config.data.paths="('DIR',)", or add :smoke after the config"""
                " file to run on synthetic faces"
            )
        return FaceFolders(paths, image_size=image_size)
    raise ConfigError(f"config.data.source is {name!r}; the choices are 'synthetic' and 'folder'")


def _list_root(root: str) -> np.ndarray:
    """Returns the images' sorted paths relative to `<root>/images`, as an array of bytes."""
    layout = "a data folder holds images/**.png (or jpg, jpeg, webp) and parsing_maps/**.npy"
    if not os.path.isdir(root):
        raise DataError(f"the data folder {root} does not exist; {layout}")
    image_root, map_root = os.path.join(root, "images"), os.path.join(root, "parsing_maps")
    names = sorted(name for name in _walk(image_root) if _suffix(name) in IMAGE_SUFFIXES)
    if not names:
        raise DataError(f"no PNG, JPEG or WebP image was found under {image_root}; {layout}")
    maps = set(_walk(map_root))
    missing = [name for name in names if _map_name(name) not in maps]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} images under {image_root} have no parsing map, first"
            f" {missing[0]}, which needs {os.path.join(map_root, _map_name(missing[0]))}; make the"
            " missing maps or remove these images"
        )
    return np.array([os.fsencode(name) for name in names])


def _walk(folder: str) -> Iterator[str]:
    """Yields the path, relative to folder, of every file below it; nothing if it is not there."""
    if not os.path.isdir(folder):
        return
    for parent, _, files in os.walk(folder, onerror=_refuse, followlinks=True):
        prefix = os.path.relpath(parent, folder)
        for file in files:
            yield file if prefix == os.curdir else os.path.join(prefix, file)


def _refuse(error: OSError) -> None:
    raise DataError(
        f"the data folder {error.filename} cannot be listed ({error.strerror}); make it readable"
    ) from error


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _map_name(name: str) -> str:
    return os.path.splitext(name)[0] + ".npy"


def _read_image(file: Path) -> UInt8[np.ndarray, "H W 3"]:
    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are over {MAX_PIXELS}")
            if image.mode.startswith("I"):
                raise ValueError("16 bits per channel instead of 8")
            return np.array(image.convert("RGB"))
    except Exception as error:  # Damaged bytes make a decoder raise almost anything.
        raise DataError(
            f"image {file} cannot be read ({error}); replace it, or remove it with its parsing map"
        ) from error


def _read_map(file: Path) -> UInt8[np.ndarray, "H W"]:
    try:
        stored = np.load(file, allow_pickle=False)
        if not (isinstance(stored, np.ndarray) and np.issubdtype(stored.dtype, np.integer)):
            raise ValueError("no array of whole numbers")
        if stored.ndim not in (2, 3) or stored.shape[:-2] not in ((), (1,)):
            raise ValueError(f"its shape is {list(stored.shape)}")
    except Exception as error:  # Damaged bytes make a reader raise almost anything.
        raise DataError(
            f"parsing map {file} cannot be read ({error}); make it anew as int8 [1, H, W]"
        ) from error
    lowest, highest = stored.min(initial=0), stored.max(initial=0)
    if lowest < 0 or highest >= NUM_CLASSES:
        raise DataError(
            f"parsing map {file} holds class {lowest if lowest < 0 else highest}; translate its"
            f" labels to LaPa's classes 0 to {NUM_CLASSES - 1}"
        )
    return np.array(stored.reshape(stored.shape[-2:]), np.uint8)
