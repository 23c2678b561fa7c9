"""Tests the warnings of test videos that a detector has already used."""

import json
import logging

from labelled_faces import write_faces

from configs import transfer
from fsvfm_jax.config.resolve import to_json
from fsvfm_jax.data.labelled.detection_sets import open_sets
from fsvfm_jax.known_videos import warn_of_known_videos


def sets_in(root):
    sets = {"mine": transfer.face_set("folder", split="test")}
    return list(open_sets(transfer.ConfigDict(sets), (str(root),), image_size=32).values())


def test_a_file_or_folder_does_not_say_what_it_was_trained_on(tmp_path, caplog):
    root = write_faces(tmp_path / "set", videos=2, frames=1)
    with caplog.at_level(logging.WARNING):
        warn_of_known_videos(tmp_path, sets_in(root), image_size=32)
    assert not caplog.records


def test_videos_of_the_training_and_of_thresholds_are_named(tmp_path, caplog):
    root = write_faces(tmp_path / "set", videos=4, frames=1)
    config = transfer.get_config("vit_small_patch16", smoke=True)
    with config.data.unlocked():
        config.data.train = {"mine": transfer.face_set("folder", split="test")}
        config.data.paths = (str(root),)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(to_json(config))
    assert json.loads((run / "config.json").read_text())["task"] == "finetune"
    tests = sets_in(root)
    with caplog.at_level(logging.WARNING):
        warn_of_known_videos(run, tests, thresholds=tests, image_size=32)
    assert "which was trained on" in caplog.text and "which chooses the threshold" in caplog.text
