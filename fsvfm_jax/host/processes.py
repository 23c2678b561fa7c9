"""Who a process is, whether it is still there, and what it may use."""

import contextlib
import ctypes
import multiprocessing
import os
import threading
from pathlib import Path

HEAPS = 2
M_ARENA_MAX = -8  # malloc.h


def available_cores() -> int:
    """How many this process may use: a job often has fewer than its machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """In a worker: from here on it ends when its parent does, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def share_heaps() -> None:
    """Has all threads of this process use HEAPS heaps of the C library, if that is glibc.

    Else every thread gets one of its own, up to eight per core. What is free in one is of no use to
    the others, so a long run grows until each has once held what the largest save needs.
    The environment's MALLOC_ARENA_MAX goes before.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, HEAPS)


def give_back_memory() -> None:
    """Has the C library return freed memory to the system, if that is glibc.

    Compiling leaves hundreds of MB, kept by the pieces that live on between.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def pid_namespace() -> str:
    """Of this process: other containers' numbers mean other processes; "" where there are none."""
    link = Path("/proc/self/ns/pid")
    return os.readlink(link) if link.exists() else ""


def state_and_start(pid: int) -> tuple[str, int]:
    """Of a process, from fields 3 and 22 of its `stat`; "" and 0 where it cannot be read."""
    try:
        # The name, field 2, is in parentheses and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])


def is_alive(pid: int, *, started: int) -> bool:
    """Whether the process with this number is the one that started then, and no zombie.

    Args:
        pid: In this process's namespace; from a file it may be any number.
        started: Of `state_and_start`; 0 if it is not known.
    """
    if pid <= 0:  # To `kill` that means a group.
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # It is another user's.
        pass
    state, start = state_and_start(pid)
    return (start == started or 0 in (start, started)) and state not in ("Z", "X")
