"""Tests names, marks, states and times of runs."""

import json
import time

import pytest
from etils import epath
from run_workdirs import numbers, write_lines, write_run

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.run.lock_holder import record
from fsvfm_jax.visualize.run_facts import (
    MAX_MARKS,
    Run,
    describe,
    is_running,
    names_of,
    seconds_left,
    skipped_steps,
    state_of,
)
from fsvfm_jax.visualize.run_folder import read_folder


def described(workdir) -> Run:
    return describe(read_folder(epath.Path(workdir)), "run")


def named(*paths: str) -> list[str]:
    return names_of([epath.Path(path) for path in paths])


def test_names_have_as_many_parents_as_they_need():
    assert named("/runs/b") == ["b"]
    assert named("/runs/a/", "/runs/b") == ["a", "b"]
    assert named("/x/vit", "/y/vit", "/z/other") == ["x/vit", "y/vit", "other"]
    assert named("/p/x/vit", "/q/x/vit") == ["p/x/vit", "q/x/vit"]
    assert named("/vit", "/x/vit") == ["vit", "x/vit"]
    assert named("gs://bucket/run", "/run") == ["bucket/run", "run"]
    assert len(set(named("/a/b", "/b", "/c/a/b"))) == 3


@pytest.mark.parametrize("other", ["/runs/b", "/runs/b/", "/runs/../runs/b"])
def test_a_workdir_given_twice_is_refused(other):
    with pytest.raises(ConfigError, match="given twice"):
        named("/runs/b", other)


def test_steps_and_epochs_are_those_of_training(tmp_path):
    run = described(write_run(tmp_path / "run"))
    assert run.schedule.total_steps == 320 and run.steps_per_epoch == 32 and run.notes == []


def test_an_odd_config_is_named(tmp_path):
    workdir = write_run(tmp_path / "run")
    for content in ({"task": "pretrain"}, {"task": []}, {"task": "pretrain", "epochs": {}}):
        (workdir / "config.json").write_text(json.dumps(content))
        run = described(workdir)
        assert run.schedule is None and "number of steps is not known" in run.notes[-1]
        assert state_of(run) == "not running: its last step is not known"
        assert run.steps_per_epoch == 32


def test_restarts_rewinds_and_changes_are_marks(tmp_path):
    workdir = write_run(tmp_path / "run", starts=((1, 0), (100, 32), (200, 40)))
    (workdir / "rewinds.json").write_text('[{"step": 32, "skip_ranges": [[0, 9]]}]')
    changed = {"fingerprint": {"images": 1024}, "accepted": [{"step": 40, "seed": [0, 1]}]}
    (workdir / "fingerprint.json").write_text(json.dumps(changed))
    marks = described(workdir).marks
    assert [(mark.step, mark.kind, mark.seconds) for mark in marks] == [
        (32, "rewind", None),
        (32, "start", 100),
        (40, "change", None),
        (40, "start", 200),
    ]
    assert "[[0, 9]]" in marks[0].text and "seed" in marks[2].text


def test_alarms_are_marks_and_a_collapse_may_end_the_run(tmp_path):
    workdir = write_run(tmp_path / "run")
    alarm = {"step": 40, "alarm": "collapse", "message": "variance_z is 0"}
    write_lines(workdir / "alarms.jsonl", [alarm])
    run = described(workdir)
    assert [mark[:3] for mark in run.marks] == [(40, "alarm", "collapse: variance_z is 0")]
    assert "stopped before" in state_of(run)
    config = json.loads((workdir / "config.json").read_text()) | {"monitor": {"collapse": "stop"}}
    (workdir / "config.json").write_text(json.dumps(config))
    assert "stopped before" in state_of(described(workdir))  # It trained on until step 64.
    write_lines(workdir / "alarms.jsonl", [alarm | {"step": 64}])
    assert "because of a collapse" in state_of(described(workdir))


def test_a_run_without_event_files_says_that_restarts_are_not_known(tmp_path):
    run = described(write_run(tmp_path / "run", starts=()))
    assert run.marks == [] and "restarts are not known" in run.notes[0]


def test_skipped_steps_are_counted_with_those_that_were_not_logged(tmp_path):
    workdir = write_run(tmp_path / "run")
    steps = [numbers(step, skipped=float(step in (8, 60))) for step in range(4, 68, 4)]
    write_lines(workdir / "metrics.jsonl", steps)
    epoch = {"epoch": 0, "step": 32, "steps": 32, "skipped": 3 / 32}
    write_lines(workdir / "epochs.jsonl", [epoch])
    run = described(workdir)
    assert skipped_steps(run) == 4
    assert [mark.step for mark in run.marks if mark.kind == "skipped"] == [8, 32, 60]
    assert "2 skipped steps in epoch 0 that were not logged" in run.marks[1].text


def test_many_marks_are_limited_and_counted(tmp_path):
    starts = tuple((1000 + n, n) for n in range(2 * MAX_MARKS))
    run = described(write_run(tmp_path / "run", starts=starts))
    assert len(run.marks) == MAX_MARKS and f"{2 * MAX_MARKS - 1} marks" in run.notes[0]


def test_the_state_follows_from_lock_and_steps(tmp_path):
    workdir = write_run(tmp_path / "run")
    assert state_of(described(workdir)) == "not running: stopped before its last step"
    assert seconds_left(described(workdir)) is None
    (workdir / "run.lock").write_bytes(record("token"))
    run = described(workdir)
    assert is_running(run) and state_of(run).startswith("running: process")
    assert seconds_left(run) == (320 - 64) * 32 / 100
    holder = json.loads(record("token")) | {"renewed": time.time() - 500}
    (workdir / "run.lock").write_text(json.dumps(holder))
    run = described(workdir)
    assert not is_running(run) and "it was killed" in state_of(run)
    (workdir / "run.lock").unlink()
    (workdir / "not_finite.json").touch()
    assert "too many skipped steps" in state_of(described(workdir))
    write_lines(workdir / "metrics.jsonl", [numbers(320)])
    assert state_of(described(workdir)) == "finished"
