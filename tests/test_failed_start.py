"""Tests that a failed start removes the workdir or its new files, and nothing else."""

import os

import pytest
from etils import epath

from fsvfm_jax.errors import ConfigError, DataError, Preempted, UserError
from fsvfm_jax.run.failed_start import Start
from fsvfm_jax.run.lock import RunLock


def begin(workdir: epath.Path, *, error: BaseException, checkpoint: bool = False, over=False):
    """Writes all files of a start, and then raises the error."""
    start = Start(workdir, active=True)
    with start.folders():
        workdir.mkdir(parents=True, exist_ok=True)
        with RunLock(workdir), start.files():
            for name in ("config.json", "parameters.txt", "data_stats.json", "metrics.jsonl"):
                (workdir / name).write_text("new")
            for name in ("checkpoints", "tensorboard"):
                (workdir / name).mkdir(exist_ok=True)
            (workdir / "tensorboard" / "events").write_text("new")
            if checkpoint:
                (workdir / "checkpoints" / "1").mkdir()
            if over:
                start.is_over()
            raise error


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("error", [DataError("no"), ConfigError("no"), KeyboardInterrupt()])
def test_a_new_workdir_goes_with_the_folders_made_for_it(tmp_path, error):
    (tmp_path / "there").mkdir()
    with pytest.raises(type(error)):
        begin(epath.Path(tmp_path) / "there" / "runs" / "a", error=error)
    assert names(tmp_path) == {"there"} and names(tmp_path / "there") == set()


@pytest.mark.parametrize("error", [ValueError(), RuntimeError("out of memory"), UserError("x")])
def test_the_statistics_stay_after_an_error_that_is_answered_by_another_start(tmp_path, error):
    """Checks errors with code 70; computing the statistics again would read all faces."""
    for _ in range(2):
        with pytest.raises(type(error)):
            begin(epath.Path(tmp_path) / "run", error=error)
        assert names(tmp_path / "run") == {"data_stats.json"}
    with pytest.raises(DataError):
        begin(epath.Path(tmp_path) / "run", error=DataError("no"))
    assert names(tmp_path / "run") == {"data_stats.json"}  # written before this start


def test_links_and_pipes_are_removed_as_such(tmp_path):
    workdir, outside = epath.Path(tmp_path) / "run", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("of somebody else")
    start = Start(workdir, active=True)
    with pytest.raises(DataError), start.folders():
        workdir.mkdir()
        with start.files():
            os.symlink(outside, workdir / "tensorboard")
            os.mkfifo(workdir / "images")
            raise DataError("no")
    assert names(tmp_path) == {"outside"} and names(outside) == {"file"}


def test_what_was_there_stays_as_it_was(tmp_path):
    for name in ("notes.txt", "data_stats.json"):
        (tmp_path / name).write_text("old")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError):
        begin(epath.Path(tmp_path), error=DataError("no"))
    assert names(tmp_path) == {"notes.txt", "data_stats.json", "images"}
    assert (tmp_path / "notes.txt").read_text() == "old"


def test_what_somebody_else_puts_there_stays(tmp_path):
    workdir = epath.Path(tmp_path) / "run"
    start = Start(workdir, active=True)
    with pytest.raises(DataError), start.folders():
        workdir.mkdir()
        with start.files():
            (workdir / "config.json").write_text("new")
            (workdir / "run.lock").write_text("of another process")
            raise DataError("no")
    assert names(workdir) == {"run.lock"}


@pytest.mark.parametrize(
    "case",
    [
        {"error": DataError("no"), "over": True},  # after the first step
        {"error": DataError("no"), "checkpoint": True},
        {"error": Preempted("stopped")},  # the same command continues
    ],
)
def test_a_run_that_goes_on_later_keeps_everything(tmp_path, case):
    with pytest.raises(type(case["error"])):
        begin(epath.Path(tmp_path) / "run", **case)
    assert {"config.json", "data_stats.json", "tensorboard"} < names(tmp_path / "run")


def test_other_processes_remove_nothing(tmp_path):
    workdir = epath.Path(tmp_path) / "run"
    start = Start(workdir, active=False)
    with pytest.raises(DataError), start.folders():
        workdir.mkdir()
        with start.files():
            (workdir / "config.json").write_text("new")
            raise DataError("no")
    assert names(workdir) == {"config.json"}
