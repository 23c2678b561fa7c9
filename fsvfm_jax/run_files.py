"""Small JSON files of a run that decide how it goes on: whole or not there, however it ended."""

import json
from typing import Any

from etils import epath

from fsvfm_jax.errors import StorageError


def in_bucket(path: epath.PathLike) -> bool:
    """Whether it is an object of a store, which is written whole but neither renamed nor full."""
    return "://" in str(path)


def write_json(file: epath.Path, content: Any) -> None:
    """Writes it whole: who is killed meanwhile leaves what was there before."""
    text = json.dumps(content, indent=1) + "\n"
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
