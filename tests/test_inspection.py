"""Tests that `convert inspect` says what a workdir, a folder or a file contains."""

import json

import numpy as np
import pytest
from golden_files import need
from wrapped_weights import ENCODER, wrapped_file

from fsvfm_jax.convert.__main__ import main
from fsvfm_jax.convert.safetensors import save_safetensors


@pytest.mark.e2e
def test_inspect_says_what_a_run_is(short_run, capsys):
    main(["inspect", str(short_run), "--branch=teacher"])
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == "teacher" and record["step"] == 5
    assert record["model"]["width"] == 32 and record["recipe"] == "paper"


@pytest.mark.parametrize(
    ("flags", "entry"), [([], "model_state_dict"), (["--entry=model_ema"], "model_ema")]
)
def test_inspect_says_which_entry_and_prefix_it_read(tmp_path, capsys, flags, entry):
    main(["inspect", str(wrapped_file(tmp_path)), "--num-heads=4", *flags])
    output = capsys.readouterr()
    record = json.loads(output.out)
    other = {"model_state_dict", "model_ema"} - {entry}
    assert (record["format"], record["kind"]) == ("zip archive of PyTorch", "encoder")
    assert (record["entry"], record["prefix"]) == (entry, "module.backbone.")
    assert record["wrappers"] == ["_orig_mod"]
    assert record["others"] == [f"{other.pop()}.module.backbone"]
    assert f"several networks: '{entry}.module.backbone' is read, not" in output.err


def test_inspect_says_what_a_file_is_whose_heads_or_network_it_does_not_know(tmp_path, capsys):
    file = wrapped_file(tmp_path)
    main(["inspect", str(file)])
    record = json.loads(capsys.readouterr().out)
    assert record["entry"] == "model_state_dict" and "num_heads must be given" in record["heads"]
    wrapped_file(tmp_path, ENCODER | {"dist_token": np.zeros((1, 1, 48), np.float32)})
    main(["inspect", str(file)])
    record = json.loads(capsys.readouterr().out)
    assert record["prefix"] == "module.backbone." and "a distillation token" in record["problem"]


def test_inspect_reads_headers_of_safetensors_alone(tmp_path, capsys):
    arrays = {f"model.{key}": array for key, array in ENCODER.items()}
    save_safetensors(tmp_path / "a.safetensors", arrays, metadata={})
    index = {"weight_map": dict.fromkeys(arrays, "a.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in "a.safetensors", "model.safetensors.index.json":
        main(["inspect", str(tmp_path / name)])
        record = json.loads(capsys.readouterr().out)
        assert record["files"] == ["a.safetensors"] and record["prefixes"] == ["model."]
        assert record["arrays"].keys() == arrays.keys()


def test_names_of_a_file_cannot_act_on_a_terminal(tmp_path, capsys):
    torch = need("torch")
    torch.save({"\x1b[2J\nerror: ": {"cls_token": torch.ones(1, 1, 48)}}, tmp_path / "x.pth")
    with pytest.raises(SystemExit, match="65"):
        main(["inspect", str(tmp_path / "x.pth")])
    output = capsys.readouterr()
    assert "\x1b" not in output.out + output.err and len(output.err.splitlines()) == 1
