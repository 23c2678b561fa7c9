"""Tests evaluation from a run, folder or file to a table with the origin of each number."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from golden_files import detector
from labelled_trees import write_pictures
from ml_collections import ConfigDict
from tiny import detection_config as tiny_config
from tiny import run_detection as run

from configs import evaluation, transfer, vit_s
from fsvfm_jax import evaluate
from fsvfm_jax.config.resolve import resolve, to_json
from fsvfm_jax.convert import pth, reference, runs
from fsvfm_jax.convert.__main__ import main as convert
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.report.scores import read_scores
from fsvfm_jax.report.table import plain

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("few_draws")]


def evaluation_config(params, **changes):
    c = evaluation.get_config()
    c.init.params = str(params)
    for name in ("swap-a", "warp-c"):
        c.data.test[name] = transfer.rendered_set(name, "test", videos=6, frames=2)
    c.batch_size = 16
    c.data.num_workers = 0
    c.update_from_flattened_dict({name.replace("__", "."): x for name, x in changes.items()})
    return resolve(c)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns a run with two validated checkpoints, which are both kept."""
    workdir = tmp_path_factory.mktemp("trained")
    run(workdir, tiny_config(changes={"checkpoint.keep": 9, "optimizer.lr": 1e-3}))
    return workdir


def rows_of(workdir):
    return json.loads((workdir / "table.json").read_text())["rows"]


