"""The cores, memory and lifetime of a process, and whether another process is still alive."""

import contextlib
import ctypes
import multiprocessing
import os
import threading
from pathlib import Path

HEAPS = 2
M_ARENA_MAX = -8  # the constant in malloc.h


def available_cores() -> int:
    """Returns the number of cores that this process may use, often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """Makes a worker process end when its parent process ends, however the parent ends.

    Does nothing in a process that `multiprocessing` has not started.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def share_heaps() -> None:
    """Lets all threads of this process share HEAPS heaps of the C library, if that is glibc.

    Without this call every thread gets its own heap, up to eight per core. Free memory of one heap
    cannot serve a thread of another, so a long run grows until each heap has once held the largest
    save. The environment variable MALLOC_ARENA_MAX takes precedence over this function.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, HEAPS)


def give_back_memory() -> None:
    """Returns freed memory from the C library to the system, if the library is glibc.

    Compiling frees hundreds of MB, which the C library keeps because small live blocks lie between.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def pid_namespace() -> str:
    """Returns the name of this process's PID namespace, or "" on a system without such namespaces.

    In another namespace, such as another container's, the same number is another process.
    """
    link = Path("/proc/self/ns/pid")
    return os.readlink(link) if link.exists() else ""


def state_and_start(pid: int) -> tuple[str, int]:
    """Returns state and start time of a process, fields 3 and 22 of `/proc/<pid>/stat`.

    Returns "" and 0 if that file cannot be read.
    """
    try:
        # Field 2, the name, is in parentheses and may contain any character.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])


def is_alive(pid: int, *, started: int) -> bool:
    """Returns whether the process with this number lives, is no zombie, and started at that time.

    Args:
        pid: A number in the PID namespace of this process. A number from a file may be any integer.
        started: Start time from `state_and_start`; 0 if it is not known.
    """
    if pid <= 0:  # `kill` takes such a number as a group of processes.
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # The process belongs to another user.
        pass
    state, start = state_and_start(pid)
    return (start == started or 0 in (start, started)) and state not in ("Z", "X")
