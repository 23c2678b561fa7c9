"""Shared memory of data workers, named after their trainer: what a dead one left can be removed.

Python removes what a killed trainer's workers leave, but not when they are all killed at once; a
batch of 4096 faces takes 600 MB, of a memory that is never written to disk.
"""

import logging
import os
import re
import secrets
from multiprocessing import shared_memory
from pathlib import Path

from fsvfm_jax.processes import is_alive, pid_namespace, state_and_start

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")


def name_segments_after(trainer: int) -> None:
    """In a worker: every segment made from now on has the trainer's name."""
    if not FOLDER.is_dir():  # Elsewhere names are short, and nothing could be listed.
        return
    prefix = f"{_prefix()}{trainer}-{state_and_start(trainer)[1]}-"
    # Grain leaves the name to Python, and Python has no other way to choose it.
    shared_memory._make_filename = lambda: f"/{prefix}{secrets.token_hex(8)}"


def remove_orphans() -> None:
    """Removes the segments whose trainer is gone."""
    if not FOLDER.is_dir():
        return
    removed = 0
    for file in FOLDER.glob(f"{_prefix()}*"):
        match = re.fullmatch(r"(\d+)-(\d+)-[0-9a-f]+", file.name.removeprefix(_prefix()))
        if match and not is_alive(int(match[1]), started=int(match[2])):
            try:
                file.unlink()
            except OSError:  # Another start is doing the same, or it is another user's.
                continue
            removed += 1
    if removed:
        logger.warning("removed %d segments of shared memory of runs that were killed", removed)


def _prefix() -> str:
    """Ours alone: the numbers of another container's processes are not those seen here."""
    return f"fsvfm-{os.getuid()}-{re.sub('[^0-9]', '', pid_namespace())}-"
