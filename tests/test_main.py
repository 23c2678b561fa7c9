"""Tests the command as a user types it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ForkServer
from patience import PATIENCE
from PIL import Image
from tiny import NETWORK

from fsvfm_jax import cli, main
from fsvfm_jax.data.sources import SyntheticFaces

ROOT = Path(__file__).parent.parent


def run(
    *arguments: str, config: str = "configs/vit_s.py:smoke", cwd: Path = ROOT
) -> subprocess.CompletedProcess:
    # The flags are those of a user, not those of the test suite.
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "fsvfm_jax.main", f"--config={ROOT / config}", *arguments],
        cwd=cwd,
        env=env | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        ("configs/vit_s.py", r"runs/vit_s"),
        ("configs/vit_s.py:smoke", r"runs/vit_s-smoke"),
        ("DIR/fas/mcio.py:l,M,smoke", r"runs/mcio-l-M-smoke"),
    ],
)
def test_the_default_workdir_has_the_config_and_its_arguments(monkeypatch, config, folder):
    monkeypatch.setattr(cli, "config_filename", lambda: config)
    assert re.fullmatch(folder + r"-20\d{6}-\d{6}", main._default_workdir())


def run_forked(
    server: ForkServer,
    *arguments: str,
    config: str = "configs/vit_s.py:smoke",
    folder: Path = ROOT,
) -> subprocess.CompletedProcess:
    """The same command with the flags of the test suite, which make its compilation fast."""
    config = f"--config={ROOT / config}"
    return server.run("fsvfm_jax.main", config, *arguments, folder=folder)


@pytest.mark.e2e
def test_smoke_learns_and_tells_about_it(fork_server, tmp_path):
    def run_here(*arguments: str) -> subprocess.CompletedProcess:
        return run_forked(fork_server, *few, *arguments, folder=tmp_path)

    few = ("--config.epochs=2", "--config.data.num_samples=256", "--config.tracking.log_every=4")
    few += tuple(f"--config.model.{name}={value}" for name, value in NETWORK.items())
    result = run_here()
    assert result.returncode == 0, result.stderr
    (workdir,) = (tmp_path / "runs").iterdir()
    assert workdir.name.startswith("vit_s-smoke-20")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 4, 8, 12, 16]
    assert lines[-1]["loss_rec"] < 0.9 * lines[0]["loss_rec"]
    for text in (
        "mean and std: 256/256",
        "effective batch: 32 = 1 devices x 32 x 1",
        "step 16/16",
        "images/s",
        "epoch 0 at step 8",
        f"done: step 16 of 16, in runs/{workdir.name}",
    ):
        assert text in result.stderr, text
    assert "decoder_blocks/attn/qkv/kernel" in (workdir / "parameters.txt").read_text()
    epochs = [json.loads(line) for line in (workdir / "epochs.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in epochs] == [(0, 8), (1, 16)]
    start_up = result.stderr.partition("step 1/16")[0].splitlines()
    assert len(start_up) <= 11 and max(map(len, start_up)) < 250, start_up  # one is of progress
    assert (workdir / "images" / "reconstruction_0000016.png").exists()
    assert list((workdir / "tensorboard").iterdir())
    assert (workdir / "checkpoints" / "16").is_dir()
    # The same command with the same relative workdir finds the checkpoint.
    result = run_here(f"--workdir=runs/{workdir.name}")
    assert result.returncode == 0 and "resumed at step 16 of 16" in result.stderr, result.stderr


@pytest.mark.slow
def test_the_whole_smoke_run(tmp_path):
    result = run(cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (metrics,) = tmp_path.glob("runs/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert lines[-1]["step"] == 320
    assert lines[-1]["loss_rec"] < 0.5 * lines[0]["loss_rec"]
    # The student predicts better than any constant would, and nothing has collapsed.
    assert lines[-1]["loss_sim"] < lines[-1]["loss_sim_constant"]
    assert lines[-1]["variance_z"] > 1e-3


@pytest.mark.slow
def test_a_float32_step_of_vit_l_on_this_machine(tmp_path):
    result = run(
        f"--workdir={tmp_path}",
        "--config.model.dtype=float32",
        "--config.data.source=synthetic",
        "--config.data.num_samples=2",
        "--config.batch_size=2",
        "--config.epochs=1",
        "--config.schedule_epochs=600",
        config="configs/vit_l.py",
    )
    assert result.returncode == 0, result.stderr
    assert "Total: 364,402,944" in (tmp_path / "parameters.txt").read_text()
    assert "done: step 1 of 1" in result.stderr


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Makes folders of two faces, by name, each with one fault."""
    parent = tmp_path_factory.mktemp("faces")
    source = SyntheticFaces(2, image_size=64, seed=0)
    for name in ("good", "missing_map", "small_map", "class_11", "truncated"):
        (parent / name / "images").mkdir(parents=True)
        (parent / name / "parsing_maps").mkdir()
        for i in range(2):
            Image.fromarray(source[i]["image"]).save(parent / name / "images" / f"{i}.png")
            np.save(parent / name / "parsing_maps" / f"{i}.npy", source[i]["parsing_map"][None])
    (parent / "missing_map" / "parsing_maps" / "1.npy").unlink()
    np.save(parent / "small_map" / "parsing_maps" / "1.npy", np.zeros((1, 32, 64), np.int8))
    np.save(parent / "class_11" / "parsing_maps" / "1.npy", np.full((1, 64, 64), 11, np.int8))
    broken = parent / "truncated" / "images" / "1.png"
    broken.write_bytes(broken.read_bytes()[:-2000])
    (parent / "empty").mkdir()
    return parent


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("missing_map", "1 of 2 images"),
        ("small_map", "1.npy has 32 x 64"),
        ("class_11", "1.npy holds class 11"),
        ("truncated", "1.png cannot be read"),
        ("empty", "no PNG, JPEG, WebP, BMP or TIFF image was found"),
        ("nowhere", "does not exist"),
    ],
)
def test_bad_data_ends_in_one_sentence(fork_server, faces, tmp_path, folder, message):
    result = run_forked(
        fork_server,
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=folder",
        f"--config.data.paths=('{faces / folder}',)",
    )
    assert result.returncode == 65, result.stderr
    assert_one_sentence(result.stderr, message)
    assert not (tmp_path / "run").exists()


