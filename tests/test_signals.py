"""Tests that a signal ends a command at once, until there is something to save."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from patience import PATIENCE

from fsvfm_jax.host import signals

ROOT = Path(__file__).parent.parent
HEADER = """
import contextlib, ctypes, os, signal, sys, time
from fsvfm_jax import cli, errors
from fsvfm_jax.host import signals

cli.begin(stopped="stopped: nothing new was saved")
"""
# Python's handlers wait for the end of this call: sleep() of C starts again after a signal.
COMPILING = """
library = ctypes.CDLL(None)
print("ready", flush=True)
while True:
    library.sleep(60)
"""
IN_PYTHON = """
print("ready", flush=True)
with cli.exit_codes():
    while True:
        sum(range(1000))
"""
IN_A_HANDLER = """
def slow(number, frame):
    while True:
        time.sleep(0.01)

signal.signal(signal.SIGUSR1, slow)
signal.raise_signal(signal.SIGUSR1) if print("ready", flush=True) is None else None
"""
STOPPED = "stopped: nothing new was saved\n"


def begin(body: str, *, ignored: tuple[int, ...] = ()) -> subprocess.Popen:
    # A shell starts background commands with SIGINT ignored.
    ways = dict.fromkeys((signal.SIGINT, signal.SIGHUP), signal.SIG_DFL)
    ways |= dict.fromkeys(ignored, signal.SIG_IGN)
    before = {number: signal.signal(number, way) for number, way in ways.items()}
    try:
        return subprocess.Popen(
            [sys.executable, "-c", HEADER + body],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},  # a TPU's library speaks on stderr
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        for number, way in before.items():
            signal.signal(number, way)


def end(process: subprocess.Popen) -> tuple[int, str]:
    said = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, said


@pytest.mark.parametrize(
    ("body", "number"),
    [
        (COMPILING, signal.SIGTERM),
        (COMPILING, signal.SIGHUP),
        (COMPILING, signal.SIGINT),
        (IN_PYTHON, signal.SIGINT),
        (IN_A_HANDLER, signal.SIGTERM),
    ],
)
def test_a_signal_ends_the_process_whatever_it_is_doing(body, number):
    process = begin(body)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert end(process) == (75, STOPPED)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_many_signals_are_as_one(number):
    body = "print('ready', flush=True)\nimport ml_collections, numpy, etils.epath\n" + IN_PYTHON
    process = begin(body)
    assert process.stdout.readline() == "ready\n"
    while process.poll() is None:
        process.send_signal(number)
        time.sleep(0.001)
    assert end(process) == (75, STOPPED)


def test_an_ignored_hangup_stays_ignored():
    """Tests the state of a process under `nohup`."""
    body = "print(signal.getsignal(signal.SIGHUP).name, flush=True)\n" + COMPILING
    process = begin(body, ignored=(signal.SIGHUP,))
    assert process.stdout.readline() == "SIG_IGN\n"
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (75, STOPPED)


def test_what_is_held_is_released(tmp_path):
    body = f"""
@contextlib.contextmanager
def lock():
    open({str(tmp_path / "lock")!r}, "w").close()
    yield
    os.unlink({str(tmp_path / "lock")!r})

class Odd(contextlib.nullcontext):
    def __exit__(self, *exception):
        raise RuntimeError

with signals.released_at_once(lock()), signals.released_at_once(Odd()):
{"".join("    " + line + chr(10) for line in COMPILING.strip().splitlines())}
"""
    process = begin(body)
    assert process.stdout.readline() == "ready\n"
    assert (tmp_path / "lock").exists()
    process.terminate()
    assert end(process) == (75, STOPPED)
    assert not (tmp_path / "lock").exists()


def test_a_release_that_hangs_is_not_waited_for_long():
    body = f"""
class Hangs(contextlib.nullcontext):
    def __exit__(self, *exception):
        time.sleep(10000)

signals.SECONDS_TO_RELEASE = 0.1
with signals.released_at_once(Hangs()):
{"".join("    " + line + chr(10) for line in COMPILING.strip().splitlines())}
"""
    process = begin(body)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert end(process) == (75, STOPPED)


SAVING = """
from fsvfm_jax.run.preemption import Preemption, StopWaiting
with cli.exit_codes(), Preemption() as preemption:
    preemption.begin_steps()
    print("ready", flush=True)
    while not preemption.requested():
        time.sleep(0.001)
    print("saving", flush=True)
    time.sleep({seconds})
    print("saved", flush=True)
    raise errors.Preempted("stopped and saved")
"""


@pytest.mark.e2e
def test_once_steps_are_done_the_first_signal_saves_however_many_come():
    process = begin(SAVING.format(seconds=0.3))
    assert process.stdout.readline() == "ready\n"
    while process.poll() is None:  # until Python has ended
        process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert process.stdout.read() == "saving\nsaved\n"
    assert end(process) == (75, "stopped and saved\n")


@pytest.mark.e2e
@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGINT])
def test_ctrl_c_after_the_first_signal_ends_at_once(first):
    process = begin(SAVING.format(seconds=10000))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(first)
    assert process.stdout.readline() == "saving\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, f"{signals.INTERRUPTED_SENTENCE}\n")


def test_ctrl_c_to_one_of_several_processes_ends_it_at_once_and_says_that_nothing_is_saved():
    body = """
import jax
jax.process_count = lambda: 2
from fsvfm_jax.run.preemption import Preemption
with Preemption() as preemption:
    preemption.begin_steps()
"""
    process = begin(body + "".join(f"    {line}\n" for line in COMPILING.strip().splitlines()))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, f"{signals.INTERRUPTED_SENTENCE}\n")


@pytest.mark.parametrize(("ending", "code"), [("pass", 0), ("raise errors.DataError('bad')", 65)])
def test_signals_at_the_end_change_nothing(ending, code):
    body = f"""
import atexit
atexit.register(lambda: (print("ready", flush=True), time.sleep(0.3)))
with cli.exit_codes():
    {ending}
"""
    process = begin(body)
    assert process.stdout.readline() == "ready\n"
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.001)
    assert end(process)[0] == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_forked_child_ends_by_a_signal_and_its_parent_does_not(number):
    body = """
child = os.fork()
if not child:
    print("ready", flush=True)
    time.sleep(60)
print("went on after", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
    process = begin(body)
    assert process.stdout.readline() == "ready\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), number)
    assert process.stdout.read() == f"went on after {-number}\n"
    assert end(process)[0] == 0


def test_a_test_or_notebook_that_has_no_listener_is_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    signals.save_first()
    signals.settle()
    assert signal.getsignal(signal.SIGTERM) is before
    held = threading.Lock()
    with signals.released_at_once(held):
        assert held.locked()
    assert not held.locked()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_came_too_late_to_be_noticed_ends_the_next_work(number):
    """Tests the time between two runs of one command, such as a comparison."""
    body = """
signals.save_first()
with cli.exit_codes():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    print("ready", flush=True)
    while not signals._listener._asked:
        time.sleep(0.01)
    print("the run is done", flush=True)
    signals.end_again()
    print("the next run", flush=True)
"""
    process = begin(body)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (75, STOPPED)
    assert "the run is done" in out and "the next run" not in out
