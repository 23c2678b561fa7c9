"""Tests the verb `stress` on a tiny detector."""

import json

import pytest
from labelled_faces import write_detector, write_faces
from PIL import Image
from scored_sets import scored

from fsvfm_jax.predict.stress import fewer_frames, measure
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
    assert len(grouped) == 2 * len(rows) and {row["group"] for row in grouped} == {"day", "night"}
    assert grouped[0]["auc"] <= grouped[1]["auc"]


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
    small = refused(faces, "--kinds=frames")
    assert "needs 20 real ones; there are 12" in small and "choose --threshold=eer" in small
    assert "did you mean 'fpr_1'?" in refused(faces, "--kinds=jpeg", "--threshold=fpr1")
    pictures = "--config.data.test.mine.videos=picture"
    assert "every video of the set has one frame" in refused(faces, pictures, "--kinds=frames")


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
