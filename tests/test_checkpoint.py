"""Tests saving and restoring the state with the position in the data."""

import contextlib
import errno
import shutil
import time
from types import SimpleNamespace

import golden_numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from patience import PATIENCE

from fsvfm_jax import optim, pretrain
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import distributed, sharding
from fsvfm_jax.errors import ConfigError, StorageError
from fsvfm_jax.models import build
from fsvfm_jax.run import integrity
from fsvfm_jax.run.checkpoint import Checkpoints
from fsvfm_jax.run.watchdog import Watchdog

TX = optim.make_optimizer(betas=(0.9, 0.95), weight_decay=0.05, grad_clip=1.0)


def make_state(**changes):
    model = build(golden_numbers.MODEL | changes)
    learner = pretrain.Pretraining(
        model=model,
        tx=TX,
        sample=golden_numbers.masks_of_bits,
        stats=Stats((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        loss=golden_numbers.LOSS,
        seed=0,
    )
    return jax.jit(learner.init)(jax.random.key(3))


@pytest.fixture(scope="module")
def state():
    return make_state()


def template_of(state):
    return sharding.state_template(state, sharding.make_mesh({"data": -1, "fsdp": 1}))


def open_checkpoints(path, **options) -> Checkpoints:
    return Checkpoints(epath.Path(path), **({"keep": 3} | options))


@pytest.mark.e2e
def test_a_state_comes_back_bit_for_bit(tmp_path, state):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore_newest_valid(template_of(state)) is None
        checkpoints.save(state, step=7, samples_seen=448)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        restored, samples_seen = checkpoints.restore_newest_valid(template_of(state))
    assert samples_seen == 448
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert len(ours.sharding.device_set) == jax.device_count()


@pytest.mark.e2e
def test_the_newest_is_restored_and_the_policy_kept(tmp_path, state):
    with open_checkpoints(tmp_path / "c", keep=2, keep_every=4) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(state, step=step, samples_seen=step)
    assert sorted(int(p.name) for p in (tmp_path / "c").iterdir()) == [4, 6, 7]
    with open_checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore_newest_valid(template_of(state)).samples_seen == 7


@pytest.mark.e2e
def test_the_best_are_kept_too(tmp_path, state):
    with open_checkpoints(tmp_path / "c", keep=1, keep_best=2) as checkpoints:
        for step, score in enumerate([0.9, 0.3, 0.5, 0.4, 0.8], start=1):
            checkpoints.save(state, step=step, samples_seen=step, score=score)
    assert sorted(int(p.name) for p in (tmp_path / "c").iterdir()) == [2, 4, 5]


@pytest.mark.e2e
def test_whoever_only_reads_leaves_a_save_that_is_going_on_alone(tmp_path, state):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state, step=7, samples_seen=448)
    going_on = tmp_path / "c" / "8.orbax-checkpoint-tmp-1"
    going_on.mkdir()
    shutil.copytree(tmp_path / "c" / "7", tmp_path / "c" / "8")  # Orbax has committed it
    (tmp_path / "c" / "8" / "manifest.json").unlink()
    (tmp_path / "saving.txt").write_text("8")
    with open_checkpoints(tmp_path / "c", keep=1, read_only=True) as checkpoints:
        assert checkpoints.restore_newest_valid(template_of(state)).samples_seen == 448
    assert going_on.exists()
    with open_checkpoints(tmp_path / "c"):
        pass
    assert not going_on.exists()  # leftovers of a killed run are removed when training starts


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 64}, r"float32\[2, 48\] there and float32\[2, 64\] in this config"),
        ({"depth": 3}, r"there and float32\[3, 48\] in this config"),
        ({"projection_hidden": 32}, r"fc1.* is float32\[64\] there and float32\[32\]"),
    ],
)
def test_a_checkpoint_of_another_size_is_refused(tmp_path, state, changes, message):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state, step=1, samples_seen=1)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        other = template_of(jax.eval_shape(lambda: make_state(**changes)))
        with pytest.raises(ConfigError, match=message):
            checkpoints.restore_newest_valid(other)


@pytest.mark.e2e
def test_a_saved_state_is_not_the_donated_one(tmp_path, state):
    """Overwrites the memory of the state while the save runs in the background."""
    moving = jax.tree.map(jnp.copy, state)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(moving, step=1, samples_seen=1)
        moving = step(moving)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        restored, _ = checkpoints.restore_newest_valid(template_of(state))
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)


def save_two(path, state, **options):
    """Saves steps 1 and 2; every number of step 2 is larger by 1."""
    with open_checkpoints(path, **options) as checkpoints:
        checkpoints.save(state, step=1, samples_seen=1)
        checkpoints.save(jax.tree.map(lambda x: x + 1, state), step=2, samples_seen=2)


