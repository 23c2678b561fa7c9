"""Tests the command `convert` from end to end."""

import hashlib
import json
import os
import re

import golden_files
import golden_numbers
import jax
import numpy as np
import pytest
from golden_files import need
from random_weights import STATS, TINY, describe, encoder_params
from tiny import run
from wrapped_weights import ENCODER, wrapped_file

from fsvfm_jax.convert import pth
from fsvfm_jax.convert.__main__ import main
from fsvfm_jax.convert.folder import read_folder, timm_names, write_folder
from fsvfm_jax.convert.reference import to_state_dict
from fsvfm_jax.convert.runs import read_run
from fsvfm_jax.convert.safetensors import save_safetensors
from fsvfm_jax.convert.source_files import file_sha256
from fsvfm_jax.convert.weights import read_source
from fsvfm_jax.data.stats import save_stats
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.fsvfm import encoder_subset
from fsvfm_jax.models.vit import SIZES


@pytest.fixture(scope="module")
def workdir(short_run):
    return short_run


@pytest.mark.e2e
def test_a_run_becomes_a_folder_without_changing_a_digit(workdir, tmp_path, capsys):
    folder = tmp_path / "face-encoder"
    main(["to", "folder", str(workdir), str(folder), "--license", "apache-2.0"])
    assert "encoder, width 32" in capsys.readouterr().out
    exported = read_folder(folder)
    wanted = encoder_subset(read_run(workdir).state.params)
    jax.tree.map(np.testing.assert_array_equal, exported.params, wanted)
    manifest = (workdir / "checkpoints" / "5" / "manifest.json").read_bytes()
    assert exported.description.source_sha256 == hashlib.sha256(manifest).hexdigest()
    assert exported.description.step == 5 and exported.description.model["num_heads"] == 4
    again = read_source(folder, branch="student", given={})
    assert again.model["width"] == 32 and again.facts["license"] == "apache-2.0"


@pytest.mark.e2e
def test_another_image_size(workdir, tmp_path):
    folder = tmp_path / "larger"
    main(["to", "folder", str(workdir), str(folder), "--license=mit", "--image-size=64"])
    assert read_folder(folder).params["pos_embed"].shape == (1, 65, 32)


