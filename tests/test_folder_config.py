"""Tests that odd or edited JSON files of an exported folder are refused in one sentence."""

import dataclasses
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_json import CONTENTS, changed
from random_weights import TINY, describe, detector_params, encoder_params

from fsvfm_jax.convert.__main__ import main
from fsvfm_jax.convert.folder import read_folder, write_folder
from fsvfm_jax.convert.licenses import is_license
from fsvfm_jax.errors import DataError


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "tiny-detector"
    write_folder(folder, detector_params(TINY), describe(TINY, labels=("fake", "real")))
    return folder


@pytest.mark.parametrize("content", CONTENTS, ids=lambda x: repr(x[:12]))
def test_a_config_of_another_form_is_one_sentence(exported, tmp_path, content, capsys):
    folder = tmp_path / "x"
    shutil.copytree(exported, folder)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json is not that of a folder written by fsvfm"):
        read_folder(folder)
    # Without our part it is the folder of another library, whose network `inspect` names.
    commands = [["inspect"], ["to", "reference"]][content == b"{}" :]
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([*command, str(folder), *([str(tmp_path / "y")] if len(command) > 1 else [])])
        assert ended.value.code in (65, 78)
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "y").exists()


def read_or_refused(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    try:
        read = read_folder(folder)
    except DataError as error:
        assert "\n" not in str(error)
        return
    # An accepted description can be written again, and a card too if the licence is an identifier.
    shutil.rmtree(folder.parent / "again", ignore_errors=True)
    description = read.description
    if not is_license(description.license):
        description = dataclasses.replace(description, license="mit")
    write_folder(folder.parent / "again", read.params, description)


@pytest.fixture(scope="module")
def copied(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copied") / "x"
    shutil.copytree(exported, folder)
    return folder, json.loads((folder / "config.json").read_text())["fsvfm_jax"]


@settings(max_examples=40)
@given(data=st.data())
def test_a_changed_config_is_read_or_refused(copied, data):
    folder, ours = copied
    read_or_refused(folder, {"fsvfm_jax": data.draw(changed(ours))})


@pytest.mark.slow
@settings(max_examples=3000)
@given(data=st.data())
def test_many_changed_configs_are_read_or_refused(copied, data):
    folder, ours = copied
    read_or_refused(folder, {"fsvfm_jax": data.draw(changed(ours, changes=4))})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("face_detector", "mtcnn"), ("crop_margin", 0.3), ("resize_shorter_side", 73)),
        *(("interpolation", "bilinear"), ("center_crop", 32), ("mean", [0.5, 0.5, 0.5])),
        *(("channels", "BGR"), ("rescale", 1.0)),
    ],
)
def test_steps_that_were_edited_in_one_of_two_files_are_refused(tmp_path, name, value):
    params = encoder_params(TINY)
    write_folder(tmp_path / "x", params, describe(TINY, face_detector="dlib", crop_margin=0.15))
    file = tmp_path / "x" / "preprocess.json"
    steps = json.loads(file.read_text())
    file.write_text(json.dumps(steps | {name: value}))
    with pytest.raises(DataError, match=rf"preprocess\.json has {name} = .*, and config\.json"):
        read_folder(tmp_path / "x")
    file.write_text(json.dumps(steps | {name: {}}))
    with pytest.raises(DataError, match=r"preprocess\.json is not the steps to a network's input"):
        read_folder(tmp_path / "x")
    file.unlink()
    assert read_folder(tmp_path / "x").description.crop_margin == 0.15
