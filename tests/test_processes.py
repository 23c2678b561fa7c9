"""Whether a process is still the one that it was."""

import os
import subprocess
import sys

from fsvfm_jax.processes import is_alive, pid_namespace, state_and_start


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
