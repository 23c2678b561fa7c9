"""Tests what the commands share; `test_main` runs the commands as a user does."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fsvfm_jax import cli
from fsvfm_jax.errors import (
    CollapseError,
    ConfigError,
    DataError,
    NotFiniteError,
    Preempted,
    StorageError,
)

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("x.png is broken"), 65),
        (NotFiniteError("loss is nan"), 72),
        (StorageError("disk is full"), 73),
        (Preempted("saved"), 75),
        (CollapseError("all alike"), 76),
        (ConfigError("no such field"), 78),
        (ZeroDivisionError("unforeseen"), 70),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error, code, capsys):
    with pytest.raises(SystemExit) as ended, cli.exit_codes():
        raise error
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert ("Traceback" in said) == (code == 70)
    assert str(error) in said


def test_json_lines_go_to_plain_files_only(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/full"):
        with pytest.raises(StorageError, match="cannot be written"), cli.json_lines(str(path)):
            pass
    with cli.json_lines(str(tmp_path / "lines")) as tell:
        tell({"a": 1})
        tell({"a": 2})
    assert (tmp_path / "lines").read_text() == '{"a": 1}\n{"a": 2}\n' == capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no such device")
def test_a_full_disk_is_one_sentence(monkeypatch, tmp_path):
    with (
        pytest.raises(StorageError, match=r"No space left on device.*: free space"),
        cli.json_lines(str(tmp_path / "lines")) as tell,
    ):
        monkeypatch.setattr(cli, "append_plain", lambda path: io.FileIO("/dev/full", "w"))
        tell({"a": 1})


def test_a_wrong_flag_is_one_sentence():
    parser = cli.Parser(prog="command")
    parser.add_argument("--steps", type=int)
    with pytest.raises(ConfigError, match=r"--steps: invalid int value: 'x'; see command --help"):
        parser.parse_args(["--steps", "x"])


@pytest.mark.parametrize("device", ["nvidia0", "accel0", "vfio/0"])
def test_an_accelerator_that_jax_does_not_see_is_an_error(tmp_path, monkeypatch, device):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    cli.check_accelerator("cpu", devices=tmp_path)
    path = tmp_path / device
    path.parent.mkdir(exist_ok=True)
    path.touch()
    extra = "cuda" if device == "nvidia0" else "tpu"
    with pytest.raises(ConfigError, match=rf"\[{extra}\]"):
        cli.check_accelerator("cpu", devices=tmp_path)
    with pytest.raises(ConfigError, match="but PyTorch sees only the CPU: install a PyTorch that"):
        cli.check_accelerator("cpu", library="PyTorch", devices=tmp_path)
    cli.check_accelerator("gpu", devices=tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    cli.check_accelerator("cpu", devices=tmp_path)


def test_an_import_of_the_commands_changes_no_flag():
    program = (
        "from absl import flags; from fsvfm_jax import cli; print(flags.FLAGS['config'].parser)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ConfigFileFlagParser" in done.stdout and "FindingParser" not in done.stdout, done


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "--workdir"),
        (["--help"], 0, "flags:\n\n  --[no]check: "),
        (["--help"], 0, "\nconfigs/finetune/dfd.py\n  Deepfake detection (DfD): "),
        ([], 78, "python -m fsvfm_jax.main --help lists the config files\n"),
        (
            ["--config=configs/finetune/dfd.py:bb", "--check"],
            78,
            "error: this config file takes no argument 'bb'; it takes s, b, l, fsfm_b, smoke\n",
        ),
        (["--config=configs/fas/mcio.py:s,b"], 78, "error: a run has one size, not s and b\n"),
        (
            ["--config=configs/vit_s.py:smoke", "--config.data.test.x.layout=list"],
            78,
            "error: config.data.test.x.layout is no field of this config file, which has no 'test'",
        ),
        (
            ["--config=configs/vit_s.py:smoke", "--config.total_steps=3"],
            78,
            "error: config.total_steps is no field of this config file",
        ),
    ],
)
def test_flags_of_training(fork_server, arguments, code, said):
    done = fork_server.run("fsvfm_jax.main", *arguments)
    assert done.returncode == code and said in done.stdout + done.stderr
