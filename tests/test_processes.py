"""Tests whether a process is still the same one, and that freed memory is returned."""

import os
import subprocess
import sys

import pytest

from fsvfm_jax.host.processes import (
    HEAPS,
    give_back_memory,
    is_alive,
    pid_namespace,
    share_heaps,
    state_and_start,
)


def test_this_process_is_alive_and_no_other_is_it():
    _, started = state_and_start(os.getpid())
    assert is_alive(os.getpid(), started=started) and is_alive(os.getpid(), started=0)
    assert not is_alive(os.getpid(), started=started + 1)
    assert pid_namespace() == os.readlink("/proc/self/ns/pid")


def test_a_process_that_ended_is_not_alive_reaped_or_not():
    process = subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE)
    _, started = state_and_start(process.pid)
    process.stdout.read()
    while state_and_start(process.pid)[0] != "Z":
        pass
    assert not is_alive(process.pid, started=started)
    process.communicate()
    assert not is_alive(process.pid, started=started)
    assert state_and_start(process.pid) == ("", 0)


@pytest.mark.parametrize("number", [0, -1, -(2**70), 2**31, 2**63, 10**4000])
def test_a_number_that_no_process_has_is_not_alive(number):
    """Tests numbers that may come from a file that anyone may have written."""
    assert not is_alive(number, started=0)


def test_freed_memory_goes_back():
    """Keeps some pieces alive, so that the C library's heap stays large."""
    program = """
import re
from pathlib import Path
from fsvfm_jax.host.processes import give_back_memory

def megabytes():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3

pieces = [bytearray(3000) for _ in range(100_000)]
kept = pieces[::100]
del pieces
before = megabytes()
give_back_memory()
print(before - megabytes())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 200


@pytest.mark.parametrize(("asked", "most"), [(None, HEAPS), ("5", 5)])
def test_threads_share_heaps(asked, most):
    program = """
import ctypes, threading
from fsvfm_jax.host.processes import share_heaps

share_heaps()
threads = 12
together = threading.Barrier(threads)
def work():
    together.wait()
    kept.append(bytearray(3000))
    together.wait()
kept = []
started = [threading.Thread(target=work) for _ in range(threads)]
[thread.start() for thread in started], [thread.join() for thread in started]
library = ctypes.CDLL(None)
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
"""
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"}
    environment |= {} if asked is None else {"MALLOC_ARENA_MAX": asked}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<heap nr=") == most


def test_where_memory_is_not_glibc_s_nothing_happens(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    share_heaps()
    give_back_memory()
