"""Tests that Weights & Biases gets the numbers of a run, under one id in all its starts."""

import importlib.util
import json
import logging
import sys
from types import ModuleType

import numpy as np
import pytest
import tiny
from commands import start
from etils import epath
from golden_files import need
from odd_json import CONTENTS
from patience import PATIENCE

from fsvfm_jax.errors import ConfigError, StorageError
from fsvfm_jax.run import tracking, wandb_run
from fsvfm_jax.run.wandb_run import RUN_FILE, WandbRun, check_trackers, open_others


class FakeRun:
    """Records what it receives; `fails` makes every call raise an error."""

    def __init__(self) -> None:
        self.lines: list[dict] = []
        self.fails = False
        self.finished = False

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, content: dict) -> None:
        if self.fails:
            raise RuntimeError("the service is down")
        self.lines.append(content)

    def finish(self) -> None:
        if self.fails:
            raise RuntimeError("the service is down")
        self.finished = True


@pytest.fixture
def fake(monkeypatch):
    """Puts a stand-in in the place of the library, and returns it."""
    module = ModuleType("wandb")
    module.Error = type("Error", (Exception,), {})
    module.Settings = lambda **options: options
    module.Image = lambda grid: ("image", grid.shape)
    module.run, module.options = FakeRun(), []

    def init(**options):
        module.options.append(options)
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_it_gets_the_numbers_and_pictures_that_the_files_get(fake, tmp_path):
    workdir = epath.Path(tmp_path)
    config = tiny.tiny_config({"tracking.also": ("wandb",)})
    options = {"start_step": 0, "total_steps": 2, "steps_per_epoch": 2.0, "images_per_step": 16}
    with (
        open_others(config, workdir) as others,
        tracking.Tracker(workdir, log_every=1, others=others, **options) as tracker,
    ):
        tracker.step(1, {"loss": 2.0})
        tracker.step(2, {"loss": 1.0}, probe={"probe_rankme": 3.0})
        tracker.validation(2, {"val_loss": 0.5})
        tracker.images(2, "picture", np.zeros((4, 5, 3), np.uint8))
    lines = fake.run.lines
    assert lines[0] == {"step": 1, "epoch": 0.5, "loss": 2.0}
    assert lines[1]["probe_rankme"] == 3.0 and lines[1]["step"] == 2
    assert {x: lines[2][x] for x in ("step", "epoch/loss")} == {"step": 2, "epoch/loss": 1.5}
    assert lines[3:] == [{"step": 2, "val_loss": 0.5}, {"step": 2, "picture": ("image", (4, 5, 3))}]
    assert fake.run.finished
    (options,) = fake.options
    assert options["config"]["tracking"]["also"] == ("wandb",)
    assert (options["dir"], options["name"]) == (str(tmp_path), tmp_path.name)


def test_a_service_that_fails_ends_no_training(fake, tmp_path, caplog):
    def fails(grid):
        raise OSError("the disk is full")

    fake.Image = fails
    run = WandbRun(epath.Path(tmp_path), {})
    fake.run.fails = True
    with caplog.at_level(logging.ERROR, "fsvfm_jax"):
        run.scalars(1, {"loss": 1.0})
        run.image(1, "picture", np.zeros((4, 4, 3), np.uint8))
        run.close()
    assert caplog.text.count("Weights & Biases: RuntimeError: the service is down") == 2
    assert "Weights & Biases: OSError: the disk is full" in caplog.text


def test_a_run_that_is_refused_is_told_in_one_sentence(fake, tmp_path):
    def init(**options):
        raise fake.Error("api_key not configured")

    fake.init = init
    with pytest.raises(ConfigError, match=r"api_key not configured\): log in with `wandb login`"):
        WandbRun(epath.Path(tmp_path), {})


def test_all_starts_of_a_run_have_one_id(fake, tmp_path):
    for _ in range(2):
        WandbRun(epath.Path(tmp_path), {})
    (tmp_path / "other").mkdir()
    WandbRun(epath.Path(tmp_path / "other"), {})
    first, second, other = (options["id"] for options in fake.options)
    assert first == second == json.loads((tmp_path / RUN_FILE).read_text())["id"] != other


@pytest.mark.parametrize("content", [*CONTENTS, b'{"id": ""}', b'{"id": "../x"}', b'{"id": 1}'])
def test_a_damaged_file_is_refused(fake, tmp_path, content):
    (tmp_path / RUN_FILE).write_bytes(content)
    with pytest.raises(StorageError, match=r"wandb\.json is damaged .*: put back a copy of it"):
        WandbRun(epath.Path(tmp_path), {})


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    config = tiny.tiny_config({"tracking.also": ("wandb",)})
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name)
    )
    with pytest.raises(ConfigError, match=r"wandb is not installed: pip install '\.\[wandb\]'"):
        check_trackers(config)
    check_trackers(tiny.tiny_config())
    with open_others(tiny.tiny_config(), epath.Path("/none")) as others:
        assert others == []


def test_only_the_first_process_opens_it_and_all_end_if_it_cannot(fake, monkeypatch, tmp_path):
    config, workdir = tiny.tiny_config({"tracking.also": ("wandb",)}), epath.Path(tmp_path)
    monkeypatch.setattr(wandb_run.jax, "process_index", lambda: 1)
    with open_others(config, workdir) as others:
        assert others == []
    monkeypatch.setattr(wandb_run.distributed, "number_of_processes", lambda failed: 1)
    with pytest.raises(ConfigError, match="process 0 cannot open"), open_others(config, workdir):
        pytest.fail("opened")


@pytest.mark.parametrize("starts", [(2,), pytest.param((2, 4), marks=pytest.mark.slow)])
def test_the_starts_of_a_run_are_written_offline(fork_server, tmp_path, monkeypatch, starts):
    need("wandb", "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for epochs in starts:
        arguments = [f"--config.epochs={epochs}", "--config.tracking.also=('wandb',)"]
        (child,) = start([tmp_path], *arguments, server=fork_server)
        said = child.communicate(timeout=PATIENCE)[1]
        assert child.returncode == 0, said
    run_id = json.loads((tmp_path / RUN_FILE).read_text())["id"]
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == len(starts) and all(run.name.endswith(run_id) for run in runs)
    for run in runs:
        content = (run / f"run-{run_id}.wandb").read_bytes()
        assert b"loss_rec" in content and b"projection_dim" in content
    steps = [line["step"] for line in tiny.read_metrics(tmp_path)]
    assert steps == list(range(1, 1 + 5 * len(starts)))
