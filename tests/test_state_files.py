"""Tests starts with an odd file in the workdir; docs/operating.md has the table."""

import json
import os
import shutil
import threading
from functools import partial

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from etils import epath
from hypothesis import given
from odd_files import BYTES, CONTENTS, JSON, KINDS, in_place_of
from tiny import run

from fsvfm_jax.errors import ConfigError, StorageError, UserError
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.run import integrity, tracking
from fsvfm_jax.run.checkpoint import Checkpoints
from fsvfm_jax.run.fingerprint import check_fingerprint
from fsvfm_jax.run.rewind import rewind
from fsvfm_jax.train_state import TrainState

RUN = {"epochs": 2, "schedule_epochs": 8, "checkpoint.every": 1, "data.num_workers": 0}
# The files of a run that a start reads, each with the exit code if it is unreadable.
NEEDED = {"fingerprint.json": 73, "rewinds.json": 73, "data_stats.json": 65}
# These contents have the wrong form for all of the files.
ODD = [name for name in CONTENTS if name not in ("a list", "an object")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns a complete run of 5 steps: a start restores and compares, but trains nothing."""
    workdir = tmp_path_factory.mktemp("finished")
    run(workdir, RUN)
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    """Returns a copy of the run."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.e2e
def test_a_start_goes_on_without_what_it_can_do_without(workdir, caplog):
    (workdir / "saving.txt").write_text("²")
    for name in ("²", "01", "9" * 30):
        (workdir / "checkpoints" / name).mkdir()
    for name in (".seen_by_all", "config.json.tmp"):
        (workdir / name).unlink(missing_ok=True)
        os.mkfifo(workdir / name)
    with caplog.at_level("INFO", "fsvfm_jax"):
        run(workdir, RUN)
    assert "nothing to do" in caplog.text and "saving.txt names no step" in caplog.text
    assert names(workdir / "checkpoints") == ["3", "4", "5"]
    assert names(workdir / "quarantine") == sorted(["01-1", "9" * 30 + "-1", "²-1"])


@pytest.mark.e2e
@pytest.mark.parametrize("name", NEEDED)
def test_a_start_ends_in_one_sentence_without_what_it_needs(workdir, name):
    changes = {"resume.step": 4} if name == "rewinds.json" else {}
    if name == "data_stats.json":
        changes = {"data.mean": None, "data.std": None}
    (workdir / name).write_text("null")
    with pytest.raises(UserError) as refused:
        run(workdir, RUN | changes)
    assert refused.value.exit_code == NEEDED[name]
    assert name in str(refused.value) and "\n" not in str(refused.value)
    assert names(workdir / "checkpoints") == ["3", "4", "5"]


def store(workdir, fingerprint, *, step=4):
    check_fingerprint(epath.Path(workdir), fingerprint, step=step, accept_changes=True)


class Done(Checkpoints):
    """Replaces the checkpoints; going back reads no file."""

    def __init__(self):
        pass

    def rewind(self, step):
        pass


def go_back(workdir):
    rewind(epath.Path(workdir), Done(), step=4, skip_ranges=())


READERS = {"fingerprint.json": partial(store, fingerprint={"seed": 0}), "rewinds.json": go_back}


@pytest.mark.parametrize("name", READERS)
def test_each_odd_content_and_kind_is_one_sentence(tmp_path, name):
    for content in (CONTENTS[odd] for odd in ODD):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StorageError, match=rf"{name} is damaged \(.*\): put back a copy"):
            READERS[name](tmp_path)
        assert (tmp_path / name).read_bytes() == content
    for kind in KINDS:
        with (
            in_place_of(tmp_path / name, kind),
            pytest.raises(StorageError, match=rf"{name} cannot be read \(it .*\): put back"),
        ):
            READERS[name](tmp_path)
        if kind == "folder":
            shutil.rmtree(tmp_path / name)