@pytest.mark.e2e
def test_any_step_can_be_had(workdir, tmp_path, capsys):
    main(["inspect", str(workdir), "--step=3"])
    assert json.loads(capsys.readouterr().out)["step"] == 3
    state = read_run(workdir, step=3).state
    main(["to", "folder", str(workdir), str(tmp_path / "x"), "--step=3", "--license=mit"])
    exported = read_folder(tmp_path / "x")
    jax.tree.map(np.testing.assert_array_equal, exported.params, encoder_subset(state.params))


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["to", "folder", "WORKDIR", "OUT"], 78, "does not contain its license: give --license"),
        (["to", "folder", "nowhere", "OUT"], 65, "nowhere cannot be read"),
        (["to", "folder", "WORKDIR", "OUT", "--license=7"], 78, "=7: a licence is the identifier"),
        (["to", "folder", "WORKDIR", "OUT", "--license=a: b"], 78, "one at least., digits and"),
        (["to", "folder", "WORKDIR", "OUT", "--license=mit", "--crop-margin=nan"], 78, "from 0 to"),
        (["to", "folder", "WORKDIR", "OUT", "--license=mit", "--stats=/dev/zero"], 65, "a device"),
        (["to", "foldr", "WORKDIR", "OUT"], 78, "invalid choice: 'foldr'"),
        (["inspect", "WORKDIR", "--model=vit_smal_patch16"], 78, "did you mean"),
        (["inspect", "WORKDIR", "--step=4"], 78, "checkpoint 4 in .* not there; there are 3, 5"),
        (["inspect", "WORKDIR", "--num-heads=8"], 78, "has num_heads 4, not 8 as given"),
        (["inspect", "WORKDIR", f"--sha256={'0' * 64}"], 78, "pins a file"),
        (["to", "training", "x.pth", "WORKDIR", "--teacher=x"], 73, "is there already"),
        (["to", "folder", "WORKDIR", "WORKDIR", "--license=mit"], 73, "is not empty"),
    ],
)
def test_a_mistake_ends_in_one_sentence(workdir, tmp_path, capsys, arguments, code, message):
    places = {"WORKDIR": str(workdir), "OUT": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as ended:
        main([places.get(argument, argument) for argument in arguments])
    assert ended.value.code == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and re.search(message, error)


@pytest.mark.e2e
def test_a_run_of_ones_own_is_under_no_licence_of_others(workdir, tmp_path, capsys):
    need("torch")
    main(["to", "reference", str(workdir), str(tmp_path / "files")])
    file = tmp_path / "files" / "checkpoint-1.pth"  # 5 steps of 16, of 40 images
    assert pth.read(file).extra["epoch"] == 1
    capsys.readouterr()
    main(["inspect", str(file), *HEADS])
    assert "license" not in json.loads(capsys.readouterr().out)


def test_a_pinned_file_is_that_file(tmp_path, capsys):
    file = tmp_path / "model.safetensors"
    save_safetensors(file, timm_names(encoder_params(TINY)), metadata={})
    main(["inspect", str(file), f"--sha256={file_sha256(file).upper()}"])
    with pytest.raises(SystemExit, match="65"):
        main(["to", "folder", str(file), str(tmp_path / "x"), f"--sha256={'0' * 64}"])
    assert "has SHA-256" in capsys.readouterr().err and not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.bin"])
def test_a_file_that_is_none_is_not_hashed(tmp_path, name, capsys):
    file = tmp_path / name
    os.mkfifo(file)
    with pytest.raises(SystemExit, match="65"):
        main(["inspect", str(file), f"--sha256={'0' * 64}"])
    assert f"{name} cannot be read (it is a named pipe" in capsys.readouterr().err
    file.unlink()
    file.touch()
    os.truncate(file, 50 * 10**9)
    with pytest.raises(SystemExit, match="65"):
        main(["inspect", str(file), f"--sha256={'0' * 64}"])
    assert "it has 50,000,000,000 bytes" in capsys.readouterr().err


HEADS = ["--num-heads=4", "--decoder-num-heads=4", "--rep-decoder-num-heads=4"]
LABELS = ["--labels=fake,real"]


@pytest.fixture
def reference_run(tmp_path):
    """Writes the two files of a stopped run of the reference, and its mean and deviation."""
    folder = tmp_path / "reference"
    folder.mkdir()
    save_stats(folder / "pretrain_ds_mean_std.txt", STATS)
    return golden_files.write_run(folder, need("torch"))


def write_detector(folder, name):
    file = folder / f"{name}.pth"
    state_dict = golden_files.detector(name)
    key = "state_dict" if any(x.startswith("embedder") for x in state_dict) else "model"
    pth.write(file, state_dict, key=key)
    save_stats(folder / "pretrain_ds_mean_std.txt", STATS)
    return file


def assert_same_file(written, original):
    written, original = pth.read(written).state_dict, pth.read(original).state_dict
    assert written.keys() == original.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, original[name], err_msg=name)


@pytest.mark.parametrize("name", golden_files.DETECTORS)
def test_a_detector_of_the_reference_goes_out_and_comes_back(tmp_path, name):
    need("torch")
    file = write_detector(tmp_path, name)
    main(["to", "folder", str(file), str(tmp_path / "folder"), *HEADS[:1], *LABELS])
    main(["to", "reference", str(tmp_path / "folder"), str(tmp_path / "again.pth")])
    assert_same_file(tmp_path / "again.pth", file)
    description = read_folder(tmp_path / "folder").description
    assert description.license == "cc-by-nc-4.0" and description.stats == STATS


def test_an_adapter_alone_finds_its_encoder(tmp_path, capsys):
    need("torch")
    file = write_detector(tmp_path, "adapter")
    command = ["to", "folder", str(file), *HEADS[:1]]
    with pytest.raises(SystemExit, match="78"):
        main([*command, str(tmp_path / "whole")])
    assert "give --labels NAME,NAME" in capsys.readouterr().err
    command += [*LABELS, "--face-detector=dlib", "--crop-margin=0.3"]
    main([*command, str(tmp_path / "whole")])
    main([*command, str(tmp_path / "alone"), "--without-encoder"])
    steps = json.loads((tmp_path / "alone" / "preprocess.json").read_text())
    assert (steps["face_detector"], steps["crop_margin"]) == ("dlib", 0.3)
    back = ["to", "reference", str(tmp_path / "alone"), str(tmp_path / "again.pth")]
    with pytest.raises(SystemExit, match="65"):
        main(back)
    assert "--encoder" in capsys.readouterr().err
    main([*back, "--encoder", str(tmp_path / "whole")])
    assert_same_file(tmp_path / "again.pth", file)


