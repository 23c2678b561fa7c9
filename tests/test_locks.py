"""Tests that one process at a time works in a folder."""

import errno
import subprocess
import sys

import pytest

from fsvfm_jax.errors import ConfigError, StorageError
from fsvfm_jax.host.locks import alone_in

HOLD = """
from pathlib import Path
from fsvfm_jax.host.locks import alone_in
with alone_in(Path({!r}), doing="packs"):
    print("held", flush=True)
    input()
"""


def test_a_second_process_is_refused_until_the_first_one_ends(tmp_path):
    folder = tmp_path / "new"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD.format(str(folder))], **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        message = r"another process packs .*new; wait for it, or name another folder"
        with pytest.raises(ConfigError, match=message), alone_in(folder, doing="packs"):
            pass
        holder.kill()
    with alone_in(folder, doing="packs"):
        pass
    assert not any(folder.iterdir())


def test_an_error_of_the_work_is_not_taken_for_another_process(tmp_path):
    with pytest.raises(BlockingIOError, match="fork"), alone_in(tmp_path, doing="measures in"):
        raise BlockingIOError(errno.EAGAIN, "fork: try again")


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    message = "cannot be locked .*choose another folder"
    with pytest.raises(StorageError, match=message), alone_in(tmp_path, doing="packs"):
        pass
