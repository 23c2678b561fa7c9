"""A run's small files: those that decide how it goes on are whole or not there at all."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from fsvfm_jax.errors import StorageError


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


def read_json(file: epath.Path, *, mend: str) -> Any:
    """Returns what it holds.

    Args:
        file: Which.
        mend: The way out where it is damaged, as the end of a sentence.

    Raises:
        StorageError: It is damaged.
    """
    try:
        return json.loads(file.read_text())
    except ValueError as error:  # Neither text nor JSON.
        raise StorageError(f"{file} is damaged ({error}): {mend}") from error
