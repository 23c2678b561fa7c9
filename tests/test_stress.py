"""Tests the verb `stress` on a tiny detector."""

import json
import logging

import pytest
from labelled_faces import command, sentence
from PIL import Image
from scored_sets import scored

from configs import transfer
from fsvfm_jax.data.labelled.detection_sets import open_sets
from fsvfm_jax.predict.labelled import LabelledSets
from fsvfm_jax.predict.stress import RESULTS, check_frames, fewer_frames, measure
from fsvfm_jax.report.write import read_rows

COMMAND = "fsvfm_jax.predict"
# ml_collections loads a config file by a function that Python 3.12 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
NO_WORKERS = "--config.data.num_workers=0"


@pytest.mark.e2e
def test_the_command_writes_a_row_for_every_strength(
    detector_folder, labelled_tree, fork_server, tmp_path
):
    pytest.importorskip("av")
    done = fork_server.run(
        COMMAND,
        *("stress", f"--model={detector_folder}", str(labelled_tree), f"--output={tmp_path}"),
        *("--kinds=h264,crop,frames", "--set-margin=0.15", "--threshold=eer"),
        *(f"--groups={labelled_tree / 'groups.csv'}", "--group=light", NO_WORKERS),
    )
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "stress.json")
    found = [(row["kind"], row["strength"]) for row in rows]
    assert found == [
        ("none", "stored"),
        *(("h264", x) for x in ("18", "23", "28", "34", "40")),
        *(("crop", x) for x in ("1.2", "1.1", "1")),
        *(("frames", x) for x in ("2", "1")),
    ]
    for row in rows:
        for key in ("auc", "equal_error_rate", "tpr", "fpr"):
            low, high = row[f"{key}_interval"]
            assert 0 <= low <= row[key] <= high <= 1
    with Image.open(tmp_path / "stress.png") as picture:
        assert picture.size[0] > 1000
    grouped = read_rows(tmp_path / "stress_groups.json")
    # Undegraded, and the strongest step of each kind.
    assert [(row["kind"], row["strength"]) for row in grouped[::2]] == [
        *(("none", "stored"), ("h264", "40"), ("crop", "1"), ("frames", "1"))
    ]
    assert len(grouped) == 8 and {row["group"] for row in grouped} == {"day", "night"}
    assert grouped[0]["auc"] <= grouped[1]["auc"]
    for name in ("stress.md", "stress_groups.md"):
        text = (tmp_path / name).read_text()
        assert (
            "of the same sets without degradation.\nThe threshold was chosen on these same" in text
        )
        assert "12 real and 12 fake videos of faces/test, 72 faces; 0 skipped. 20" in text


@pytest.mark.e2e
def test_earlier_results_are_replaced_only_if_this_is_asked_for_and_then_all_of_them(
    detector_folder, labelled_tree, tmp_path, capsys
):
    words = ("stress", "--model", detector_folder, labelled_tree, "--output", tmp_path)
    words = (*words, "--kinds=frames")
    for name in RESULTS:
        (tmp_path / name).write_text("earlier")
    said = sentence(capsys, 73, *words)
    assert f"{tmp_path} has results of an earlier run (stress.md, stress.json" in said
    assert "give --overwrite" in said
    assert {(tmp_path / name).read_text() for name in RESULTS} == {"earlier"}
    command(*words, "--overwrite", NO_WORKERS)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["stress.json", "stress.md", "stress.png"]
    assert "earlier" not in (tmp_path / "stress.md").read_text()


