"""Tests the loop from end to end in this process: resume, devices, accumulation, errors."""

import itertools
import json
import os
import re
import shutil
import signal
import threading
from functools import partial
from pathlib import Path

import golden_numbers
import jax
import numpy as np
import pytest
import tiny
from etils import epath
from PIL import Image
from tiny import read_metrics, restore, tiny_config, without_rate

from fsvfm_jax import optim, pretrain, train
from fsvfm_jax.convert.reference import to_state_dict
from fsvfm_jax.data.elements import pretraining_element
from fsvfm_jax.data.pipeline import make_iterator
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import compilation, sharding
from fsvfm_jax.errors import ConfigError, DataError, NotFiniteError, Preempted, StorageError
from fsvfm_jax.host.pictures import LINE_HEIGHT
from fsvfm_jax.prepare.pack import pack
from fsvfm_jax.run import faults, guard, start_stats, tracking
from fsvfm_jax.run.lock import RunLock
from fsvfm_jax.run.pictures import PICTURE_ROWS
from fsvfm_jax.train_state import StepValues, TrainState

pytestmark = pytest.mark.e2e

STEPS = 10
SHORT = {"epochs": 4, "schedule_epochs": 8, "checkpoint.every": 5}


def run(workdir: Path, changes: dict | None = None, **options) -> None:
    """Pretrains in this process, for ten steps if the changes do not say otherwise."""
    tiny.run(workdir, SHORT | (changes or {}), **options)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    run(workdir)
    return workdir


