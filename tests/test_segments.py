"""Tests that shared memory of workers is removed after their trainer ends, and not before."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

from fsvfm_jax.data import segments
from fsvfm_jax.errors import StorageError

ROOT = Path(__file__).parent.parent
# Takes a batch now and then, as a trainer does, while the workers prepare others.
TRAINER = """
import time
from functools import partial
from absl import flags
from fsvfm_jax.data.elements import pretraining_element
from fsvfm_jax.data.pipeline import make_iterator
from fsvfm_jax.data.sources import SyntheticFaces
if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    source = SyntheticFaces(64, image_size=32, seed=0)
    element = partial(pretraining_element, patch_size=8)
    batches = make_iterator(
        source, element=element, global_batch_size=8, seed=0, num_workers=2
    )
    for _ in range(3):
        next(batches)
    print("ready", flush=True)
    time.sleep(600)
"""

pytestmark = pytest.mark.skipif(not segments.FOLDER.is_dir(), reason="there is no /dev/shm")


@pytest.fixture
def trainer(tmp_path):
    """Starts a process with two workers in a session of its own."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "trainer.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    segments.remove_orphans()


def of(process):
    prefix = f"{segments._prefix()}{process.pid}-"
    return [*segments.FOLDER.glob(f"{prefix}*"), *segments.FOLDER.glob(f"sem.{prefix}*")]


def test_what_a_killed_group_left_is_removed_at_the_next_start(trainer):
    segments.remove_orphans()
    names = [path.name for path in of(trainer)]  # prepared for a trainer that is alive
    assert {name.startswith("sem.") for name in names} == {True, False}
    os.killpg(trainer.pid, signal.SIGKILL)
    trainer.wait()
    # Each worker ends at its own time.
    until = time.monotonic() + PATIENCE
    while of(trainer) and time.monotonic() < until:
        segments.remove_orphans()
    assert of(trainer) == []


def test_other_files_are_left_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(segments, "FOLDER", tmp_path)
    prefix = segments._prefix()
    mine = f"{prefix}{os.getpid()}-{segments.state_and_start(os.getpid())[1]}-ab"
    names = [mine, f"sem.{mine}", "psm_12ab", "sem.mp-a_b1c2d3", f"{prefix}x", "fsvfm-1-2-3-4-ab"]
    dead = [f"{prefix}{os.getpid()}-1-ab", f"{prefix}{2**22}-5-ab", f"sem.{prefix}{2**22}-5-a_z9"]
    for name in [*names, *dead]:
        (tmp_path / name).write_bytes(b"x")
    with caplog.at_level("WARNING", "fsvfm_jax"):
        segments.remove_orphans()
    assert "removed 3 segments" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_hostile_names_and_kinds_of_files_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "FOLDER", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    (tmp_path / "precious").write_bytes(b"x")
    dead = f"{segments._prefix()}{2**22}-5-"
    kept = [
        f"{segments._prefix()}{'9' * 100}-5-ab",
        f"{segments._prefix()}-1-5-ab",
        f"{segments._prefix()}\u0663-5-ab",
        f"{dead}ab\n",
        f"{dead}AB",
    ]
    for name in kept:
        (tmp_path / "shm" / name).touch()
    (tmp_path / "shm" / f"{segments._prefix()}9999999999-{'9' * 20}-ab").touch()
    (tmp_path / "shm" / f"{segments._prefix()}0-5-ab").touch()
    (tmp_path / "shm" / f"{dead}a").symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / "shm" / f"{dead}b")
    (tmp_path / "shm" / f"{dead}c").mkdir()
    segments.remove_orphans()
    assert {path.name for path in (tmp_path / "shm").iterdir()} == {*kept, f"{dead}c"}
    assert (tmp_path / "precious").read_bytes() == b"x"


def test_files_of_other_users_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "FOLDER", tmp_path)
    file = tmp_path / f"{segments._prefix()}{2**22}-5-ab"
    file.touch()
    prefix = segments._prefix()
    monkeypatch.setattr(segments, "_prefix", lambda: prefix)
    monkeypatch.setattr(os, "getuid", lambda: file.stat().st_uid + 1)
    segments.remove_orphans()
    assert file.exists()


@pytest.mark.parametrize("shape", [(), (3,), (5, 4, 3), (300, 300)])
def test_rows_in_shared_memory_are_the_rows_of_stack(shape):
    rows = [
        np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(np.uint16)[...] + i
        for i in range(3)
    ]
    if len(shape) > 1:
        rows = [row.swapaxes(0, 1) for row in rows]  # rows that are not contiguous
    stacked = segments.stack_in_shared_memory(rows)
    stacked.unlink_on_del()
    assert stacked.dtype == rows[0].dtype
    np.testing.assert_array_equal(stacked, np.stack(rows))


def test_full_memory_is_one_sentence_and_leaves_no_segment(monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    before = set(segments.FOLDER.iterdir())
    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(StorageError, match=r"no room for 12 bytes .*more shared memory"):
        segments.stack_in_shared_memory([np.zeros(12, np.uint8)])
    monkeypatch.undo()
    assert not {x for x in set(segments.FOLDER.iterdir()) - before if x.name.startswith("psm_")}