def test_a_run_gets_a_row_for_every_set_and_way_of_choosing(trained, tmp_path, capsys):
    ways = ("validation", "last", "test-oracle")
    evaluate.evaluate(evaluation_config(trained, select=ways), epath.Path(tmp_path))
    rows = rows_of(tmp_path)
    printed = capsys.readouterr().out
    assert f"are in {tmp_path / 'table.md'}" in printed
    assert plain(rows) in printed
    sets = [(row["dataset"], row["selection"]) for row in rows]
    assert sets == [
        *((name, way) for way in ways for name in ("swap-a", "warp-c")),
        *(("mean of 2 sets", way) for way in ways),
    ]
    by = {(row["dataset"], row["selection"]): row for row in rows}
    lines = [json.loads(x) for x in (trained / "validation.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda line: line["val_loss"])["step"]
    assert by["swap-a", "validation"]["step"] == best
    assert by["swap-a", "last"]["step"] == by["swap-a", "last"]["run_steps"] == 6
    for name in ("swap-a", "warp-c"):
        others = [by[name, way]["video_auc"] for way in ways]
        assert others[2] == max(others)
        assert by[name, "last"]["images"] == 12 and by[name, "last"]["videos"] == 6
    assert (
        by["swap-a", "test-oracle"]["candidates"] == 2 and by["swap-a", "last"]["candidates"] == 1
    )
    assert "test-oracle" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "roc.png").stat().st_size > 10_000
    assert all(row["seed"] == 0 for row in rows)
    count = sum(x.size for x in jax.tree.leaves(runs.read_run(trained).state.params))
    assert all((row["mode"], row["trainable"]) == ("full", count) for row in rows)
    text = (tmp_path / "table.md").read_text()
    assert f"Detector: {trained}; images: resize, in float32." in text
    assert "swap-a: rendered frames 2, name swap-a, seed 0, split test, videos 6." in text
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored["init"]["params"] == str(trained) and stored["task"] == "evaluate"
    scores = read_scores(tmp_path / "scores" / "swap-a_last.csv", dataset="swap-a")
    assert len(scores.files) == 12 and scores.fake.sum() == 6


def test_a_spoof_table_has_thresholds_from_other_videos_from_the_test_and_half(trained, tmp_path):
    config = evaluation_config(trained, report="spoof", select=("last",))
    config.data.val["swap-b"] = transfer.rendered_set("swap-b", "val", videos=6, frames=2)
    evaluate.evaluate(config, epath.Path(tmp_path))
    row = rows_of(tmp_path)[0]
    for source in ("validation", "0.5", "test"):
        assert 0 <= row[f"hter@{source}"] <= 1 and 0 <= row[f"apcer@{source}"] <= 1
    low, high = row["hter_interval@validation"]
    assert low <= row["hter@validation"] <= high
    assert row["hter@test"] <= min(row["hter@validation"], row["hter@0.5"]) + 1e-12
    assert "threshold on the test set" in (tmp_path / "table.md").read_text()


def test_an_exported_folder_scores_as_its_run(trained, tmp_path):
    evaluate.evaluate(evaluation_config(trained, select=("last",)), epath.Path(tmp_path / "run"))
    convert(["to", "folder", str(trained), str(tmp_path / "folder"), "--license=apache-2.0"])
    config = evaluation_config(tmp_path / "folder", select=("given",))
    evaluate.evaluate(config, epath.Path(tmp_path / "of_folder"))
    found = [
        read_scores(tmp_path / name / "scores" / f"swap-a_{way}.csv", dataset="x").p_fake
        for name, way in (("run", "last"), ("of_folder", "given"))
    ]
    np.testing.assert_allclose(*found, atol=1e-6)


def test_a_reference_file_needs_the_order_of_its_labels_and_both_orders_agree(tmp_path):
    file = tmp_path / "detector.pth"
    params = reference.to_params(detector("dfd"))
    pth.write(file, reference.to_state_dict(params), key="model")
    options = {"select": ("given",), "init__num_heads": 4}
    stats = {"data__mean": (0.5,) * 3, "data__std": (0.25,) * 3}
    with pytest.raises(ConfigError, match="does not contain mean and std"):
        evaluate.evaluate(evaluation_config(file, **options), epath.Path(tmp_path / "a"))
    with pytest.raises(ConfigError, match="does not say which logit is which"):
        evaluate.evaluate(evaluation_config(file, **options, **stats), epath.Path(tmp_path / "a"))
    found = {}
    for labels in (("fake", "real"), ("real", "fake")):
        config = evaluation_config(file, init__labels=labels, **options, **stats)
        evaluate.evaluate(config, epath.Path(tmp_path / labels[0]))
        table = tmp_path / labels[0] / "scores" / "swap-a_given.csv"
        found[labels[0]] = read_scores(table, dataset="x").p_fake
    np.testing.assert_allclose(found["fake"], 1 - found["real"], atol=1e-6)


def test_the_table_says_what_counted_as_a_video(trained, tmp_path):
    names = [f"{x}/{v}/{i}.png" for x in ("real", "fake") for v in "ab" for i in range(3)]
    write_pictures(tmp_path / "x", names)
    config = evaluation_config(trained, select=("last",), data__paths=(str(tmp_path),))
    for name, videos in {"shown": "", "asked": "picture"}.items():
        config.data.test[name] = transfer.face_set("folder", "x", videos=videos, frames=2)
    evaluate.evaluate(config, epath.Path(tmp_path / "report"))
    by = {row["dataset"]: row for row in rows_of(tmp_path / "report")}
    assert (by["shown"]["videos"], by["shown"]["images"]) == (4, 8)
    assert (by["asked"]["videos"], by["asked"]["images"]) == (12, 12)
    caption = json.loads((tmp_path / "report/table.json").read_text())["caption"]
    assert "path x; 4 videos (4 by folder) of 3, 3, 3 frames (minimum, median, max" in caption
    assert "videos picture; 12 videos (12 single pictures (videos='picture')) of 1, 1, 1" in caption


def test_what_is_no_detector_or_no_run_is_named(trained, tmp_path):
    with pytest.raises(DataError, match=r"config\.init\.params = '.*no' does not exist"):
        evaluate.evaluate(evaluation_config(tmp_path / "no"), epath.Path(tmp_path))
    convert(["to", "folder", str(trained), str(tmp_path / "folder"), "--license=apache-2.0"])
    with pytest.raises(ConfigError, match=r"chooses among a run's checkpoints, and .* is no run"):
        evaluate.evaluate(evaluation_config(tmp_path / "folder"), epath.Path(tmp_path))
    # The error names the missing detector, not the selection.
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(DataError, match=r"notes\.txt"):
        evaluate.evaluate(evaluation_config(tmp_path / "notes.txt"), epath.Path(tmp_path))
    shutil.copytree(trained, tmp_path / "pretrained")
    config = to_json(resolve(vit_s.get_config("smoke")))
    (tmp_path / "pretrained" / "config.json").write_text(config)
    with pytest.raises(DataError, match=r"pretrained is no detector: fine-tune it first"):
        evaluate.evaluate(evaluation_config(tmp_path / "pretrained"), epath.Path(tmp_path))
    config = evaluation_config(trained, select=("given",), init__step=4)
    with pytest.raises(ConfigError, match=r"checkpoint 4 in .* cannot be used: not there"):
        evaluate.evaluate(config, epath.Path(tmp_path))


def test_a_model_that_the_papers_do_not_have_is_refused(trained, tmp_path):
    config = evaluation_config(trained, compare="FS-VFM ViT-M")
    with pytest.raises(ConfigError, match=r"config\.compare = .* did you mean 'FS-VFM ViT-S'"):
        evaluate.evaluate(config, epath.Path(tmp_path))


def test_check_scores_and_writes_nothing(trained, tmp_path):
    evaluate.evaluate(evaluation_config(trained), epath.Path(tmp_path / "new"), check_only=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "report", "error"),
    [
        ("test", "detection", r"config\.data\.test\): no fake face, and every metric needs both"),
        ("val", "spoof", r"config\.data\.val\): no fake face, and choosing a threshold needs both"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_scoring(trained, tmp_path, kind, report, error):
    write_pictures(tmp_path / "x" / "test", "real/v.png fake/v.png")
    config = evaluation_config(trained, report=report, data__paths=(str(tmp_path),))
    faces = transfer.face_set("folder", "x", split="test", exclude=("fake",))
    config.data[kind] = ConfigDict({"x": faces})
    with pytest.raises(DataError, match=error):
        evaluate.evaluate(config, epath.Path(tmp_path / "new"), check_only=True)


def test_a_set_that_is_tested_and_chooses_the_threshold_needs_two_names(trained, tmp_path):
    config = evaluation_config(trained, report="spoof")
    config.data.val["swap-a"] = transfer.rendered_set("swap-a", "val", videos=6, frames=2)
    with pytest.raises(ConfigError, match="both have a set swap-a: call one of them otherwise"):
        evaluate.evaluate(config, epath.Path(tmp_path / "new"), check_only=True)


def test_two_sets_whose_scores_would_be_one_file_are_refused_before_scoring(trained, tmp_path):
    config = evaluation_config(trained)
    config.data.test["SWAP-A"] = transfer.rendered_set("swap-a", "test", videos=6, frames=2)
    with pytest.raises(DataError, match="give one of the sets another name"):
        evaluate.evaluate(config, epath.Path(tmp_path / "new"), check_only=True)


def test_a_run_that_goes_on_has_no_last_checkpoint_without_a_warning(trained, tmp_path, caplog):
    stored = json.loads((trained / "config.json").read_text())
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored | {"epochs": 10}))
    with caplog.at_level(logging.WARNING, "fsvfm_jax"):
        config = evaluation_config(tmp_path / "run", select=("last",))
        evaluate.evaluate(config, epath.Path(tmp_path / "report"), check_only=True)
    assert "the run has not ended: step 6 of " in caplog.text


def test_a_run_without_validation_sets_has_no_validated_checkpoint(tmp_path):
    config = tiny_config(changes={"epochs": 1, "optimizer.warmup_epochs": 0.0})
    with config.data.unlocked():
        config.data.val = {}
    run(tmp_path, config)
    with pytest.raises(ConfigError, match=r"has no validated checkpoint \(config\.data\.val\)"):
        evaluate.evaluate(evaluation_config(tmp_path), epath.Path(tmp_path / "report"))


def test_tests_that_were_trained_on_are_counted(tmp_path, caplog):
    for name in ("train", "val", "test"):
        write_pictures(tmp_path / name, "real/v.png fake/v.png real/u.png fake/w.png")
    config = tiny_config(changes={"epochs": 1, "optimizer.warmup_epochs": 0.0})
    config.data.paths = (str(tmp_path),)
    with config.data.unlocked():
        config.data.train = {"a": transfer.face_set("folder", split="train")}
        config.data.val = {"b": transfer.face_set("folder", split="val")}
    run(tmp_path / "run", config)
    config = evaluation_config(tmp_path / "run", data__paths=(str(tmp_path),))
    with config.data.unlocked():
        config.data.test = {"c": transfer.face_set("folder", split="test")}
        config.data.val = {"d": transfer.face_set("folder", split="test")}
    caplog.clear()
    with caplog.at_level(logging.WARNING, "fsvfm_jax"):
        evaluate.evaluate(config, epath.Path(tmp_path / "report"), check_only=True)
    assert "4 videos of c seem to be in a too, which was trained on" in caplog.text
    assert "4 videos of d seem to be in a too, which was trained on" in caplog.text
    assert "4 videos of c seem to be in b too, which chose the checkpoint" in caplog.text