def test_a_run_leaves_what_its_users_look_for(straight):
    lines = read_metrics(straight)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert {
        *("epoch", "loss", "loss_rec", "loss_region", "loss_sim", "loss_sim_constant"),
        *("variance_q", "variance_z", "masked_fraction", "grad_norm", "lr", "teacher_momentum"),
    } <= lines[1].keys()
    assert lines[0]["lr"] == 0 and lines[0]["teacher_momentum"] == 0.99
    assert all(line["masked_fraction"] == 0.75 for line in lines)
    for line in lines:
        total = line["loss_rec"] + 0.007 * line["loss_region"] + 0.1 * line["loss_sim"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    stored = json.loads((straight / "config.json").read_text())
    assert stored["teacher"]["mode"] == "ema"
    with Image.open(straight / "images" / "reconstruction_0000010.png") as picture:
        texts = (4 + 1) * LINE_HEIGHT  # the caption and the titles
        assert picture.size == (3 * 96 + 2 * 2, texts + 8 * 96 + 7 * 2)
    table = (straight / "parameters.txt").read_text()
    assert "blocks/attn/qkv/kernel" in table and "Total: " in table
    assert sorted(int(p.name) for p in (straight / "checkpoints").iterdir()) == [5, 10]


def test_resume_is_bit_identical(straight, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    original = tracking.Tracker.step

    def step_until_7(self, step, metrics, **options):
        original(self, step, metrics, **options)
        if step == 7:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(tracking.Tracker, "step", step_until_7)
        run(tmp_path)
    assert [line["step"] for line in read_metrics(tmp_path)][-1] == 7
    run(tmp_path)
    assert without_rate(read_metrics(tmp_path)) == without_rate(read_metrics(straight))
    ours, theirs = restore(tmp_path, tiny_config()), restore(straight, tiny_config())
    assert ours.samples_seen == theirs.samples_seen == STEPS * 16
    jax.tree.map(np.testing.assert_array_equal, ours.state, theirs.state)


def test_a_finished_run_starts_and_ends_at_once(straight, monkeypatch):
    monkeypatch.setattr(train, "compile_for_devices", None)  # nothing is compiled
    before = (straight / "metrics.jsonl").read_text()
    run(straight)
    assert (straight / "metrics.jsonl").read_text() == before


def test_a_checkpoint_of_another_size_is_refused_and_kept(straight):
    stored = (straight / "config.json").read_text()
    with pytest.raises(ConfigError, match="of another model"):
        run(straight, {"model.width": 64})
    assert (straight / "config.json").read_text() == stored
    assert restore(straight, tiny_config()).samples_seen == STEPS * 16


def train_on(data: int, fsdp: int, *, steps: int) -> tuple[list[float], TrainState]:
    """Trains on so many devices, from the state that one device has drawn."""
    config = tiny_config({"mesh.data": data, "mesh.fsdp": fsdp})
    task = pretrain.make_learner(config, stats=Stats(config.data.mean, config.data.std))
    mesh = sharding.make_mesh(config.mesh, jax.devices()[: data * fsdp])
    template = compilation.state_template(task, mesh)
    state = jax.jit(task.init)(jax.random.key(0))
    state = jax.device_put(state, sharding.shardings_of(template))
    step = compilation.lower_step(task, mesh, batch_size=16).compile()
    source = SyntheticFaces(40, image_size=32, seed=0)
    batches = make_iterator(
        source, global_batch_size=16, element=partial(pretraining_element, patch_size=8), seed=0
    )
    losses = []
    for batch in itertools.islice(batches, steps):
        values = StepValues(np.float32(1e-3), np.float32(0.01))
        state, metrics = step(state, sharding.put_batch(batch, mesh), values)
        losses.append(float(metrics["loss"]))
    batches.close()
    return losses, state


def test_the_first_state_is_the_same_on_every_mesh():
    config = tiny_config()
    task = pretrain.make_learner(config, stats=Stats(config.data.mean, config.data.std))
    states = []
    for data, fsdp in ((1, 1), (2, 4)):
        mesh = sharding.make_mesh({"data": data, "fsdp": fsdp}, jax.devices()[: data * fsdp])
        template = compilation.state_template(task, mesh)
        states.append(jax.device_get(compilation.fresh_state(task, template, seed=0)))
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_one_device_and_eight_give_the_same_losses():
    one, _ = train_on(1, 1, steps=12)
    assert one[-1] < 0.9 * one[0]
    eight, _ = train_on(2, 4, steps=8)
    np.testing.assert_allclose(eight, one[:8], rtol=1e-5)


@pytest.mark.slow
def test_every_mesh_gives_the_same_losses_and_parameters():
    one, state = train_on(1, 1, steps=50)
    for data, fsdp in ((8, 1), (1, 8), (2, 4), (4, 2)):
        losses, other = train_on(data, fsdp, steps=50)
        np.testing.assert_allclose(losses, one, rtol=1e-5)
        for branch in ("params", "teacher_params"):
            theirs = to_state_dict(getattr(state, branch))
            ours = to_state_dict(getattr(other, branch))
            for name in theirs:
                if not np.any(theirs[name]):
                    continue
                pair = (golden_numbers.drop_key_third(name, x[name]) for x in (ours, theirs))
                assert golden_numbers.relative_difference(*pair) < 1e-5, (data, fsdp, name)


@pytest.mark.slow  # test_optim.py and test_finetune.py have the same in a smaller way
def test_micro_batches_give_the_gradient_of_the_large_batch():
    moments = []
    for accum_steps in (1, 4):
        config = tiny_config(
            {
                "mask.strategy": "random",
                "batch_size": 32,
                "optimizer.grad_clip": 0.0,
            }
        )
        task = pretrain.make_learner(config, stats=Stats(config.data.mean, config.data.std))
        state = jax.jit(task.init)(jax.random.key(0))
        batches = make_iterator(
            SyntheticFaces(40, image_size=32, seed=0),
            global_batch_size=32,
            element=partial(pretraining_element, patch_size=8),
            seed=0,
        )
        batch = sharding.put_batch(next(batches), sharding.make_mesh(config.mesh))
        values = StepValues(np.float32(1e-3), np.float32(0.01))
        step = partial(task.train_step, accum_steps=accum_steps)
        state, _ = jax.jit(step)(state, batch, values)
        batches.close()
        # The first moment after one step is the gradient times 1 - beta.
        moments.append(next(s.mu for s in state.opt_state if hasattr(s, "mu")))
    whole, micro = moments
    whole, micro = to_state_dict(whole), to_state_dict(micro)
    for name in whole:
        a, b = (golden_numbers.drop_key_third(name, tree[name]) for tree in (whole, micro))
        assert golden_numbers.relative_difference(b, a) < 1e-5, name


def test_not_finite_names_the_step_and_saves_nothing(tmp_path, ask):
    config = tiny_config()
    run(tmp_path, {"epochs": 2, "schedule_epochs": 8})  # leaves a good checkpoint at step 5
    ask("step:*:nan")
    with pytest.raises(NotFiniteError, match="not finite"):
        run(tmp_path, {"checkpoint.every": 1})
    assert NotFiniteError.exit_code == 72
    restored = restore(tmp_path, config)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(restored.state))


def test_check_reads_plans_and_writes_nothing(tmp_path, caplog):
    with caplog.at_level("INFO", "fsvfm_jax"):
        run(tmp_path / "run", check_only=True)
    assert not (tmp_path / "run").exists()
    text = caplog.text
    assert "effective batch: 16 = 8 devices x 2 x 1" in text
    assert "40 samples, 4 epochs of 2.5 steps = 10 steps" in text
    assert "memory per device" in text and "nothing was trained" in text
    assert "compiled the step for batches of 16, read 8 of 40 faces" in text
    assert "data: 40 faces, synthetic" in text
    assert re.search(r"model: [\d,]+ trainable parameters of [\d,]+, in \d+ arrays", text)


def test_check_reads_a_few_faces_only(tmp_path, monkeypatch):
    read = []
    original = SyntheticFaces.__getitem__

    def get(self, index):
        read.append(index)
        return original(self, index)

    monkeypatch.setattr(SyntheticFaces, "__getitem__", get)
    monkeypatch.setattr(train, "compile_for_devices", lambda *arguments: None)
    run(tmp_path / "run", {"batch_size": 4096, "data.num_samples": 9000}, check_only=True)
    assert 1 <= len(read) <= PICTURE_ROWS


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"init.params": "nowhere.pth"}, DataError, "'nowhere.pth' does not exist"),
        ({"init.params": "README.md"}, DataError, "README.md"),
        (
            {"data.source": "folder", "data.paths": ("nowhere",)},
            DataError,
            "nowhere does not exist",
        ),
        ({"mesh.data": 3}, ConfigError, r"config\.mesh\.data = 3"),
    ],
)
def test_a_failed_start_leaves_no_folder(tmp_path, monkeypatch, changes, error, message):
    monkeypatch.setattr(train, "compile_for_devices", None)  # before the compilation
    with pytest.raises(error, match=message):
        run(tmp_path / "runs" / "a", changes)
    assert not (tmp_path / "runs").exists()
    # A folder that existed before stays, empty.
    (tmp_path / "old").mkdir()
    with pytest.raises(error, match=message):
        run(tmp_path / "old", changes)
    assert not list((tmp_path / "old").iterdir())


