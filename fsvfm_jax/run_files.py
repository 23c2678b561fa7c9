"""A run's small files: those that decide how it goes on are whole or not there at all."""

import contextlib
import errno
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from fsvfm_jax.errors import StorageError
from fsvfm_jax.host.json_files import MAX_JSON_BYTES, parse_json
from fsvfm_jax.host.plain_files import FileRefused, read_plain


def in_bucket(path: epath.PathLike) -> bool:
    """Whether it is an object of a store, which is written whole but neither renamed nor full."""
    return "://" in str(path)


@contextlib.contextmanager
def written(path: epath.PathLike) -> Iterator[None]:
    """Around what writes a file: names it where that fails.

    Raises:
        StorageError: There is no room for it, or no permission.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}): free space, or give permission;"
            " the same command then goes on from the newest checkpoint"
        ) from error


def write_json(file: epath.Path, content: Any) -> None:
    """Writes it whole: who is killed meanwhile leaves what was there before.

    Raises:
        StorageError: It cannot be written.
    """
    write_text(file, json.dumps(content, indent=1) + "\n")


def write_text(file: epath.Path, text: str) -> None:
    """The same for any text."""
    with written(file):
        if in_bucket(file):
            file.write_text(text)
            return
        temporary = file.with_name(file.name + ".tmp")
        temporary.write_text(text)
        temporary.replace(file)


def read_json(file: epath.Path, schema: Any, *, mend: str) -> Any:
    """Returns the value in a JSON file of a run.

    Args:
        file: In the workdir, which may be in a bucket.
        schema: The type of the value, as for `host.json_files.parse_json`.
        mend: The way out where the file is damaged, as the end of a sentence.

    Raises:
        StorageError: It is missing, no plain file, or damaged.
    """
    try:
        content = read_bytes(file, max_bytes=MAX_JSON_BYTES)
        return parse_json(content, schema)
    except OSError as error:
        raise StorageError(f"{file} cannot be read ({error.strerror or error}): {mend}") from error
    except ValueError as error:
        raise StorageError(f"{file} is damaged ({error}): {mend}") from error


def read_bytes(file: epath.Path, *, max_bytes: int) -> bytes:
    """Returns the bytes of a file of a run, in a folder or in a bucket.

    Raises:
        OSError: It is missing, no plain file, or has more than `max_bytes`.
    """
    if not in_bucket(file):
        return read_plain(file, max_bytes=max_bytes)
    size = file.stat().length
    if size > max_bytes:
        raise FileRefused(errno.EFBIG, f"it has {size:,} bytes, more than {max_bytes:,}", str(file))
    return file.read_bytes()
