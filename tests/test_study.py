"""Tests that the runs of a study belong to one config, and that reports follow their faces."""

import contextlib
import os

import numpy as np
import pytest
import tiny

from configs import evaluation, sets
from fsvfm_jax.benchmark import study
from fsvfm_jax.config.resolve import to_json
from fsvfm_jax.errors import ConfigError, NotFiniteError, Preempted, StorageError
from fsvfm_jax.report.resampling import Resampled
from fsvfm_jax.report.write import write_table


def test_a_run_with_another_config_is_refused(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(study.train, "train", lambda *args, **options: trained.append(args[1]))
    config = tiny.detection_config("linear")
    study.train_run(config, tmp_path / "run")
    (tmp_path / "run").mkdir()
    study.train_run(config, tmp_path / "run")
    other = config.copy_and_resolve_references()
    other.optimizer.lr = 0.5
    with pytest.raises(ConfigError, match=r"another config\.optimizer\.lr: give another --output"):
        study.train_run(other, tmp_path / "run")
    assert len(trained) == 2
    unlike = config.copy_and_resolve_references()
    unlike.data.num_workers = 3
    study.train_run(unlike, tmp_path / "run")


def test_a_stopped_training_names_no_flag_that_the_command_does_not_have(tmp_path, monkeypatch):
    def stopped(*args, **options):
        raise Preempted("stopped at step 2 and saved; the same command with --workdir=X goes on")

    monkeypatch.setattr(study.train, "train", stopped)
    with pytest.raises(
        Preempted, match=r"stopped in the training of .*start the same command again"
    ):
        study.train_run(tiny.detection_config("linear"), tmp_path / "run")


@pytest.mark.parametrize("error", [None, NotFiniteError("the loss is not finite")])
def test_a_signal_ends_the_command_again_after_a_run_whatever_its_end(tmp_path, monkeypatch, error):
    ended = []

    def trained(*args, **options):
        if error is not None:
            raise error

    monkeypatch.setattr(study.train, "train", trained)
    monkeypatch.setattr(study.signals, "end_again", lambda: ended.append(True))
    with contextlib.suppress(NotFiniteError):
        study.train_run(tiny.detection_config("linear"), tmp_path / "run")
    assert ended == [True]


def test_differences_are_from_the_first_row_by_group():
    def of(value):
        return [{name: Resampled(value, np.full(10, value)) for name in "ab"}]

    groups = {"a": ["a"], "mean": ["a", "b"]}
    (row,) = study.differences({"x": of(0.5), "y": of(0.75)}, groups)
    assert row["method"] == "y - x"
    assert row["difference@mean"] == {"mean": 0.25, "sd": None, "n": 1}
    assert row["difference_interval@a"] == (0.25, 0.25)


@pytest.fixture
def evaluated(monkeypatch):
    """Returns the folders of the reports that were made."""
    made = []

    def evaluate(config, folder):
        made.append(str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(to_json(config))
        write_table(folder, "table", [{"dataset": "x", "selection": "validation"}], caption="")

    monkeypatch.setattr(study.evaluate, "evaluate", evaluate)
    return made


def test_a_report_is_made_again_for_another_config_or_other_faces(tmp_path, evaluated):
    config = evaluation.get_config()
    config.data.test.update(sets.rendered(("swap-a",), "test", videos=8))
    faces = study.tested_faces(config)
    for _ in range(2):
        study.evaluate_run(config, tmp_path, seed=0, faces=faces)
    assert len(evaluated) == 1 and config.init.params == ""
    config.data.test["swap-a"].videos = 10
    other = study.tested_faces(config)
    assert other != faces
    study.evaluate_run(config, tmp_path, seed=0, faces=other)
    assert len(evaluated) == 2
    study.evaluate_run(config, tmp_path, seed=0, faces="x")
    assert len(evaluated) == 3


def test_a_run_of_one_step_has_no_time(tmp_path):
    (tmp_path / "config.json").write_text('{"batch_size": 8}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    assert study.training_seconds(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "images_per_second": 4.0}\n')
    assert study.training_seconds(tmp_path) == 20


def test_a_file_of_a_run_that_is_missing_or_damaged_is_one_sentence(tmp_path):
    with pytest.raises(StorageError, match=r"step\.json cannot be read .*: delete the folder"):
        study.step_size(tmp_path)
    for content in ("{", "{}", '{"trained_parameters": "x"}'):
        (tmp_path / "step.json").write_text(content)
        with pytest.raises(StorageError, match=r"step\.json is damaged"):
            study.step_size(tmp_path)


def test_a_damaged_config_beside_a_run_is_named_with_the_way_out(tmp_path):
    (tmp_path / "run.config.json").write_text("{")
    with pytest.raises(StorageError, match=r"run\.config\.json is damaged .*: delete it and .*run"):
        study.claim(tmp_path / "run", tiny.detection_config("linear"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "bytes"])
def test_an_odd_file_of_faces_is_refused_or_replaced(tmp_path, evaluated, kind):
    config = evaluation.get_config()
    config.data.test.update(sets.rendered(("swap-a",), "test", videos=8))
    study.evaluate_run(config, tmp_path, seed=0, faces="x")
    file = tmp_path / "report" / "faces.txt"
    file.unlink()
    if kind == "bytes":
        file.write_bytes(b"\xff")
        study.evaluate_run(config, tmp_path, seed=0, faces="x")
        assert len(evaluated) == 2 and file.read_text() == "x"
        return
    os.mkfifo(file) if kind == "pipe" else file.mkdir()
    with pytest.raises(StorageError, match=r"faces\.txt cannot be read .*: delete it"):
        study.evaluate_run(config, tmp_path, seed=0, faces="x")
