"""The command `convert`, on weights of ours; those of PyTorch are in test_pth, test_training."""

import json

import jax
import numpy as np
import pytest
from test_train import run

from fsvfm_jax.convert.__main__ import main
from fsvfm_jax.convert.folder import read_folder
from fsvfm_jax.convert.weights import read_run, read_source
from fsvfm_jax.errors import DataError
from fsvfm_jax.models.fsvfm import encoder_subset


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    run(workdir, {"epochs": 2, "schedule_epochs": 8})
    return workdir


def test_a_run_becomes_a_folder_without_changing_a_digit(workdir, tmp_path, capsys):
    folder = tmp_path / "face-encoder"
    main(["to", "folder", str(workdir), str(folder), "--license", "apache-2.0"])
    assert "encoder, width 32" in capsys.readouterr().out
    exported = read_folder(folder)
    wanted = encoder_subset(read_run(workdir).state.params)
    jax.tree.map(np.testing.assert_array_equal, exported.params, wanted)
    assert exported.description.step == 5 and exported.description.model["num_heads"] == 4
    again = read_source(folder, branch="student", told={}, sha256=None)
    assert again.model["width"] == 32 and again.facts["license"] == "apache-2.0"


def test_another_image_size(workdir, tmp_path):
    folder = tmp_path / "larger"
    main(["to", "folder", str(workdir), str(folder), "--license=mit", "--image-size=64"])
    assert read_folder(folder).params["pos_embed"].shape == (1, 65, 32)


def test_inspect_says_what_a_run_is(workdir, capsys):
    main(["inspect", str(workdir), "--branch=teacher"])
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == "teacher" and record["step"] == 5
    assert record["model"]["width"] == 32 and record["recipe"] == "paper"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["to", "folder", "WORKDIR", "OUT"], 78, "does not tell its license: give --license"),
        (["to", "folder", "nowhere", "OUT"], 65, "nowhere cannot be read"),
        (["to", "foldr", "WORKDIR", "OUT"], 78, "invalid choice: 'foldr'"),
        (["inspect", "WORKDIR", "--model=vit_smal_patch16"], 78, "did you mean"),
        (["to", "folder", "WORKDIR", "WORKDIR", "--license=mit"], 73, "is not empty"),
    ],
)
def test_a_mistake_ends_in_one_sentence(workdir, tmp_path, capsys, arguments, code, message):
    places = {"WORKDIR": str(workdir), "OUT": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as ended:
        main([places.get(argument, argument) for argument in arguments])
    assert ended.value.code == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_workdir_without_a_run_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match=r"config\.json"):
        read_run(tmp_path)