def assert_one_sentence(stderr: str, message: str) -> None:
    assert "Traceback" not in stderr
    last = stderr.strip().splitlines()[-1]
    assert "error: " in last and message in last, stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.modle.width=3"], 'Did you mean "model"'),
        (["--config.model.widht=3"], 'Did you mean "width"'),
        (["--config.num_epochs=3"], 'error: Did you mean "epochs" instead of "num_epochs"?'),
        (["--config.data.paths=DIR"], "config.data.source = 'synthetic' reads no paths"),
        (["--config.epochs=many"], "config.epochs=many"),
        (["--wrkdir=x"], "Did you mean: workdir"),
        (["--config.mask.mask_ratio=1"], "mask_ratio 1.0 removes 64 of N = 64"),
        (["--config.mask.mask_ratio=0"], "mask_ratio 0.0 removes 0 of N = 64"),
        (["--config.model.image_size=60"], "image size 60 is not divisible by patch size 8"),
        (["--config.task=pretrian"], "did you mean 'pretrain'"),
        (["--config.data.stats_file=nowhere.json"], "nowhere.json"),
        (["config.epochs=3"], "unexpected argument 'config.epochs=3'"),
        (["--config.seed=-1"], "config.seed = -1 must be from 0"),
        (["--workdir=README.md/x"], "cannot be written"),
    ],
)
def test_a_bad_field_ends_in_one_sentence(fork_server, tmp_path, arguments, message):
    result = run_forked(fork_server, f"--workdir={tmp_path}", *arguments)
    assert result.returncode in (65, 73, 78), result.stderr
    assert_one_sentence(result.stderr, message)
    assert not list(tmp_path.iterdir())


def test_the_bare_command_says_what_to_type(fork_server):
    result = run_forked(fork_server, config="configs/vit_l.py")
    assert result.returncode == 78
    assert_one_sentence(result.stderr, "config.data.paths is empty")
    assert "--config.data.paths=\"('DIR',)\"" in result.stderr and ":smoke" in result.stderr
    result = run_forked(fork_server, config="configs/vit_x.py")
    assert result.returncode == 78
    assert_one_sentence(result.stderr, "configs/vit_x.py")
