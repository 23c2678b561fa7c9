"""Shared memory of workers is removed once their trainer is gone, and not before."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import PATIENCE

from fsvfm_jax.data import segments

ROOT = Path(__file__).parent.parent
# Takes a batch now and then, as a trainer does; its workers make more ahead.
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
    """A process with two workers, all in a session of their own."""
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
    return list(segments.FOLDER.glob(f"{segments._prefix()}{process.pid}-*"))


def test_what_a_killed_group_left_is_removed_at_the_next_start(trainer):
    segments.remove_orphans()
    assert of(trainer)  # made ahead, for a trainer that lives
    os.killpg(trainer.pid, signal.SIGKILL)
    trainer.wait()
    # The workers die at moments of their own.
    until = time.monotonic() + PATIENCE
    while of(trainer) and time.monotonic() < until:
        segments.remove_orphans()
    assert of(trainer) == []


def test_other_files_are_left_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(segments, "FOLDER", tmp_path)
    prefix = segments._prefix()
    mine = f"{prefix}{os.getpid()}-{segments.state_and_start(os.getpid())[1]}-ab"
    names = [mine, "psm_12ab", f"{prefix}x", "fsvfm-1-2-3-4-ab"]
    for name in [*names, f"{prefix}{os.getpid()}-1-ab", f"{prefix}{2**22}-5-ab"]:
        (tmp_path / name).write_bytes(b"x")
    with caplog.at_level("WARNING", "fsvfm_jax"):
        segments.remove_orphans()
    assert "removed 2 segments" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == set(names)
