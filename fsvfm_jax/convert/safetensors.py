"""Reads and writes safetensors files; their header is checked before the library reads them."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fsvfm_jax.convert.source_files import file_sha256
from fsvfm_jax.errors import DataError, StorageError, reason_of
from fsvfm_jax.host.json_files import unique
from fsvfm_jax.host.plain_files import open_plain

MAX_FILE_BYTES = 2**33  # ViT-H in float32 takes 2.5 GB.
# The largest network's header takes 100 kB; as Python objects it takes about 50 times as much.
MAX_HEADER_BYTES = 2**20
MAX_DIMENSIONS = 8
ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


def load_safetensors(path: Path, *, sha256: str | None = None) -> dict[str, np.ndarray]:
    """Reads all arrays of a file, with their stored names, values and dtypes.

    Args:
        path: The file.
        sha256: The expected hash of the file; None for any.

    Raises:
        DataError: The file cannot be read, has another hash, or its header does not describe
            exactly its bytes.
    """
    read_header(path)
    if sha256 is not None and file_sha256(path) != sha256:
        raise DataError(f"{path} is damaged: its SHA-256 is not that in config.json")
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read as safetensors ({error})") from error


def save_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], *, metadata: Mapping[str, str]
) -> None:
    """Writes arrays and metadata; the same input gives the same bytes.

    Args:
        path: The file.
        arrays: The arrays by name.
        metadata: Text by name.

    Raises:
        StorageError: The file cannot be written.
    """
    # The library writes an array's memory as it is and ignores strides.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        # `save_file` is not used, because only the owner may read its files.
        path.write_bytes(save(contiguous, metadata=dict(metadata)))
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be written ({error})") from error


def read_header(path: Path) -> dict[str, Any]:
    """Reads and checks the header of a file, without reading its arrays.

    Returns:
        The `dtype`, `shape` and `data_offsets` of each array by its name; and `__metadata__`, if
        any.

    Raises:
        DataError: The file is not a safetensors file, or its header does not describe every byte
            that follows exactly once.
    """
    try:
        with open_plain(path, max_bytes=MAX_FILE_BYTES) as file:
            file_bytes = os.fstat(file.fileno()).st_size
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= min(file_bytes - 8, MAX_HEADER_BYTES):
                raise DataError(
                    f"{path} is no whole safetensors file: its first 8 bytes announce a header of"
                    f" {header_bytes} bytes, the file has {file_bytes} (and a header may have"
                    f" {MAX_HEADER_BYTES})"
                )
            text = file.read(header_bytes)
        header = json.loads(text, object_pairs_hook=unique)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason_of(error)})") from error
    except RecursionError as error:
        raise DataError(
            f"{path} cannot be read as safetensors (its header is nested too deeply)"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} cannot be read as safetensors ({error})") from error
    if not isinstance(header, dict):
        raise DataError(f"{path} has a safetensors header that is no table of arrays")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise DataError(f"{path} has a safetensors header whose __metadata__ is no table of texts")
    arrays = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    spans = sorted((*_span(path, name, entry), name) for name, entry in arrays)
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise DataError(
                f"{path} is damaged: array {name[:80]!r} begins at byte {begin} of the data, the"
                f" one before it ends at {position}"
            )
        position = end
    if position != file_bytes - 8 - header_bytes:
        raise DataError(
            f"{path} is damaged: its arrays take {position} bytes, the file has"
            f" {file_bytes - 8 - header_bytes} for them"
        )
    return header


def _span(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """Returns where an array begins and ends; raises DataError if that does not fit its shape."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if isinstance(dtype, str) and dtype not in ITEM_BYTES:
        raise DataError(
            f"{path} describes array {name[:80]!r} as of dtype {dtype[:20]!r}, which is not read"
            f" here: save it as one of {', '.join(ITEM_BYTES)}"
        )
    fits = (
        isinstance(dtype, str)
        and _naturals(shape)
        and len(shape) <= MAX_DIMENSIONS
        and _naturals(offsets)
        and len(offsets) == 2
        and offsets[1] - offsets[0] == math.prod(shape) * ITEM_BYTES[dtype]
    )
    if not fits:
        raise DataError(
            f"{path} describes array {name[:80]!r} as {str(entry)[:200]}, which is no dtype, shape"
            " and data_offsets that agree"
        )
    return offsets[0], offsets[1]


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(x) is int and x >= 0 for x in values)