def test_mistakes_are_one_sentence(detector_folder, labelled_tree, tmp_path, capsys, monkeypatch):
    def refused(*arguments, code=78):
        words = ("stress", "--model", detector_folder, "--output", tmp_path / "no", *arguments)
        said = sentence(capsys, code, *words)
        assert not (tmp_path / "no").exists()
        return said

    faces = labelled_tree
    one_class = refused(faces, "--classes=fake")
    assert "both classes are degraded alike" in one_class and "measures that" in one_class
    assert "there is no 'jpg'; did you mean 'jpeg'?" in refused(faces, "--kinds=jpg")
    assert "give --set-margin" in refused(faces, "--kinds=crop")
    assert "is no margin above 0" in refused(faces, "--kinds=crop", "--set-margin=nan")
    rendered = ("--config=configs/eval/rendered.py:smoke", "--kinds=crop", "--set-margin=0.3")
    assert "cam-m, cam-o is rendered without a face's box" in refused(*rendered)
    small = refused(faces, "--kinds=frames", "--threshold=fpr_5")
    assert "needs 20 real ones; there are 12" in small and "choose --threshold=eer" in small
    with monkeypatch.context() as patch:
        patch.setattr("fsvfm_jax.predict.stress.labelled.open_labelled", lambda args: 1 / 0)
        assert "no operating point: did you mean 'fpr_1'?" in refused(faces, "--threshold=fpr1")
        assert "--threshold=7 is not from 0 to 1" in refused(faces, "--threshold=7")
        said = refused(faces, f"--calibration={tmp_path / 'none'}", code=65)
        assert "none does not exist: name a calibration.json" in said
        for flag in ("--model", "--stats", "--encoder"):
            assert "missing cannot be read" in refused(faces, f"{flag}=missing", code=65)
    pictures = "--config.data.test.mine.videos=picture"
    assert "every video of the set has one frame" in refused(faces, pictures, "--kinds=frames")
    (tmp_path / "file").write_text("")
    late = ("--output", tmp_path / "file")
    assert "it is no folder" in refused(faces, "--kinds=jpeg", *late, code=73)


@pytest.mark.e2e
def test_the_threshold_of_a_calibration_on_the_same_faces_is_warned_of(
    detector_folder, labelled_tree, tmp_path, capsys
):
    words = ("--model", detector_folder, labelled_tree, NO_WORKERS)
    command("calibrate", *words, "--output", tmp_path / "fitted")
    file = tmp_path / "fitted" / "calibration.json"
    words = (*words, "--kinds=frames", "--output", tmp_path / "out", "--calibration", file)
    command("stress", *words)
    text = (tmp_path / "out" / "stress.md").read_text()
    assert "of calibration.json, chosen on 12 real and 12 fake videos of faces/test, 20" in text
    assert "The threshold was chosen on these same faces" in text
    assert "The threshold was chosen on these same faces" in capsys.readouterr().err
    for name in ("fitted/calibration.md", "out/stress.md"):  # They are passed on with the model.
        text = (tmp_path / name).read_text()
        assert detector_folder.name in text and str(detector_folder.parent) not in text


def test_frames_are_named_as_left_out_only_if_they_could_have_been_meant(caplog):
    described = {"a": transfer.rendered_set("swap-a", "test", videos=4, frames=1)}
    opened = open_sets(transfer.ConfigDict(described), (), image_size=32)
    sets = LabelledSets(None, opened, ("a",), None)
    with caplog.at_level(logging.INFO, "fsvfm_jax"):
        check_frames(("jpeg",), sets)
        assert not caplog.messages
        check_frames(None, sets)
    assert caplog.messages == ["frames is left out: every video of the set has one frame"]


SCORES = scored(
    "mine", {"f0": (0.9, 0.1, 0.5, 0.7), "f1": (0.8,), "r0": (0.2, 0.6, 0.4, 0.0), "r1": (0.3, 0.1)}
)


def test_fewer_frames_are_evenly_spaced_and_the_same_for_both_classes():
    found = fewer_frames(SCORES)
    assert list(found) == [2, 1]
    assert found[2].files.tolist() == [
        *("f0_frame_0.png", "f0_frame_3.png", "f1_frame_0.png"),
        *("r0_frame_0.png", "r0_frame_3.png", "r1_frame_0.png", "r1_frame_1.png"),
    ]
    assert found[1].p_fake.tolist() == [0.9, 0.8, 0.2, 0.3]


def test_single_pictures_have_no_fewer_frames():
    assert fewer_frames(scored("mine", {"f0": (0.9,), "r0": (0.1,)})) == {}


def test_without_a_threshold_the_rates_are_left_out():
    row = measure(SCORES, None)
    assert row["auc"] == 1.0 and "tpr" not in row and "fpr" not in row


def test_the_measures_are_over_videos_at_the_threshold():
    row = measure(SCORES, 0.5)
    assert row["auc"] == 1.0 and row["equal_error_rate"] == 0.0
    assert row["tpr"] == 1.0 and row["fpr"] == 0.0 and row["fpr_interval"][1] > 0.5
    assert json.dumps(row)
