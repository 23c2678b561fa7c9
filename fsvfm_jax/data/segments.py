"""Names the shared memory and semaphores of data workers after their trainer.

The segments that a dead trainer left can therefore be found and removed. Python removes them if the
trainer is killed, but not if its workers are killed at the same time. A batch of 4096 faces takes
600 MB, in memory that is never written to disk.
"""

import logging
import multiprocessing
import os
import re
import secrets
from collections.abc import Sequence
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np

from fsvfm_jax.errors import StorageError, reason_of
from fsvfm_jax.host.processes import is_alive, pid_namespace, state_and_start

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
# The C library puts this before the name of a semaphore in that folder.
SEMAPHORE = "sem."


def name_segments_after(trainer: int) -> None:
    """Gives every segment that this worker creates from now on its trainer's name.

    Args:
        trainer: Process number of the trainer.
    """
    if not FOLDER.is_dir():  # Other systems limit names and cannot list segments.
        return
    prefix = _prefix_of(trainer)
    # Grain leaves the name to Python, which offers no other way to choose it.
    shared_memory._make_filename = lambda: f"/{prefix}{secrets.token_hex(8)}"


def stack_in_shared_memory(rows: Sequence[np.ndarray | np.generic]) -> np.ndarray:
    """Returns what `np.stack` returns, in a segment that Grain gives to the trainer as it is.

    The segment is written as a file. That takes half the time of `np.stack` and a copy to mapped
    memory, where the system would clear every page before its first use.

    Args:
        rows: At least one array; all have the same shape and dtype.

    Raises:
        StorageError: The memory is full. Touching mapped memory would kill the process instead.
    """
    if not FOLDER.is_dir():
        return np.stack(rows)
    arrays = [np.ascontiguousarray(row) for row in rows]
    shape, dtype = (len(rows), *np.shape(rows[0])), arrays[0].dtype
    segment = shared_memory.SharedMemory(create=True, size=sum(x.nbytes for x in arrays))
    try:
        with open(FOLDER / segment.name, "r+b") as file:
            for array in arrays:
                file.write(array)
    except OSError as error:
        segment.unlink()
        raise StorageError(
            f"{FOLDER} has no room for {segment.size} bytes of a batch ({reason_of(error)}): give"
            " the machine or container more shared memory, or set config.data.num_workers=0"
        ) from error
    # Grain imports JAX, which most importers of this module do without.
    from grain.multiprocessing import SharedMemoryArray

    return SharedMemoryArray.from_shared_memory(segment, shape, dtype)


def name_semaphores() -> None:
    """Gives every semaphore that this trainer or its workers create from now on its name."""
    if FOLDER.is_dir():
        # Queues and locks of `multiprocessing` take the prefix of their names from this entry.
        multiprocessing.current_process()._config["semprefix"] = f"/{_prefix_of(os.getpid())[:-1]}"


def remove_orphans() -> None:
    """Removes the segments and semaphores whose trainer is no longer alive.

    Anyone may create files in that folder under any name. Therefore no file is opened, and only
    files of this user are removed.
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
            except OSError:  # Another process removed the file first, or it is a folder.
                continue
            removed += 1
    if removed:
        logger.warning(
            "removed %d segments and semaphores of shared memory of runs that were killed", removed
        )


def _prefix() -> str:
    """Returns a prefix for this user and container: other containers reuse process numbers."""
    return f"fsvfm-{os.getuid()}-{re.sub('[^0-9]', '', pid_namespace())}-"


def _prefix_of(trainer: int) -> str:
    return f"{_prefix()}{trainer}-{state_and_start(trainer)[1]}-"
