"""Hashes of saved steps, and what becomes of those that are not as they were written."""

import json
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax import integrity


@pytest.fixture
def step(tmp_path):
    """A step of a few files, valid."""
    step = epath.Path(tmp_path / "checkpoints" / "7")
    (step / "state" / "d").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("state/d/0", "state/d/1", "state/manifest.json", "metadata", "empty"):
        (step / name).write_bytes(rng.bytes(0 if name == "empty" else 300))
    integrity.write_manifest(step)
    return step


def files(step):
    return sorted(epath.Path(path) for path in Path(step).rglob("*") if path.is_file())


def test_every_file_is_in_the_manifest(step):
    listed = json.loads((step / "manifest.json").read_text())["files"]
    assert listed.keys() == {str(p.relative_to(step)) for p in files(step)} - {"manifest.json"}
    assert integrity.damage(step) is None


def test_no_flipped_bit_goes_unseen(step):
    """200 bits, spread over all files; in the manifest itself some change nothing."""
    rng = np.random.default_rng(1)
    everything = [file for file in files(step) if file.stat().length]
    listed = json.loads((step / "manifest.json").read_text())
    for count in range(200):
        file = everything[count % len(everything)]
        original = file.read_bytes()
        changed = bytearray(original)
        changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
        file.write_bytes(bytes(changed))
        reason = integrity.damage(step)
        if reason is None:
            assert file.name == "manifest.json" and file.parent == step
            assert json.loads(file.read_text()) == listed
        file.write_bytes(original)
    assert integrity.damage(step) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: (s / "metadata").unlink(), "metadata is missing"),
        (lambda s: (s / "state" / "d" / "1").write_bytes(b""), "state/d/1 has changed"),
        (lambda s: (s / "empty").write_bytes(b"x"), "empty has changed"),
        (lambda s: (s / "more").write_bytes(b"x"), "more was added"),
        (lambda s: (s / "manifest.json").unlink(), "has no manifest.json"),
        (lambda s: (s / "manifest.json").write_bytes(b""), "cannot be read"),
        (lambda s: (s / "manifest.json").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda s: (s / "manifest.json").write_text("[1]"), "cannot be read"),
        (lambda s: (s / "state" / "d").rmtree(), "state/d/0 is missing"),
        (lambda s: integrity.quarantine(s, "a reason"), "a reason"),
    ],
)
def test_damage_is_named(step, change, reason):
    change(step)
    assert reason in integrity.damage(step)


def test_what_is_quarantined_is_moved_whole_and_nothing_is_lost(step):
    directory = step.parent
    for count in (1, 2):
        integrity.quarantine(step, "a reason")
        integrity.tidy(directory)
        assert integrity.steps(directory) == []
        moved = directory.parent / "quarantine" / f"7-{count}"
        assert (moved / "quarantined.txt").read_text() == "a reason\n"
        assert len(files(moved)) == (7 if count == 1 else 2)
        step.mkdir()
        (step / "commit_success.txt").write_text("again")


def test_a_deletion_that_was_cut_off_is_finished(step):
    directory = step.parent
    (step / "retired.txt").write_text("of no more use")
    (step / "manifest.json").unlink()
    integrity.tidy(directory)
    assert list(directory.iterdir()) == []


def test_what_was_never_written_whole_is_deleted_and_all_else_left_alone(step):
    directory = step.parent
    for name in ("8.orbax-checkpoint-tmp-1", "9/state", "10/state", "notes"):
        (directory / name).mkdir(parents=True)
    (directory / "10" / "commit_success.txt").write_text("")
    integrity.tidy(directory)
    assert integrity.steps(directory) == [7, 10]
    assert {path.name for path in directory.iterdir()} == {"7", "10", "notes"}
    assert integrity.steps(directory / "missing") == []


@given(st.sets(st.integers(1, 60), max_size=20).map(sorted), st.integers(1, 5), st.integers(0, 7))
def test_the_policy(numbers, keep, keep_every):
    kept = integrity.retained(numbers, keep=keep, keep_every=keep_every)
    assert kept <= set(numbers) and kept >= set(numbers[-keep:])
    others = kept - set(numbers[-keep:])
    multiples = {n for n in numbers if keep_every and n % keep_every == 0}
    assert others == multiples - set(numbers[-keep:])
