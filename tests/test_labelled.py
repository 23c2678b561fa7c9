"""Tests how `calibrate` and `stress` open a detector and its sets; their commands test the rest."""

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import evaluation, transfer
from fsvfm_jax.data.labelled.detection_sets import open_sets
from fsvfm_jax.errors import ConfigError, StorageError
from fsvfm_jax.predict import labelled
from fsvfm_jax.predict.labelled import LabelledSets, Task, results_folder, to_faces


def test_results_lie_in_the_models_folder_unless_another_is_named(tmp_path):
    args = argparse.Namespace(model=str(tmp_path), output=None, overwrite=False)
    assert results_folder(args, ["a"]) == tmp_path
    args.model = str(tmp_path / "model.pth")
    with pytest.raises(ConfigError, match="name a folder with --output"):
        results_folder(args, ["a"])
    args.output = Path("elsewhere")
    assert results_folder(args, ["a"]) == Path("elsewhere")


def test_only_a_flag_that_was_given_is_named_if_a_folder_takes_no_results(tmp_path, monkeypatch):
    monkeypatch.setattr("fsvfm_jax.host.storage.os.access", lambda *args: False)
    args = argparse.Namespace(model=str(tmp_path), output=None, overwrite=False)
    with pytest.raises(StorageError, match=f"^{tmp_path} cannot be written"):
        results_folder(args, ["a"])
    args.output = tmp_path
    with pytest.raises(StorageError, match=f"^--output={tmp_path} cannot be written"):
        results_folder(args, ["a"])


def test_splits_with_the_same_names_of_files_are_not_the_same_faces(tmp_path):
    for split, side in (("test", 32), ("val", 32), ("other", 40)):
        for label in ("real", "fake"):
            folder = tmp_path / split / label / "v01"
            folder.mkdir(parents=True)
            pixels = np.full((side, side, 3), 90 if label == "real" else 200, np.uint8)
            Image.fromarray(pixels).save(folder / "0.png")
    of_split = {}
    for split in ("test", "val", "other"):
        described = transfer.ConfigDict({"mine": transfer.face_set("folder", split=split)})
        sets = open_sets(described, (str(tmp_path),), image_size=32)
        of_split[split] = LabelledSets(None, sets, (split,), None)
    assert of_split["test"].fingerprint() == of_split["val"].fingerprint()  # copies
    assert of_split["test"].fingerprint() != of_split["other"].fingerprint()
    (tmp_path / "val" / "real" / "v01" / "0.png").unlink()
    assert of_split["test"].fingerprint() != of_split["val"].fingerprint()


def test_faces_of_several_sets_are_joined_without_those_that_were_not_read():
    described = {
        name: transfer.rendered_set("swap-a", "test", videos=4, frames=2) for name in ("a", "b")
    }
    sets = open_sets(transfer.ConfigDict(described), (), image_size=32)
    margins = {"a": np.arange(8.0), "b": np.arange(8.0) + 10}
    margins["b"][3] = np.nan
    task = Task.__new__(Task, None, LabelledSets(None, sets, ("a", "b"), None), 1)
    found = to_faces(task, margins)
    assert found.margins.tolist() == [*range(8), 10, 11, 12, *range(14, 18)]
    assert found.fake.sum() == 7 and len(set(found.videos.tolist())) == 8


def test_sets_are_named_by_their_folders_and_not_by_the_word_of_the_config(tmp_path):
    for folder in ("a/test", "a/phone", "b/test"):
        (tmp_path / folder).mkdir(parents=True)
    c = evaluation.get_config()
    c.data.paths = (str(tmp_path / "a"), str(tmp_path / "b"))
    c.data.test.mine = transfer.face_set("folder", split="test")
    c.data.test.nights = transfer.face_set("folder", "phone", split="val")
    c.data.test.cam = transfer.rendered_set("cam-m", "test", videos=4)
    assert labelled._titles(c) == ("cam", "a/test, b/test", "nights of a/phone/val")
