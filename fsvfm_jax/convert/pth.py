"""The reference's files, `.pth` and `.pth.tar`: read without trusting them, written as it reads.

Such a file is a zip archive of raw arrays and one pickle, a small program that says how they hang
together. Reading takes no PyTorch and runs nothing: `pickle_reader.py` knows the few things that a
checkpoint's pickle does.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fsvfm_jax.convert.pickle_reader import read_pickle
from fsvfm_jax.errors import ConfigError, DataError, StorageError

# ViT-H with its optimizer: 0.25 MB of pickle and 2,200 arrays.
MAX_PICKLE_BYTES = 500_000
MAX_ENTRIES = 100_000
MAX_DIRECTORY_BYTES = 2**24
STATE_DICT_KEYS = ("model", "state_dict")


class Pth(NamedTuple):
    """A file's content.

    Attributes:
        state_dict: The network's arrays by the reference's names.
        extra: Everything else, such as `optimizer`, `epoch`, `args` (a dict) or `threshold`.
        sha256: Of the file.
    """

    state_dict: dict[str, np.ndarray]
    extra: dict[str, Any]
    sha256: str


def read(path: str | os.PathLike[str]) -> Pth:
    """Reads a checkpoint as arrays and plain values; nothing in it is executed.

    Raises:
        DataError: The file is missing, of another format, damaged, or names or does anything that a
            checkpoint need not.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            content = _read_archive(path, file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error

    if not isinstance(content, dict):
        raise DataError(f"{path} holds no network but a {type(content).__name__}")
    key = next((key for key in STATE_DICT_KEYS if isinstance(content.get(key), dict)), None)
    state_dict = content if key is None else content[key]
    for name, array in state_dict.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise DataError(
                f"{path} holds no network: {name!r} of it is a {type(array).__name__}, not an"
                f" array. Its keys are {', '.join(map(repr, list(content)[:5]))}"
            )
    extra = {} if key is None else {k: value for k, value in content.items() if k != key}
    return Pth(state_dict, extra, digest)


def write(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, np.ndarray],
    *,
    key: str = "model",
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a file that the reference loads, strict.

    Args:
        path: The file, replaced if it is there.
        state_dict: Arrays by the reference's names.
        key: What the reference calls it: "model", or "state_dict" for anti-spoofing.
        extra: More entries; arrays in it become tensors.

    Raises:
        ConfigError: PyTorch is missing.
        StorageError: The file cannot be written.
    """
    torch = _import_torch()

    def to_torch(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: to_torch(item) for name, item in value.items()}
        if isinstance(value, np.ndarray | np.generic):
            return torch.from_numpy(np.array(value))
        return value

    path = Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        torch.save({key: to_torch(dict(state_dict))} | to_torch(dict(extra or {})), unfinished)
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch's own for a missing folder
        raise StorageError(f"{path} cannot be written ({error})") from error


def _read_archive(path: Path, file: BinaryIO) -> Any:
    """What the pickle of an undamaged zip archive describes."""
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        raise DataError(
            f"{path} is no zip archive, the one form of checkpoint that is read here: save it again"
            " with torch.save of PyTorch 1.6 or later, where you trust it"
        )
    try:
        with _SmallReads(io.FileIO(path)) as careful:
            zipfile.ZipFile(careful).close()
        with zipfile.ZipFile(file) as archive:
            pickle = _check_entries(path, archive)
            folder = pickle.removesuffix("data.pkl")
            return read_pickle(
                archive.read(pickle),
                read_storage=lambda key: archive.read(f"{folder}data/{key}"),
                max_array_bytes=2 * path.stat().st_size,
            )
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise DataError(f"{path} is damaged, perhaps cut off: {error}") from error


def _check_entries(path: Path, archive: zipfile.ZipFile) -> str:
    """Returns the pickle's name; raises DataError unless all is as PyTorch writes it, and whole."""
    entries = archive.infolist()
    names = {entry.filename for entry in entries}
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    total = sum(entry.file_size for entry in entries)
    if len(pickles) != 1 or len(names) != len(entries) or len(entries) > MAX_ENTRIES:
        raise DataError(f"{path} is a zip archive but no checkpoint of PyTorch")
    # PyTorch does not compress: what unpacks to more than the file is made to fill memory.
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or total > path.stat().st_size:
        raise DataError(f"{path} is compressed or overlapping, as no checkpoint is")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise DataError(
            f"{path} has a pickle of {pickles[0].file_size} bytes, where a checkpoint's has"
            f" {MAX_PICKLE_BYTES} at most"
        )
    damaged = archive.testzip()
    if damaged is not None:
        raise DataError(f"{path} is damaged: the checksum of {damaged} in it is wrong")
    return pickles[0].filename


class _SmallReads(io.BufferedReader):
    """Lets nobody read much at once: zipfile takes in a directory of any length, and only looks."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise ValueError(f"its directory of {size} bytes is no checkpoint's")
        return super().read(size)


def _import_torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            "files of PyTorch are written by it: pip install '.[convert]' in the project's folder"
        ) from error
    return torch