@pytest.mark.parametrize("name", READERS)
@given(content=JSON.map(lambda value: json.dumps(value).encode()) | BYTES)
def test_any_content_is_taken_or_one_sentence(tmp_path_factory, name, content):
    workdir = tmp_path_factory.getbasetemp() / "any"
    workdir.mkdir(exist_ok=True)
    (workdir / name).write_bytes(content)
    try:
        READERS[name](workdir)
    except UserError as error:
        assert "\n" not in printable(str(error)) and len(str(error)) < 2000


def test_a_difference_of_any_length_is_a_short_sentence(tmp_path):
    stored = {"fingerprint": {"seed": ["x"] * 10**5}, "accepted": []}
    (tmp_path / "fingerprint.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=r"seed was \['x'.*\.\.\. and is 0") as refused:
        check_fingerprint(epath.Path(tmp_path), {"seed": 0}, step=4, accept_changes=False)
    assert len(str(refused.value)) < 1000


# Odd files that appear while a run trains


@pytest.mark.e2e
def test_checkpoints_that_vanish_while_running_end_the_run(tmp_path, monkeypatch):
    original = tracking.Tracker.step

    def step(self, step, metrics, **options):
        original(self, step, metrics, **options)
        if step == 2:
            (tmp_path / "checkpoints").rename(tmp_path / "moved")

    monkeypatch.setattr(tracking.Tracker, "step", step)
    with pytest.raises(StorageError, match=r"checkpoints is no longer there.* step 3 was not"):
        run(tmp_path, RUN | {"checkpoint.every": 3})


TINY_STATE = TrainState(
    step=jnp.int32(7),
    params={"a": jnp.arange(3.0)},
    teacher_params={"a": jnp.arange(3.0)},
    opt_state={"b": jnp.arange(2.0)},
)


def open_checkpoints(workdir, **options):
    return Checkpoints(epath.Path(workdir) / "checkpoints", keep=3, **options)


def save(workdir, *steps):
    with open_checkpoints(workdir) as checkpoints:
        for step in steps:
            checkpoints.save(TINY_STATE, step=step, samples_seen=step)


def newest(workdir, **options):
    with open_checkpoints(workdir, **options) as checkpoints:
        return checkpoints.restore_newest_valid(TINY_STATE).samples_seen


@pytest.mark.parametrize("what", ["moved away", "a file", "a pipe"])
@pytest.mark.parametrize("looked", ["seen before the save", "seen by Orbax"])
def test_a_save_into_what_vanished_fails_at_once(tmp_path, what, looked, monkeypatch):
    """Checks too that no thread of Orbax prevents the end of the process."""
    save(tmp_path, 1)
    before = set(threading.enumerate())
    directory = tmp_path / "checkpoints"
    if looked == "seen by Orbax":
        monkeypatch.setattr(Checkpoints, "_check_space", lambda *_: None)
    with pytest.raises(StorageError) as refused, open_checkpoints(tmp_path) as checkpoints:
        directory.rename(tmp_path / "moved")
        if what == "a file":
            directory.write_text("")
        elif what == "a pipe":
            os.mkfifo(directory)
        checkpoints.save(TINY_STATE, step=2, samples_seen=2)
    assert "\n" not in str(refused.value) and str(directory) in str(refused.value)
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if "Signaling" in type(thread).__name__]
    directory.unlink(missing_ok=True)
    (tmp_path / "moved").rename(directory)
    save(tmp_path, 2)
    assert newest(tmp_path) == 2


@pytest.mark.e2e
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_the_checkpoint_before_one_of_an_odd_manifest_is_taken(tmp_path, content, caplog):
    save(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / "2" / "manifest.json").write_bytes(content)
    assert newest(tmp_path) == 1
    assert "checkpoints/2 is quarantined: it cannot be read" in caplog.text
    assert names(tmp_path / "quarantine") == ["2-1"]


def test_odd_names_hide_no_later_save(tmp_path):
    """Tests the rule of Orbax that a step below an existing one is not saved."""
    save(tmp_path, 1)
    for name in ("0999", "٩٩٩", "9" * 30):
        (tmp_path / "checkpoints" / name).mkdir()
    save(tmp_path, 2)
    assert names(tmp_path / "checkpoints") == ["1", "2"] and newest(tmp_path) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_passes_over_what_is_no_file_and_touches_nothing(tmp_path, kind):
    save(tmp_path, 1, 2)
    with in_place_of(tmp_path / "checkpoints" / "2" / "_METADATA", kind):
        pass
    with in_place_of(tmp_path / "checkpoints" / "2" / "data" / "metadata", kind):
        assert newest(tmp_path, read_only=True) == 1
        assert names(tmp_path) == ["checkpoints"]
        assert newest(tmp_path) == 1
    assert names(tmp_path / "quarantine") == ["2-1"]


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"samples_seen": -1}', "x"])
def test_a_position_that_is_none_is_one_sentence(tmp_path, content):
    """Tests a step whose manifest has been rewritten for its content."""
    save(tmp_path, 1)
    step = epath.Path(tmp_path / "checkpoints" / "1")
    (step / "data" / "metadata").write_text(content)
    integrity.finish_step(step.parent, 1, score=0.0)
    with pytest.raises(StorageError, match=r"checkpoint 1 .* cannot be restored \(") as refused:
        newest(tmp_path)
    assert "\n" not in printable(str(refused.value))


