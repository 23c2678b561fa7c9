"""Tests that a hang ends with code 71 and all stacks, and that a stopped process continues."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from patience import PATIENCE

from fsvfm_jax.run import watchdog as watchdog_module
from fsvfm_jax.run.watchdog import LONGEST_TICK, WATCHDOG_EXIT_CODE, Watchdog

LIMIT = 0.2
IMPORTS = f"""
import sys, threading, time
from fsvfm_jax.run.watchdog import Watchdog
LIMIT = {LIMIT}

def idle():
    threading.Event().wait()

threading.Thread(target=idle, daemon=True).start()
BEGAN = time.monotonic()
"""
HANGS = {
    "sleep": """
def hang():
    time.sleep(1000)

with Watchdog() as watchdog, watchdog.limit("the nap", LIMIT):
    print("begins", BEGAN, flush=True)
    hang()
""",
    "lock": """
def hang():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

with Watchdog() as watchdog:
    watchdog.beat("step 1", 1000)
    watchdog.beat("the nap", LIMIT)
    print("begins", BEGAN, flush=True)
    hang()
""",
    "thread": """
def hang():
    with watchdog.limit("the nap", LIMIT):
        time.sleep(1000)

with Watchdog() as watchdog, watchdog.limit("all", 1000):
    print("begins", BEGAN, flush=True)
    thread = threading.Thread(target=hang)
    thread.start()
    thread.join()
""",
    "nested": """
def hang():
    time.sleep(1000)

with Watchdog() as watchdog:
    watchdog.beat("step 1", 1000)
    with watchdog.limit("the nap", LIMIT):
        with watchdog.limit("the read", LIMIT):
            pass
        print("begins", BEGAN, flush=True)
        hang()
""",
}
# The hung thread holds the lock of sys.stderr, and the pipe has no room for the message.
NOBODY_READS = """
with Watchdog() as watchdog, watchdog.limit("logging", LIMIT):
    print("begins", BEGAN, flush=True)
    while True:
        print("x" * 1000, file=sys.stderr)
"""
SOON_ENOUGH = """
with Watchdog() as watchdog, watchdog.limit("the naps", 3):
    print("begins", BEGAN, flush=True)
    for _ in range(8):
        time.sleep(0.2)
"""


@pytest.fixture
def start():
    """Starts a program whose first line is its start time, on the clock of all processes."""
    started = []

    def start(body, stderr=subprocess.PIPE):
        process = subprocess.Popen(
            [sys.executable, "-c", IMPORTS + body],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        started.append(process)
        word, began = process.stdout.readline().split()
        assert word == "begins"
        return process, float(began)

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", HANGS)
def test_a_hang_ends_the_process_with_all_stacks(start, name):
    process, began = start(HANGS[name])
    _, said = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began > LIMIT - 0.05
    assert process.returncode == WATCHDOG_EXIT_CODE == 71
    sentence, stacks = said.split("\n", maxsplit=1)
    assert re.fullmatch(r"error: the nap has not ended within 0.2 s: .*; exit code 71", sentence)
    for function in ("hang", "idle", "<module>", "_end_process"):
        assert f" in {function}\n" in stacks, function


def test_it_ends_when_nobody_reads_stderr(start):
    read, write = os.pipe()
    process, _ = start(NOBODY_READS, stderr=write)
    assert process.wait(timeout=PATIENCE) == WATCHDOG_EXIT_CODE
    # Other processes may write to the pipe afterwards.
    assert os.get_blocking(write)
    os.close(read)
    os.close(write)


def test_who_was_stopped_is_not_blamed(start):
    process, _ = start(SOON_ENOUGH)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said


@pytest.fixture
def ends(monkeypatch):
    """Returns the limits that end the process, from a watchdog whose clock the test advances."""
    ends = []
    monkeypatch.setattr(watchdog_module, "_end_process", lambda limit: ends.append(limit.what))
    return ends


def test_what_is_in_time_is_left_alone(ends):
    watchdog = Watchdog()
    for step in range(30):
        watchdog.beat(f"step {step}", 0.3)
        with watchdog.limit("the save", 0.3):
            watchdog._advance(0.3)
    assert ends == []


def test_what_is_late_is_named(ends):
    watchdog = Watchdog()
    watchdog.beat("step 1", 100)
    with watchdog.limit("no limit", 0), watchdog.limit("the save", 0.1):
        watchdog._advance(LONGEST_TICK)
        assert ends == []
        watchdog._advance(0.1)
    assert ends == ["the save"]


@pytest.mark.parametrize("disarm", [Watchdog.rest, lambda watchdog: watchdog.beat("step 2", 0)])
def test_what_is_over_is_forgotten(ends, disarm):
    watchdog = Watchdog()
    with pytest.raises(OSError), watchdog.limit("the save", 0.1):
        raise OSError
    watchdog.beat("step 1", 0.1)
    disarm(watchdog)
    watchdog._advance(10.0)
    assert ends == []


def test_leaving_ends_the_thread():
    with Watchdog():
        assert "watchdog" in {thread.name for thread in threading.enumerate()}
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}
