"""Shared memory and semaphores of data workers, named after their trainer.

What a dead trainer left can therefore be removed. Python removes what a killed trainer's workers
leave, but not when they are all killed at once; a batch of 4096 faces takes 600 MB, of a memory
that is never written to disk.
"""

import logging
import multiprocessing
import os
import re
import secrets
from multiprocessing import shared_memory
from pathlib import Path

from fsvfm_jax.host.processes import is_alive, pid_namespace, state_and_start

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
# What the C library puts before the name of a semaphore in that folder.
SEMAPHORE = "sem."


def name_segments_after(trainer: int) -> None:
    """In a worker: every segment made from now on has the trainer's name."""
    if not FOLDER.is_dir():  # Elsewhere names are short, and nothing could be listed.
        return
    prefix = _prefix_of(trainer)
    # Grain leaves the name to Python, and Python has no other way to choose it.
    shared_memory._make_filename = lambda: f"/{prefix}{secrets.token_hex(8)}"


def name_semaphores() -> None:
    """In a trainer: every semaphore that it or its workers make from now on has its name."""
    if FOLDER.is_dir():
        # Queues and locks of `multiprocessing` take the beginning of their names from there.
        multiprocessing.current_process()._config["semprefix"] = f"/{_prefix_of(os.getpid())[:-1]}"


def remove_orphans() -> None:
    """Removes the segments and semaphores whose trainer is gone.

    Anyone may put files into that folder, under any name: nothing is opened, and only files of this
    user are removed.
    """
    if not FOLDER.is_dir():
        return
    removed = 0
    name = re.compile(rf"(?:{SEMAPHORE})?{_prefix()}([0-9]{{1,10}})-([0-9]{{1,20}})-[0-9a-z_]+")
    for file in FOLDER.iterdir():
        match = name.fullmatch(file.name)
        if match and not is_alive(int(match[1]), started=int(match[2])):
            try:
                if file.lstat().st_uid != os.getuid():
                    continue
                file.unlink()
            except OSError:  # Another start is doing the same, or it is a folder.
                continue
            removed += 1
    if removed:
        logger.warning(
            "removed %d segments and semaphores of shared memory of runs that were killed", removed
        )


def _prefix() -> str:
    """Ours alone: the numbers of another container's processes are not those seen here."""
    return f"fsvfm-{os.getuid()}-{re.sub('[^0-9]', '', pid_namespace())}-"


def _prefix_of(trainer: int) -> str:
    return f"{_prefix()}{trainer}-{state_and_start(trainer)[1]}-"
