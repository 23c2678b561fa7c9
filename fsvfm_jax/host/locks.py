"""Locks of the operating system, which end with the process that holds them."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from fsvfm_jax.errors import ConfigError


@contextlib.contextmanager
def alone_in(folder: Path, *, doing: str) -> Iterator[None]:
    """Holds a lock, so that no other process works in the folder, which is created if missing.

    Args:
        folder: The folder.
        doing: The work as a verb, such as "packs", for the message.

    Raises:
        ConfigError: Another process works in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigError(
            f"another process {doing} {folder}; wait for it, or name another folder"
        ) from error
    finally:
        os.close(opened)
