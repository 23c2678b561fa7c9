"""Tests the verb `stress` on a tiny detector."""

import json

import pytest
from labelled_faces import write_detector, write_faces
from PIL import Image
from scored_sets import scored
from stored_calibration import CALIBRATION

from fsvfm_jax.predict.calibration import Calibration, write_calibration
from fsvfm_jax.predict.networks import load
from fsvfm_jax.predict.stress import fewer_frames, measure, own_threshold
from fsvfm_jax.report.write import read_rows

COMMAND = "fsvfm_jax.predict"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("models") / "detector")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("sets"))


def stress(fork_server, *arguments):
    return fork_server.run(COMMAND, "stress", *map(str, arguments), "--config.data.num_workers=0")


@pytest.mark.e2e
def test_the_command_writes_a_row_for_every_strength(model, faces, fork_server, tmp_path):
    pytest.importorskip("av")
    done = stress(
        fork_server,
        *("--model", model, faces, "--output", tmp_path, "--kinds=jpeg,h264,crop,frames"),
        *("--set-margin=0.15", "--threshold=eer"),
        *("--groups", faces / "groups.csv", "--group=light"),
    )
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "stress.json")
    found = [(row["kind"], row["strength"]) for row in rows]
    assert found == [
        ("none", "stored"),
        *(("jpeg", x) for x in ("95", "75", "50", "30", "10")),
        *(("h264", x) for x in ("18", "23", "28", "34", "40")),
        *(("crop", x) for x in ("1.2", "1.1", "1")),
        *(("frames", x) for x in ("2", "1")),
    ]
    for row in rows:
        for key in ("auc", "equal_error_rate", "tpr", "fpr"):
            low, high = row[f"{key}_interval"]
            assert 0 <= low <= row[key] <= high <= 1
    text = (tmp_path / "stress.md").read_text()
    assert "of the same sets without degradation" in text and "12 real and 12 fake videos" in text
    with Image.open(tmp_path / "stress.png") as picture:
        assert picture.size[0] > 1000
    grouped = read_rows(tmp_path / "stress_groups.json")
    # Undegraded, and the strongest step of each kind.
    assert [(row["kind"], row["strength"]) for row in grouped[::2]] == [
        *(("none", "stored"), ("jpeg", "10"), ("h264", "40"), ("crop", "1"), ("frames", "1"))
    ]
    assert len(grouped) == 10 and {row["group"] for row in grouped} == {"day", "night"}
    assert grouped[0]["auc"] <= grouped[1]["auc"]


@pytest.mark.e2e
def test_the_threshold_is_found_as_score_does(model, faces, fork_server, tmp_path):
    network = load(model)
    values = vars(CALIBRATION) | {"weights_sha256": network.sha256, "view": "resize"}
    write_calibration(tmp_path / "fitted", Calibration(**values))
    file = tmp_path / "fitted" / "calibration.json"

    def threshold(*arguments):
        done = stress(
            fork_server,
            *("--model", model, faces, "--output", tmp_path / "out", "--kinds=frames"),
            *arguments,
        )
        assert done.returncode == 0, done.stderr
        text = (tmp_path / "out" / "stress.md").read_text()
        return next(line for line in text.splitlines() if line.startswith("Threshold"))

    assert threshold() == "Threshold 0.5: 0.500000, not calibrated."
    fitted = "Threshold eer: 0.250000, of calibration.json, fitted on x."
    assert threshold("--calibration", file) == fitted
    done = stress(
        fork_server,
        *("--model", model, faces, "--output", tmp_path / "out", "--kinds=frames"),
        *("--calibration", file, "--view=resize256_crop224"),
    )
    assert done.returncode == 78 and "view = resize, not resize256" in done.stderr


def test_a_threshold_that_the_scores_do_not_determine_leaves_the_rates_out():
    ones = scored("mine", {f"{label}{i}": (1.0,) for label in "fr" for i in range(20)})
    found = own_threshold(ones, name="fpr_5")
    assert found.value is None and "share the highest score" in found.origin
    row = measure(ones, found.value)
    assert row["auc"] == 0.5 and "tpr" not in row and "fpr" not in row


@pytest.mark.e2e
def test_mistakes_are_one_sentence(model, faces, fork_server, tmp_path):
    def refused(*arguments, code=78):
        output = ("--output", tmp_path / "no")
        done = stress(fork_server, "--model", model, *output, *arguments)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "no").exists()
        return done.stderr.splitlines()[-1]

    one_class = refused(faces, "--classes=fake")
    assert "both classes are degraded alike" in one_class and "measures that" in one_class
    assert "there is no 'jpg'; did you mean 'jpeg'?" in refused(faces, "--kinds=jpg")
    assert "give --set-margin" in refused(faces, "--kinds=crop")
    assert "is no margin above 0" in refused(faces, "--kinds=crop", "--set-margin=nan")
    rendered = ("--config=configs/eval/rendered.py:smoke", "--kinds=crop", "--set-margin=0.3")
    assert "cam-m, cam-o is rendered without a face's box" in refused(*rendered)
    small = refused(faces, "--kinds=frames", "--threshold=fpr_5")
    assert "needs 20 real ones; there are 12" in small and "choose --threshold=eer" in small
    assert "and there is none: give a number" in refused(faces, "--threshold=fpr1")
    pictures = "--config.data.test.mine.videos=picture"
    assert "every video of the set has one frame" in refused(faces, pictures, "--kinds=frames")
    (tmp_path / "file").write_text("")
    late = ("--output", tmp_path / "file")
    assert "cannot be written" in refused(faces, "--kinds=jpeg", *late, code=73)


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


def test_the_measures_are_over_videos_at_the_threshold():
    row = measure(SCORES, 0.5)
    assert row["auc"] == 1.0 and row["equal_error_rate"] == 0.0
    assert row["tpr"] == 1.0 and row["fpr"] == 0.0 and row["fpr_interval"][1] > 0.5
    assert json.dumps(row)