@pytest.mark.slow
def test_a_reference_run_goes_on_here_and_back_there(reference_run, tmp_path, capsys):
    student, teacher = reference_run
    workdir = tmp_path / "run"
    main(["to", "training", str(student), str(workdir), "--teacher", str(teacher), *HEADS])
    assert "--config.model.width=48" in capsys.readouterr().out
    with pytest.raises(DataError, match="no run has started yet"):
        read_run(workdir)
    model = {f"model.{name}": value for name, value in golden_numbers.MODEL.items()}
    computed = {"data.mean": None, "data.std": None}
    run(workdir, model | {"epochs": 2, "schedule_epochs": 8, **computed})
    assert "resumed at step 2 of 5" in capsys.readouterr().err
    assert read_run(workdir).stats == STATS
    main(["to", "reference", str(workdir), str(tmp_path / "back")])
    assert {file.name for file in (tmp_path / "back").iterdir()} == {
        "checkpoint-0.pth",
        "checkpoint-te-0.pth",
        "pretrain_ds_mean_std.txt",
    }
    # The reference reads only the first line.
    first, *others = (tmp_path / "back" / "pretrain_ds_mean_std.txt").read_text().splitlines()
    assert json.loads(first) == {"mean": list(STATS.mean), "std": list(STATS.std)} and not others
    extra = pth.read(tmp_path / "back" / "checkpoint-0.pth").extra
    assert extra["epoch"] == 0  # 3 steps of 16 after the conversion, of 40 images
    assert extra["fsvfm_jax"] == {"license": "cc-by-nc-4.0"}
    capsys.readouterr()
    main(["inspect", str(tmp_path / "back" / "checkpoint-te-0.pth"), *HEADS])
    assert json.loads(capsys.readouterr().out)["license"] == "cc-by-nc-4.0"


@pytest.mark.e2e
def test_inspect_says_what_a_file_is(reference_run, capsys):
    main(["inspect", str(reference_run[1]), *HEADS[:1], HEADS[2]])
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == "teacher" and record["step"] == 2
    assert record["license"] == "cc-by-nc-4.0" and len(record["source_sha256"]) == 64


def test_a_plain_small_file_is_not_guessed_at(tmp_path, capsys):
    need("torch")
    file = tmp_path / "small.pth"
    pth.write(file, to_state_dict(encoder_params(SIZES["vit_small_patch16"])))
    with pytest.raises(SystemExit, match="78"):
        main(["to", "folder", str(file), str(tmp_path / "folder")])
    assert "--model=vit_small_patch16" in capsys.readouterr().err
    main(["inspect", str(file)])
    record = json.loads(capsys.readouterr().out)
    assert record["model"]["num_heads"] is None and record["model"]["width"] == 384
    assert record["kind"] == "encoder" and "--num-heads=6" in record["heads"]
    main(["inspect", str(file), "--model=vit_small_patch16"])
    assert json.loads(capsys.readouterr().out)["model"]["num_heads"] == 12


def write_with_nan(original, path, name, key="model", **extra):
    """Writes the file with a value that is not a number in one array."""
    content = pth.read(original)
    array = content.state_dict[name].copy()
    array.flat[0] = np.nan
    pth.write(path, content.state_dict | {name: array}, key=key, extra=content.extra | extra)


@pytest.mark.e2e
def test_weights_that_are_not_finite_need_a_flag(reference_run, tmp_path, capsys):
    need("torch")
    student, teacher = reference_run
    bad = student.with_name("bad.pth")
    write_with_nan(student, bad, "norm.bias")
    for command in (
        ["to", "folder", str(bad), str(tmp_path / "folder")],
        ["to", "reference", str(bad), str(tmp_path / "again.pth")],
        ["to", "training", str(bad), str(tmp_path / "run"), "--teacher", str(teacher)],
    ):
        with pytest.raises(SystemExit, match="65"):
            main([*command, *HEADS])
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert re.search(r"in norm/bias \(1 of 48\): .* --allow-not-finite", error), error
        destination = tmp_path / command[3]
        assert not destination.exists()
        main([*command, *HEADS, "--allow-not-finite"])
        assert destination.exists()


