"""Reads NumPy archives, `.npz`, from untrusted sources: only arrays of numbers, of limited size."""

import math
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from fsvfm_jax.convert.archives import open_archive
from fsvfm_jax.convert.formats import HEAD_BYTES, name_format
from fsvfm_jax.errors import DataError, reason_of
from fsvfm_jax.host.plain_files import open_plain

MAX_FILE_BYTES = 2**34
# Compression makes trained weights about 8 % smaller, and a zip bomb 1,000 times smaller.
MAX_RATIO = 4
MAX_DIMENSIONS = 8
MAX_SIDE = 2**63 - 1
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# The errors of NumPy's header parser besides ValueError.
NO_HEADER = (SyntaxError, TypeError, tokenize.TokenError, RecursionError, MemoryError)
# NumPy has no name for bfloat16, and writes values of two bytes.
BFLOAT16 = np.dtype("V2")


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays by their names; bfloat16 becomes float32 without loss.

    Raises:
        DataError: The file cannot be read, is damaged, contains anything but arrays of numbers, or
            unpacks to more than `MAX_RATIO` times its size.
    """
    try:
        with open_plain(path, max_bytes=MAX_FILE_BYTES) as file:
            _check(path, file)
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: _as_numbers(arrays[name]) for name in arrays.files}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason_of(error)}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} is damaged, perhaps cut off: {str(error)[:200]}") from error


def _check(path: Path, file: BinaryIO) -> None:
    """Raises DataError unless every entry is an array of numbers of the size in its header."""
    head = file.read(HEAD_BYTES)
    if not head.startswith(b"PK\x03\x04"):
        raise DataError(f"{path} is {name_format(head)}, and no .npz archive")
    with open_archive(file) as archive:
        entries = archive.infolist()
        if sum(x.file_size for x in entries) > MAX_RATIO * os.fstat(file.fileno()).st_size:
            raise DataError(f"{path} unpacks to more than {MAX_RATIO} times its size")
        for entry in entries:
            problem = _problem(archive, entry)
            if problem:
                raise DataError(f"{path}: {entry.filename[:100]!r} in it {problem}")


def _problem(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str | None:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way that NumPy does not use"
    if not entry.filename.endswith(".npy"):
        return "is no array of NumPy"
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        if version not in HEADERS:
            return f"has a header of version {version}"
        try:
            shape, _, dtype = HEADERS[version](member)
        except NO_HEADER:
            return "has a header that NumPy cannot read"
        header_bytes = member.tell()
    if dtype.hasobject:
        return "holds Python objects, which are not read"
    if dtype.kind not in "fiub" and dtype != BFLOAT16:
        return f"has dtype {str(dtype)[:100]}, and is no array of numbers"
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n <= MAX_SIDE for n in shape):
        return "has a shape that no array has"
    if header_bytes + math.prod(shape) * dtype.itemsize != entry.file_size:
        return "has another size than its header says"
    return None


def _as_numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype != BFLOAT16:
        return array
    return array.view(ml_dtypes.bfloat16).astype(np.float32)
