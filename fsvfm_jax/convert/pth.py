"""Reads and writes the reference's files, `.pth` and `.pth.tar`; files are read without trust.

Such a file is a zip archive of raw arrays and one pickle, a small program that describes their
structure. Reading needs no PyTorch and executes nothing: `pickle_reader.py` implements the few
instructions that a checkpoint's pickle uses.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fsvfm_jax.convert.archives import open_archive
from fsvfm_jax.convert.entries import Network, find_network
from fsvfm_jax.convert.formats import HEAD_BYTES, name_format
from fsvfm_jax.convert.pickle_reader import read_pickle
from fsvfm_jax.errors import ConfigError, DataError, StorageError, reason_of
from fsvfm_jax.host.hashing import sha256_of
from fsvfm_jax.host.plain_files import open_plain
from fsvfm_jax.host.storage import whole_file

# ViT-H with its optimizer: 8 GB, 0.25 MB of pickle and 2,200 arrays.
MAX_FILE_BYTES = 2**34
MAX_PICKLE_BYTES = 500_000
FORMAT = "zip archive of PyTorch"


class Pth(NamedTuple):
    """The content of a file.

    Attributes:
        state_dict: The network's arrays by the reference's names.
        extra: All other entries, such as `optimizer`, `epoch`, `args` (a dict) or `threshold`.
        sha256: SHA-256 of the file.
        network: Place of the network in the file; None if it was not read from a file.
    """

    state_dict: dict[str, np.ndarray]
    extra: dict[str, Any]
    sha256: str
    network: Network | None = None


def read(path: str | os.PathLike[str], *, entry: str | None = None, branch: str = "student") -> Pth:
    """Reads a checkpoint as arrays and plain values; nothing in it is executed.

    Args:
        path: The file.
        entry: As for `entries.find_network`.
        branch: As for `entries.find_network`.

    Raises:
        DataError: The file is missing, of another format or damaged, or its pickle uses names or
            instructions that no checkpoint needs.
        ConfigError: The file has no network under that entry.
    """
    path = Path(path)
    try:
        with open_plain(path, max_bytes=MAX_FILE_BYTES) as file:
            content = _read_archive(path, file)
            network = find_network(content, path=path, entry=entry, branch=branch)
            file.seek(0)
            digest = sha256_of(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason_of(error)}") from error
    if not network.entry:
        return Pth(network.state_dict, {}, digest, network)
    extra = {k: x for k, x in content.items() if k != network.entry.split(".")[0]}
    return Pth(network.state_dict, extra, digest, network)


def write(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, np.ndarray],
    *,
    key: str = "model",
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a file that the reference loads with strict key checks.

    Args:
        path: The file; an existing file is replaced.
        state_dict: Arrays by the reference's names.
        key: The reference's key of the network: "model", or "state_dict" for anti-spoofing.
        extra: Further entries; arrays in them become tensors.

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
    content = {key: to_torch(dict(state_dict))} | to_torch(dict(extra or {}))
    try:
        with whole_file(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # PyTorch's own for a full disk
        raise StorageError(f"{path} cannot be written ({reason_of(error)})") from error


def _read_archive(path: Path, file: BinaryIO) -> Any:
    """Returns the content that the pickle of an undamaged zip archive describes."""
    head = file.read(HEAD_BYTES)
    if not head.startswith(b"PK\x03\x04"):
        raise DataError(
            f"{path} is {name_format(head)}, and no zip archive, which is what torch.save of"
            " PyTorch 1.6 or later writes and what is read here"
        )
    try:
        with open_archive(file) as archive:
            file_bytes = os.fstat(file.fileno()).st_size
            pickle = _check_entries(path, archive, file_bytes=file_bytes)
            folder = pickle.removesuffix("data.pkl")
            return read_pickle(
                _read_entry(archive, pickle),
                read_storage=lambda key: _read_entry(archive, f"{folder}data/{key}"),
                # A factor of 2 for arrays that share memory, and of 2 for bfloat16 as float32.
                max_array_bytes=4 * file_bytes,
            )
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise DataError(f"{path} is damaged, perhaps cut off: {error}") from error


def _check_entries(path: Path, archive: zipfile.ZipFile, *, file_bytes: int) -> str:
    """Returns the pickle's name; raises DataError unless the entries are those of PyTorch."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if any("/code/" in name for name in names):
        raise DataError(f"{path} is a TorchScript program: save the network's state_dict() instead")
    if names and all(name.endswith(".npy") for name in names):
        raise DataError(f"{path} is an archive of NumPy: call it .npz")
    if len(pickles) != 1:
        raise DataError(f"{path} is a zip archive but no checkpoint of PyTorch")
    # PyTorch does not compress: an archive that unpacks to more than its size is malicious.
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > file_bytes:
        raise DataError(f"{path} is compressed or overlapping, as no checkpoint is")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise DataError(
            f"{path} has a pickle of {pickles[0].file_size} bytes, where a checkpoint's has"
            f" {MAX_PICKLE_BYTES} at most"
        )
    order = pickles[0].filename.removesuffix("data.pkl") + "byteorder"
    if order in names and archive.read(order) != b"little":
        raise DataError(f"{path} was saved on a big-endian machine, and is not read")
    return pickles[0].filename


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns the bytes of an entry after a check of its checksum."""
    try:
        return archive.read(name)
    except zipfile.BadZipFile as error:
        raise DataError(f"it is damaged: the checksum of {name} in it is wrong") from error


def _import_torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            "files of PyTorch are written by it: pip install '.[convert]' in the project's folder"
        ) from error
    return torch
