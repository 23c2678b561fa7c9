"""Tests the verb `calibrate` on a tiny detector."""

import json
import re
import shutil

import numpy as np
import pytest
from labelled_faces import command, sentence
from PIL import Image

from fsvfm_jax.data.labelled.faces import FAKE
from fsvfm_jax.data.rendered.rendered_sets import RenderedFaces
from fsvfm_jax.errors import StorageError
from fsvfm_jax.predict import labelled
from fsvfm_jax.predict.calibrate import RESULTS
from fsvfm_jax.predict.calibration import read_calibration
from fsvfm_jax.report.metrics import probability
from fsvfm_jax.report.reliability import calibration_error, fit_temperature
from fsvfm_jax.report.scores import read_scores
from fsvfm_jax.report.write import read_rows

COMMAND = "fsvfm_jax.predict"
NO_WORKERS = "--config.data.num_workers=0"
# ml_collections loads a config file by a function that Python 3.12 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.mark.e2e
def test_the_command_writes_what_score_reads_and_its_scores_are_those_of_an_evaluation(
    detector_folder, labelled_tree, fork_server, tmp_path
):
    model = shutil.copytree(detector_folder, tmp_path / "detector")
    groups = (f"--groups={labelled_tree / 'groups.csv'}", "--group=light")
    words = ("calibrate", f"--model={model}", str(labelled_tree), *groups, NO_WORKERS)
    done = fork_server.run(COMMAND, *words)
    assert done.returncode == 0, done.stderr
    found = read_calibration(model / "calibration.json")
    assert (found.faces, found.real, found.fake, found.unit) == (72, 12, 12, "video")
    assert found.sets == ["faces/test"] and found.view == "resize"
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", found.date)
    assert "fpr_5" in done.stdout and "needs 20 real ones; there are 12" in done.stdout
    assert (model / "calibration.md").read_text() in done.stdout
    with Image.open(model / "reliability.png") as picture:
        assert picture.size[0] > 1000
    rows = read_rows(model / "calibration_groups.json")
    assert {row["group"] for row in rows} == {"day", "night"}
    assert sum(row["faces"] for row in rows) == 69
    assert "3 of 72 faces have no row" in done.stderr
    of_groups = (model / "calibration_groups.md").read_text()
    assert "3 faces have no row and are in no group" in of_groups
    for text in (done.stdout, of_groups):
        assert f"12 real and 12 fake videos of faces/test, {found.date}: 72 faces" in text

    done = fork_server.run(
        "fsvfm_jax.main",
        "--config=configs/eval/folder.py",
        f"--config.init.params={model}",
        f"--config.data.paths=('{labelled_tree}',)",
        "--config.select=('given',)",
        "--config.data.num_workers=0",
        f"--config.groups.file={labelled_tree / 'groups.csv'}",
        "--config.groups.column=light",
        f"--workdir={tmp_path / 'report'}",
    )
    assert done.returncode == 0, done.stderr
    scores = read_scores(tmp_path / "report" / "scores" / "mine_given.csv", dataset="mine")
    error = calibration_error(scores.p_fake, scores.fake)
    assert found.error_before == pytest.approx(error, abs=1e-6)
    of_evaluation = read_rows(tmp_path / "report" / "table_groups.json")
    assert {row["group"]: row["auc"] for row in of_evaluation} == {
        row["group"]: row["auc"] for row in rows
    }


def test_earlier_results_are_replaced_only_if_this_is_asked_for_and_then_all_of_them(
    detector_folder, labelled_tree, tmp_path, capsys
):
    model = shutil.copytree(detector_folder, tmp_path / "detector")
    words = ("calibrate", "--model", model, labelled_tree)
    for name in RESULTS:  # A calibration of other weights must not hinder a new one.
        (model / name).write_text("earlier")
    said = sentence(capsys, 73, *words)
    assert f"{model} has results of an earlier run (calibration.json, calib" in said
    assert "give --overwrite" in said
    assert {(model / name).read_text() for name in RESULTS} == {"earlier"}
    (tmp_path / "link").symlink_to(model)
    assert "link has results" in sentence(capsys, 73, *words, "--output", tmp_path / "link")
    command(*words, "--overwrite", NO_WORKERS)
    assert not (model / "calibration_groups.md").exists()
    assert not (model / "calibration_groups.json").exists()
    assert json.loads((model / "calibration.json").read_text())["faces"] == 72


def test_earlier_results_stay_until_new_ones_replace_them(
    detector_folder, labelled_tree, tmp_path, capsys, monkeypatch
):
    words = ("calibrate", "--model", detector_folder, labelled_tree, "--output", tmp_path)
    (tmp_path / "calibration.json").write_text("earlier")
    (tmp_path / "calibration.md").mkdir()
    said = sentence(capsys, 73, *words, "--overwrite")
    assert "calibration.md is a folder: remove it" in said
    (tmp_path / "calibration.md").rmdir()

    def full(*args, **options):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(labelled, "make_score", lambda task: lambda faces, name: np.arange(72.0))
        patch.setattr("fsvfm_jax.predict.calibrate.encode_picture", full)
        assert "the disk is full" in sentence(capsys, 73, *words, "--overwrite")
    assert [x.name for x in tmp_path.iterdir()] == ["calibration.json"]
    assert (tmp_path / "calibration.json").read_text() == "earlier"


