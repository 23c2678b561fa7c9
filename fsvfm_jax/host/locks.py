"""Locks of the operating system, which end with the process that holds them."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from fsvfm_jax.errors import ConfigError, StorageError, reason_of
from fsvfm_jax.host.storage import written


@contextlib.contextmanager
def alone_in(folder: Path, *, doing: str) -> Iterator[None]:
    """Holds a lock, so that no other process works in the folder, which is created if missing.

    Args:
        folder: The folder.
        doing: The work as a verb, such as "packs", for the message.

    Raises:
        ConfigError: Another process works in the folder.
        StorageError: The folder cannot be created, or its file system has no locks.
    """
    with written(folder, mend="choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    try:
        _lock(opened, folder, doing=doing)
        yield
    finally:
        os.close(opened)


def _lock(opened: int, folder: Path, *, doing: str) -> None:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another process {doing} {folder}; wait for it, or name another folder"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be locked ({reason_of(error)}): its file system may have no locks;"
            " choose another folder"
        ) from error