def nested(depth):
    """Returns a file of few bytes with nested tuples that would never be written out completely."""
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def write_licensed(file, license):
    pth.write(file, golden_files.detector("dfd"), extra={"fsvfm_jax": {"license": license}})


@pytest.mark.parametrize("license", [7, {"a": 1}, ["mit"], "", "x" * 201, (((),),), nested(10)])
def test_a_licence_in_a_file_that_is_no_short_text_is_refused(tmp_path, license, capsys):
    need("torch")
    write_licensed(tmp_path / "x.pth", license)
    with pytest.raises(SystemExit, match="65"):
        main(["inspect", str(tmp_path / "x.pth"), *HEADS[:1]])
    error = capsys.readouterr().err
    assert "x.pth has a licence that is no text of 1 to 200 characters" in error
    assert len(error) < 500


def test_a_licence_of_tuples_that_repeat_is_refused_at_once(tmp_path, capsys):
    need("torch")
    write_licensed(tmp_path / "x.pth", nested(60))
    with pytest.raises(SystemExit, match="65"):
        main(["inspect", str(tmp_path / "x.pth"), *HEADS[:1]])
    assert "repeats its containers and texts" in capsys.readouterr().err


@pytest.mark.parametrize("license", ["CC BY 4.0", "7", "<b>", "x" * 65])
def test_any_short_text_in_a_file_is_its_licence(tmp_path, license, capsys):
    need("torch")
    write_licensed(tmp_path / "x.pth", license)
    save_stats(tmp_path / "pretrain_ds_mean_std.txt", STATS)
    main(["inspect", str(tmp_path / "x.pth"), *HEADS[:1]])
    assert json.loads(capsys.readouterr().out)["license"] == license
    command = ["to", "folder", str(tmp_path / "x.pth"), str(tmp_path / "y"), *HEADS[:1], *LABELS]
    with pytest.raises(SystemExit, match="78"):
        main(command)
    assert "give the identifier of the same licence" in capsys.readouterr().err
    main([*command, "--license=cc-by-4.0"])
    assert read_folder(tmp_path / "y").description.license == "cc-by-4.0"


def test_an_entry_chooses_what_is_converted(tmp_path, capsys):
    file = wrapped_file(tmp_path)
    options = ["--num-heads=4", "--license=mit", "--stats", str(tmp_path / "stats.json")]
    save_stats(tmp_path / "stats.json", STATS)
    with pytest.raises(SystemExit, match="78"):
        main(["to", "folder", str(file), str(tmp_path / "x"), "--entry=ema", *options])
    error = capsys.readouterr().err
    assert "no network under the entry 'ema'; it has 'model_state_dict.module.backbone'" in error
    source = read_source(file, branch="student", given={"num_heads": 4})
    average = read_source(file, branch="student", given={"num_heads": 4}, entry="model_ema")
    assert np.any(source.params["cls_token"]) and not np.any(average.params["cls_token"])


@pytest.mark.e2e
def test_an_entry_of_a_run_is_a_mistake(workdir, capsys):
    with pytest.raises(SystemExit, match="78"):
        main(["inspect", str(workdir), "--entry=model"])
    assert "folder of this project, which has no entry 'model'" in capsys.readouterr().err


def test_a_step_of_something_else_than_a_run_is_a_mistake(tmp_path):
    write_folder(tmp_path / "x", encoder_params(TINY), describe(TINY))
    with pytest.raises(ConfigError, match="is no workdir, which alone has steps: leave out step 7"):
        read_source(tmp_path / "x", branch="student", given={}, step=7)


def test_an_optimizer_of_another_kind_does_not_matter(tmp_path):
    torch = need("torch")
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1, momentum=0.9)
    network(torch.ones(1)).sum().backward()
    optimizer.step()
    arrays = {key: torch.from_numpy(x.copy()) for key, x in ENCODER.items()}
    torch.save({"net": arrays, "optimizer": optimizer.state_dict()}, tmp_path / "x.pth")
    source = read_source(tmp_path / "x.pth", branch="student", given={"num_heads": 4})
    assert "step" not in source.facts and source.file["entry"] == "net"