@pytest.mark.slow  # other tests calibrate on folders
def test_rendered_sets_are_named_by_a_config(detector_folder, tmp_path):
    config = "--config=configs/eval/rendered.py:smoke"
    words = ("calibrate", "--model", detector_folder, "--output", tmp_path, config)
    command(*words, NO_WORKERS)
    stored = json.loads((tmp_path / "calibration.json").read_text())
    assert stored["sets"] == ["cam-m", "cam-o"]
    assert stored["faces"] == 2 * 16 * 4 and stored["real"] == 16
    of_fitted = ("--calibration", tmp_path / "calibration.json", "--kinds=frames", NO_WORKERS)
    words = ("stress", "--model", detector_folder, "--output", tmp_path / "stress", config)
    command(*words, *of_fitted)
    assert "chosen on these same faces" in (tmp_path / "stress" / "stress.md").read_text()


def test_mistakes_are_one_sentence_before_the_network_is_read(
    detector_folder, labelled_tree, tmp_path, capsys, monkeypatch
):
    def refused(code, *words):
        return sentence(capsys, code, "calibrate", *words)

    faces = labelled_tree
    of_model = ("--model", detector_folder, "--output", tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr("fsvfm_jax.predict.labelled.opening.load_network", lambda *args, **x: 1 / 0)
        assert "error: name a folder with test" in refused(78, *of_model)
        said = refused(65, *of_model, tmp_path)
        assert "test does not exist" in said and "must be in folders such as" in said
        one_class = "--config.data.test.mine.exclude=('real',)"
        assert "no real face, and every rate needs both" in refused(65, *of_model, faces, one_class)
        assert "typo is no folder" in refused(65, *of_model, faces, tmp_path / "typo")
        for flag in ("--config.data.view=resize", "-config.data.view=resize", "--num_processes=2"):
            said = f"{flag.partition('=')[0]} is not read here"
            assert said in refused(78, *of_model, faces, flag)
        training = "--config=configs/vit_s.py:smoke"
        assert "give a config of configs/eval/" in refused(78, *of_model, faces, training)
        rendered = "--config=configs/eval/rendered.py"
        assert "which are all rendered" in refused(78, *of_model, faces, rendered)
        assert "give --groups and --group together" in refused(78, *of_model, faces, "--group=x")
        (tmp_path / "g.csv").write_text("path,light\nx,day\n")
        groups = (f"--groups={tmp_path / 'g.csv'}", "--group=light")
        assert "names none of the 72 faces" in refused(65, *of_model, faces, *groups)
        (tmp_path / "file").write_text("")
        (tmp_path / "nowhere").symlink_to("missing")
        for name, reason in (("file", "it is no folder"), ("nowhere", "it is a link to nothing")):
            assert reason in refused(73, *of_model, faces, "--output", tmp_path / name)
        file = tmp_path / "model.pth"
        file.write_bytes(b"")
        assert "name a folder with --output" in refused(78, f"--model={file}", faces)
        for flag in ("--model", "--stats", "--encoder"):
            assert "missing cannot be read" in refused(65, *of_model, faces, f"{flag}=missing")
    config = tmp_path / "other.py"
    config.write_text(
        "from configs.eval import folder\n\n\ndef get_config(arg=''):\n"
        "    c = folder.get_config(arg)\n    c.data.view = 'resize256_crop224'\n    return c\n"
    )
    view = refused(78, *of_model, faces, f"--config={config}")
    assert "give --view=resize256_crop224, or correct the config" in view
    assert not (tmp_path / "new").exists()


def margins_of_rendered(split, videos):
    """Returns statistics of the pixels of rendered faces, and which faces are fake."""
    faces = RenderedFaces("cam-m", split, image_size=32, seed=0, videos=videos, frames=1)
    rows = []
    for index in range(len(faces)):
        image = faces[index]["image"].astype(np.float64) / 255
        slopes = [np.abs(np.diff(image, axis=axis)).mean((0, 1)) for axis in (0, 1)]
        rows.append(np.concatenate([image.mean((0, 1)), image.std((0, 1)), *slopes]))
    return np.array(rows), np.array([faces.label(i) == FAKE for i in range(len(faces))])


@pytest.mark.e2e
def test_the_temperature_of_one_half_of_a_rendered_set_lowers_the_error_of_the_other():
    linear = pytest.importorskip("sklearn.linear_model")
    statistics, fake = margins_of_rendered("train", 40)
    classifier = linear.LogisticRegression(C=100.0, max_iter=1000).fit(statistics, fake)
    statistics, fake = margins_of_rendered("test", 80)
    margins = 5.0 * classifier.decision_function(statistics)  # far too sure
    first = np.arange(len(fake)) // 2 % 2 == 0
    for half, other in ((first, ~first), (~first, first)):
        temperature = fit_temperature(margins[half], fake[half])
        before, after = probability(margins[other]), probability(margins[other] / temperature)
        assert calibration_error(after, fake[other]) < 0.7 * calibration_error(before, fake[other])