def test_missing_weights_are_told_before_the_data_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(start_stats, "compute_stats", None)
    changes = {"data.mean": None, "data.std": None, "init.params": "nowhere"}
    for options in ({}, {"check_only": True}):
        with pytest.raises(DataError, match=r"config\.init\.params = 'nowhere' does not exist"):
            run(tmp_path / "run", changes, **options)


def test_a_start_that_does_not_fit_into_memory_leaves_no_folder(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise ConfigError("the training step does not fit")

    monkeypatch.setattr(train, "compile_for_devices", refuse)
    with pytest.raises(ConfigError, match="does not fit"):
        run(tmp_path / "runs" / "a")
    assert not (tmp_path / "runs").exists()


def test_a_failed_start_in_a_run_changes_nothing_of_it(straight, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise ConfigError("the training step does not fit")

    shutil.copytree(straight, tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    monkeypatch.setattr(train, "compile_for_devices", refuse)
    with pytest.raises(ConfigError, match="does not fit"):
        run(tmp_path / "run", {"epochs": 9, "schedule_epochs": 9, "tracking.log_every": 2})
    after = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert after == before


@pytest.mark.slow  # test_start_stats.py has the same without a run
def test_statistics_are_computed_once_and_stored(tmp_path, monkeypatch):
    changes = {"epochs": 1, "schedule_epochs": 8, "data.mean": None, "data.std": None}
    run(tmp_path, changes)
    stored = json.loads((tmp_path / "data_stats.json").read_text())
    assert all(0 < value < 1 for value in stored["mean"] + stored["std"])
    monkeypatch.setattr(start_stats, "compute_stats", None)  # not called again
    run(tmp_path, changes | {"epochs": 2})


@pytest.fixture
def face_folder(tmp_path):
    root = tmp_path / "faces"
    (root / "images" / "sub").mkdir(parents=True)
    (root / "parsing_maps" / "sub").mkdir(parents=True)
    source = SyntheticFaces(5, image_size=48, seed=0)
    for i in range(5):
        Image.fromarray(source[i]["image"]).save(root / "images" / "sub" / f"{i}.png")
        np.save(root / "parsing_maps" / "sub" / f"{i}.npy", source[i]["parsing_map"][None])
    return root


def test_a_folder_smaller_than_the_batch_is_trained_on(face_folder, tmp_path):
    changes = {
        "data.source": "folder",
        "data.paths": (str(face_folder), str(face_folder)),
        "epochs": 4,
        "optimizer.warmup_epochs": 0,
    }
    run(tmp_path / "run", changes)
    assert len(read_metrics(tmp_path / "run")) == 3  # ceil(4 * 10 / 16)


@pytest.mark.slow  # test_prepare.py trains on a packed set
def test_a_packed_set_is_trained_on_and_its_damage_told(face_folder, tmp_path):
    pack(str(face_folder), str(tmp_path / "set"), encoding="raw", image_size=32)
    changes = {
        "data.source": "tfds",
        "data.paths": (str(tmp_path / "set"),),
        "data.mean": None,
        "data.std": None,
        "epochs": 10,
        "schedule_epochs": 10,
        "optimizer.warmup_epochs": 0,
    }
    run(tmp_path / "run", changes)
    lines = read_metrics(tmp_path / "run")
    assert len(lines) == 4 and {line["replaced_samples"] for line in lines} == {0}
    # The set contains the statistics, and they must be stored with the weights.
    stored = json.loads((tmp_path / "run" / "data_stats.json").read_text())
    assert len(stored["mean"]) == len(stored["std"]) == 3
    (shard,) = (tmp_path / "set").glob("*.array_record*")
    content = bytearray(shard.read_bytes())
    record = FaceRecords(str(tmp_path / "set"), image_size=32).records([2])[0]
    content[content.index(record.image[:64])] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"record \d of .*array_record-00000-of-00001 is damaged"):
        run(tmp_path / "again", changes)
    run(tmp_path / "skipping", changes | {"data.skip_corrupt": 20})
    assert read_metrics(tmp_path / "skipping")[-1]["replaced_samples"] > 0


def test_a_bad_file_ends_the_run_by_its_name(face_folder, tmp_path):
    np.save(face_folder / "parsing_maps" / "sub" / "3.npy", np.full((1, 48, 48), 11, np.int8))
    with pytest.raises(DataError, match=r"3\.npy holds class 11"):
        changes = {"data.source": "folder", "data.paths": (str(face_folder),)}
        run(tmp_path / "run", changes | {"epochs": 30, "schedule_epochs": 30})


def test_an_uneven_batch_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.batch_size = 12"):
        run(tmp_path / "run", {"batch_size": 12})
    assert not (tmp_path / "run").exists()


def test_schedule_of_the_released_recipe_outlives_the_run():
    config = tiny_config(SHORT | {"recipe": "released"})
    schedule = optim.make_schedule(config, 40)
    assert schedule.total_steps == STEPS
    assert schedule.learning_rate(STEPS) > 0.4 * schedule.peak_learning_rate
    assert schedule.teacher_rate(0) == 0


def test_sigterm_saves_the_step_and_says_so(straight, tmp_path, monkeypatch):
    original = tracking.Tracker.step

    def step_with_signal_at_3(self, step, metrics, **options):
        original(self, step, metrics, **options)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(Preempted, match=r"stopped at step [45]"):
        patch.setattr(tracking.Tracker, "step", step_with_signal_at_3)
        run(tmp_path)
    assert Preempted.exit_code == 75
    assert not (tmp_path / "run.lock").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    run(tmp_path)
    assert without_rate(read_metrics(tmp_path)) == without_rate(read_metrics(straight))


def test_sigterm_whose_save_fails_does_not_say_that_it_saved(tmp_path, ask):
    ask("step:3:term,manifest:3:enospc")
    with pytest.raises(StorageError, match="checkpoint 3 could not be saved"):
        run(tmp_path)


def signal_after(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()


def test_sigterm_does_not_wait_for_a_batch_that_never_comes(tmp_path, ask, straight, monkeypatch):
    ask("data:4:sleep")
    original = faults.fault

    def fault(point, step, **options):
        if (point, step) == ("data", 4):
            signal_after(1.0)
        original(point, step, **options)

    with monkeypatch.context() as patch:
        patch.setattr(guard, "fault", fault)
        with pytest.raises(Preempted, match="stopped at step 3 and saved"):
            run(tmp_path)
    ask("")
    run(tmp_path)
    assert without_rate(read_metrics(tmp_path)) == without_rate(read_metrics(straight))


@pytest.mark.parametrize("point", ["restore", "compile"])
def test_sigterm_before_the_first_step_saves_nothing_new(tmp_path, ask, point):
    ask(f"{point}:0:term")
    with pytest.raises(Preempted, match="before the first step: nothing new was saved"):
        run(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_second_trainer_is_refused(tmp_path):
    with RunLock(epath.Path(tmp_path)), pytest.raises(StorageError, match="is in use by process"):
        run(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow  # test_checkpoint.py has the failed save
def test_a_failed_save_ends_the_run_within_a_step(tmp_path, ask):
    ask("manifest:3:enospc")
    with pytest.raises(StorageError, match=r"checkpoint 3 could not be saved .*No space left"):
        run(tmp_path, {"checkpoint.every": 3})  # the next save raises the error at the latest
    steps = [line["step"] for line in read_metrics(tmp_path)]
    assert steps[-1] <= 6
    ask("")
    run(tmp_path)
    assert int(restore(tmp_path, tiny_config()).state.step) == STEPS
