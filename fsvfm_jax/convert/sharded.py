"""Reads safetensors in several files with an index, as transformers writes large networks."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import numpy as np

from fsvfm_jax.convert.safetensors import load_safetensors, read_header
from fsvfm_jax.convert.source_files import MAX_WEIGHTS_BYTES, file_sha256
from fsvfm_jax.errors import DataError, reason_of
from fsvfm_jax.host.json_files import read_json

INDEX_FILE = "model.safetensors.index.json"
PLAIN_NAME = re.compile(r"\w[\w.-]{0,200}\.safetensors")
MAX_SHARDS = 1000

Bytes = Annotated[float, msgspec.Meta(ge=0)]


class _Metadata(TypedDict):
    total_size: NotRequired[Bytes]


class _Index(TypedDict):
    weight_map: dict[str, str]
    metadata: NotRequired[_Metadata]


def read_index(path: Path) -> tuple[dict[str, list[str]], float | None]:
    """Reads an index file.

    Returns:
        The names of the arrays in each file, and the bytes of all arrays if the index contains
        them.

    Raises:
        DataError: The index cannot be read, or names a file that is not directly beside it.
    """
    try:
        index = read_json(path, _Index)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise DataError(f"{path} cannot be read as an index of safetensors: {reason}") from error
    files: dict[str, list[str]] = {}
    for name, file in index["weight_map"].items():
        if not PLAIN_NAME.fullmatch(file):
            raise DataError(
                f"{path} names the file {file[:100]!r}: only plain names of .safetensors files"
                " beside it are read"
            )
        files.setdefault(file, []).append(name)
    if not 1 <= len(files) <= MAX_SHARDS:
        raise DataError(f"{path} names {len(files)} files, and not 1 to {MAX_SHARDS}")
    return files, index.get("metadata", {}).get("total_size")


def read_headers(path: Path) -> dict[str, Any]:
    """Reads and checks the headers of all files in an index, without their arrays.

    Returns:
        The `dtype`, `shape` and `data_offsets` of each array by its name.

    Raises:
        DataError: As for `read_index` and `safetensors.read_header`; or a file has other arrays
            than in the index; or all arrays together have another size than in the index, or more
            bytes than any network.
    """
    files, total_size = read_index(path)
    headers: dict[str, Any] = {}
    found = 0
    for file, names in files.items():
        header = read_header(path.with_name(file))
        header.pop("__metadata__", None)
        if differing := sorted(header.keys() ^ set(names)):
            raise DataError(
                f"{path.with_name(file)} has other arrays than {path.name} says: {len(differing)}"
                f" differ, the first is {differing[0][:100]!r}"
            )
        headers |= header
        found += sum(end - begin for begin, end in (x["data_offsets"] for x in header.values()))
        if found > MAX_WEIGHTS_BYTES:
            raise DataError(f"the files of {path} have more than {MAX_WEIGHTS_BYTES:,} bytes")
    if total_size is not None and found != total_size:
        raise DataError(f"{path} promises arrays of {total_size:.0f} bytes, and they have {found}")
    return headers


def load_sharded(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of all files in an index, after a check of all headers.

    Raises:
        DataError: As for `read_headers` and `load_safetensors`.
    """
    read_headers(path)
    arrays: dict[str, np.ndarray] = {}
    for file in read_index(path)[0]:
        arrays |= load_safetensors(path.with_name(file))
    return arrays


def sharded_sha256(path: Path) -> str:
    """Returns the SHA-256 of the list of the files' hashes and names, in the order of the names."""
    files, _ = read_index(path)
    lines = [f"{file_sha256(path.with_name(file))}  {file}\n" for file in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
