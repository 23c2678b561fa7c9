"""Reads files of weights, and files beside them, from untrusted sources: opened with limits."""

from pathlib import Path
from typing import Any

from fsvfm_jax.errors import DataError, reason_of
from fsvfm_jax.host import json_files
from fsvfm_jax.host.hashing import sha256_of
from fsvfm_jax.host.plain_files import open_plain

# The weights of ViT-H with decoders and optimizer take 9 GB.
MAX_WEIGHTS_BYTES = 2**34


def read_source_json(path: Path, schema: Any, *, what: str) -> Any:
    """Returns the value in a JSON file.

    Args:
        path: The file.
        schema: The type of the value, as for `host.json_files.parse_json`.
        what: What the file should be, as the end of a sentence, such as "that of a run".

    Raises:
        DataError: The file is missing, is not a plain file, or contains no such value.
    """
    try:
        return json_files.read_json(path, schema)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason_of(error)})") from error
    except ValueError as error:
        raise DataError(f"{path} is not {what} ({error})") from error


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal.

    Raises:
        DataError: The file is missing, is not a plain file, or is larger than any file of weights.
    """
    try:
        with open_plain(path, max_bytes=MAX_WEIGHTS_BYTES) as file:
            return sha256_of(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason_of(error)})") from error