def test_an_error_that_is_not_of_a_files_kind_advises_nobody_to_move_a_checkpoint(
    tmp_path, monkeypatch
):
    """Tests an error after an upgrade of Orbax, with a good checkpoint."""
    save(tmp_path, 1)

    def fail(*_, **__):
        raise AttributeError("no such handler")

    with monkeypatch.context() as patched:
        patched.setattr(ocp.CheckpointManager, "restore", fail)
        with pytest.raises(AttributeError, match="no such handler"):
            newest(tmp_path)
    assert newest(tmp_path) == 1


def test_a_checkpoint_whose_files_are_links_into_a_store_is_restored(tmp_path):
    save(tmp_path, 1)
    files = [path for path in (tmp_path / "checkpoints" / "1").rglob("*") if path.is_file()]
    (tmp_path / "store").mkdir()
    for number, file in enumerate(files):
        stored = file.rename(tmp_path / "store" / str(number))
        file.symlink_to(stored)
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    assert newest(tmp_path) == 1
    save(tmp_path, 2, 3, 4)  # The first step is deleted.
    assert names(tmp_path / "checkpoints") == ["2", "3", "4"]
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}


def test_what_is_saved_beside_linked_checkpoints_stays_in_the_workdir(tmp_path, monkeypatch):
    """Also tests a relative path of the workdir."""
    save(tmp_path / "disk", 1, 2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk" / "checkpoints")
    (tmp_path / "disk" / "checkpoints" / "2" / "manifest.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    assert newest("run") == 1
    assert names(tmp_path / "disk") == ["checkpoints"]
    assert names(tmp_path / "run" / "quarantine") == ["2-1"]


@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_what_is_in_place_of_the_checkpoints_is_one_sentence(tmp_path, kind):
    if kind == "link":
        (tmp_path / "checkpoints").symlink_to("missing")
        with pytest.raises(StorageError, match="checkpoints"):
            newest(tmp_path)
        return
    with (
        in_place_of(tmp_path / "checkpoints", kind),
        pytest.raises(StorageError, match=r"checkpoints cannot be"),
    ):
        newest(tmp_path)


def test_a_manifest_that_changes_while_the_run_goes_on_is_seen_at_the_next_start(tmp_path):
    save(tmp_path, 1)
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.restore_newest_valid(TINY_STATE)
        (tmp_path / "checkpoints" / "1" / "manifest.json").write_text("[]")
        checkpoints.save(TINY_STATE, step=2, samples_seen=2)
    (tmp_path / "checkpoints" / "2" / "manifest.json").write_text("[]")
    with pytest.raises(StorageError, match=r"no checkpoint in .* can be trusted: .*cannot be read"):
        newest(tmp_path)