def newest(path, state) -> int | None:
    with open_checkpoints(path) as checkpoints:
        restored = checkpoints.restore_newest_valid(template_of(state))
    if restored is None:
        return None
    saved = jax.device_get(state)
    expected = jax.tree.map(lambda x: x + (restored.samples_seen - 1), saved)
    jax.tree.map(np.testing.assert_array_equal, restored.state, expected)
    return restored.samples_seen


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("damage", "every"),
    [
        ("truncated", False),
        *(
            pytest.param(x, True, marks=pytest.mark.slow)
            for x in ("truncated", "zeroed", "deleted")
        ),
    ],
)
def test_the_valid_step_before_a_damaged_one_is_restored(tmp_path, state, damage, every, caplog):
    """Damages every file of the newest step in turn, or one file of each folder."""
    save_two(tmp_path / "original", state)
    names = [
        path.relative_to(tmp_path / "original" / "2")
        for path in sorted((tmp_path / "original" / "2").rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    assert len(names) > 5
    if not every:
        names = list({name.parent: name for name in names}.values())
    for index, name in enumerate(names):
        workdir = tmp_path / str(index)
        shutil.copytree(tmp_path / "original", workdir / "c")
        file = workdir / "c" / "2" / name
        content = file.read_bytes()
        if damage == "deleted":
            file.unlink()
        else:
            file.write_bytes(content[: len(content) // 2] if damage == "truncated" else bytes(9))
        caplog.clear()
        assert newest(workdir / "c", state) == 1, name
        assert "quarantined" in caplog.text and (workdir / "quarantine" / "2-1").is_dir()
        # The number can be used again, and a step saved with it is the newest.
        if index == 0:
            save_two(workdir / "c", state)
            assert newest(workdir / "c", state) == 2


def test_without_any_valid_step_nothing_is_begun_anew(tmp_path, state):
    save_two(tmp_path / "c", state)
    for step in ("1", "2"):
        (tmp_path / "c" / step / "data" / "metadata").write_text("{}")
    with pytest.raises(StorageError, match=r"no checkpoint in .* can be trusted: .*has changed"):
        newest(tmp_path / "c", state)
    assert len(list((tmp_path / "quarantine").iterdir())) == 2


@pytest.mark.e2e
def test_a_run_that_died_before_its_first_step_was_whole_begins_anew(tmp_path, state):
    save_two(tmp_path / "c", state)
    shutil.rmtree(tmp_path / "c" / "1")
    (tmp_path / "c" / "2" / "manifest.json").unlink()
    (tmp_path / "saving.txt").write_text("2")
    assert newest(tmp_path / "c", state) is None
    assert list((tmp_path / "c").iterdir()) == []


@pytest.mark.e2e
def test_a_reader_passes_over_what_is_damaged_and_touches_nothing(tmp_path, state):
    save_two(tmp_path / "c", state)
    (tmp_path / "c" / "2" / "data" / "metadata").write_text("{}")
    with open_checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert checkpoints.restore_newest_valid(template_of(state)).samples_seen == 1
    assert sorted(path.name for path in tmp_path.rglob("*")).count("quarantined.txt") == 0


def test_older_steps_go_only_once_the_newer_one_counts(tmp_path, state, monkeypatch):
    seen = []

    def finish_step(*arguments, **options):
        seen.append(sorted(path.name for path in (tmp_path / "c").iterdir()))
        original(*arguments, **options)

    original = integrity.finish_step
    monkeypatch.setattr(integrity, "finish_step", finish_step)
    save_two(tmp_path / "c", state, keep=1)
    assert seen == [["1"], ["1", "2"]]
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["2"]


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.e2e
def test_a_save_that_fails_in_the_background_is_noticed(tmp_path, state, monkeypatch):
    save_two(tmp_path / "c", state)
    with monkeypatch.context() as patch:
        patch.setattr(integrity, "finish_step", full_disk)
        with (
            pytest.raises(StorageError, match=r"checkpoint 3 could not be saved .*No space left"),
            open_checkpoints(tmp_path / "c") as checkpoints,
        ):
            checkpoints.save(state, step=3, samples_seen=3)
            for _ in range(10 * PATIENCE):
                time.sleep(0.1)
                checkpoints.check()
    assert newest(tmp_path / "c", state) == 2
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(jax.tree.map(lambda x: x + 2, state), step=3, samples_seen=3)
    assert newest(tmp_path / "c", state) == 3


def test_the_last_save_may_fail_too(tmp_path, state, monkeypatch):
    monkeypatch.setattr(integrity, "finish_step", full_disk)
    checkpoints = open_checkpoints(tmp_path / "c")
    with pytest.raises(StorageError, match="No space left"), checkpoints:
        checkpoints.save(state, step=1, samples_seen=1)


def test_the_question_for_room_has_a_limit(tmp_path, state, monkeypatch):
    """Asks all processes, of which one may never answer."""
    running, asked = [], []

    class Watched(Watchdog):
        @contextlib.contextmanager
        def limit(self, what, seconds):
            running.append((what, seconds))
            yield
            running.pop()

    def number_of_processes(value):
        asked.append(running[-1:])
        return int(value)

    monkeypatch.setattr(distributed, "number_of_processes", number_of_processes)
    with open_checkpoints(tmp_path / "c", watchdog=Watched(), save_seconds=5) as checkpoints:
        checkpoints.save(state, step=3, samples_seen=3)
    assert asked[-1:] == [[("saving checkpoint 3 (config.watchdog.save_seconds)", 5)]]


@pytest.mark.e2e
def test_without_room_nothing_is_written(tmp_path, state, monkeypatch):
    save_two(tmp_path / "c", state)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    checkpoints = open_checkpoints(tmp_path / "c")
    with pytest.raises(StorageError, match=r"0\.0 MB left and a checkpoint takes"), checkpoints:
        checkpoints.save(state, step=3, samples_seen=3)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "2"]
