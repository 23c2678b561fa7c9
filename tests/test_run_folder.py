"""Tests that a workdir is read as far as it can be, without following links, waiting or writing."""

import json
import os
import socket
import time

import odd_files
import pytest
from etils import epath
from run_workdirs import write_lines, write_run

from fsvfm_jax.errors import DataError
from fsvfm_jax.run.lock import RunLock
from fsvfm_jax.visualize import run_folder, run_lines
from fsvfm_jax.visualize.run_folder import MAX_FIELDS, Start, read_folder

FILES = ("config.json", "fingerprint.json", "metrics.jsonl", "alarms.jsonl", "run.lock")


def read(workdir):
    return read_folder(epath.Path(workdir))


def test_a_run_is_read_and_nothing_is_written(tmp_path):
    workdir = write_run(tmp_path / "run", starts=((1_700_000_000, 0), (1_700_000_500, 32)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    folder = read(workdir)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert folder.config["task"] == "pretrain" and folder.fields["optimizer.blr"] == "0.008"
    assert folder.fingerprint["images"] == 1024
    assert folder.lines["metrics.jsonl"].step == 64
    assert folder.starts == [Start(1_700_000_000, 0), Start(1_700_000_500, 32)]
    assert folder.lock is None and folder.notes == [] and not folder.not_finite
    assert abs(folder.written - time.time()) < 1000


def test_the_lock_shows_whether_the_run_is_alive(tmp_path):
    workdir = write_run(tmp_path / "run")
    with RunLock(epath.Path(workdir)):
        lock = read(workdir).lock
    assert lock.holder == f"process {os.getpid()} on {socket.gethostname()}"
    assert lock.gone == "" and abs(lock.age) < 1000
    (workdir / "run.lock").write_text(
        json.dumps(
            {"host": "<b>", "boot": "", "pid_namespace": "", "pid": 1, "started": 0}
            | {"token": "x", "renewed": time.time() - 1000}
        )
    )
    assert read(workdir).lock.gone == "its lease is over"


def test_records_of_a_run_are_read(tmp_path):
    workdir = write_run(tmp_path / "run")
    (workdir / "rewinds.json").write_text('[{"step": 5, "skip_ranges": [[1, 2]]}]')
    (workdir / "origin.json").write_text('{"source": "weights.pth", "license": null}')
    (workdir / "not_finite.json").write_text("[]")
    changed = {"fingerprint": {"images": 7}, "accepted": [{"step": 9, "seed": [0, 1]}]}
    (workdir / "fingerprint.json").write_text(json.dumps(changed))
    folder = read(workdir)
    assert folder.rewinds == [{"step": 5, "skip_ranges": [[1, 2]]}] and folder.not_finite
    assert folder.origin["source"] == "weights.pth" and folder.accepted[0]["step"] == 9


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", odd_files.KINDS)
def test_what_is_no_plain_file_is_named(tmp_path, name, kind, monkeypatch):
    monkeypatch.setattr(run_lines, "MAX_BYTES", 2**20)
    workdir = write_run(tmp_path / "run")
    with odd_files.in_place_of(workdir / name, kind):
        folder = read(workdir)
    said = " ".join(folder.notes)
    # Of a sparse file of lines the end is read: it has no line.
    assert f"{name} is left out" in said or f"left out of {name}: bytes before" in said


@pytest.mark.parametrize("name", ["config.json", "fingerprint.json", "rewinds.json", "origin.json"])
@pytest.mark.parametrize("content", odd_files.CONTENTS.values(), ids=odd_files.CONTENTS)
def test_odd_content_is_named_and_never_an_error(tmp_path, name, content):
    workdir = write_run(tmp_path / "run")
    (workdir / name).write_bytes(content)
    folder = read(workdir)
    assert (f"{name} is left out" in " ".join(folder.notes)) or content in (b"{}", b"[]")


def test_alarms_are_read_and_odd_ones_counted(tmp_path):
    workdir = write_run(tmp_path / "run")
    alarm = {"step": 9, "alarm": "spike", "value": 2.0, "limit": 1.0, "message": "the loss is 2"}
    odd = [{"step": -1, "alarm": "a", "message": "b"}, {"step": 1}, {"step": "x"}]
    write_lines(workdir / "alarms.jsonl", [alarm, *odd])
    with (workdir / "alarms.jsonl").open("a") as file:
        file.write('{"step": 10, "al')
    folder = read(workdir)
    assert folder.alarms == [{"step": 9, "alarm": "spike", "message": "the loss is 2"}]
    assert folder.notes == [
        "left out of alarms.jsonl: lines that are no JSON of a step: 3",
        "left out of alarms.jsonl: half-written last lines: 1",
    ]


def test_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": "12345"}')
    workdir = write_run(tmp_path / "run")
    for name in ("config.json", "epochs.jsonl"):
        (workdir / name).unlink()
        (workdir / name).symlink_to(secret)
    (workdir / "tensorboard").rename(tmp_path / "elsewhere")
    (workdir / "tensorboard").symlink_to(tmp_path / "elsewhere")
    folder = read(workdir)
    assert "12345" not in str(folder) and folder.starts == []
    assert len(folder.notes) == 3 and all("link" in note for note in folder.notes)


def test_a_workdir_may_be_a_link(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert read(tmp_path / "link").lines["metrics.jsonl"].step == 64


def test_a_run_that_has_just_started_is_read(tmp_path):
    workdir = tmp_path / "run"
    write_run(tmp_path / "other")
    workdir.mkdir()
    (tmp_path / "other" / "config.json").rename(workdir / "config.json")
    folder = read(workdir)
    assert folder.lines["metrics.jsonl"].newest == {} and folder.written is None


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "neither the config.json of a run nor a line"),
        (lambda path: path.touch(), "is no folder"),
        (
            lambda path: (path.mkdir(), (path / "config.json").write_text('{"num_classes": 2}')),
            "neither the config.json of a run nor a line",
        ),
        (lambda path: path.symlink_to(path), "does not exist|cannot be read"),
        (
            lambda path: (path.mkdir(), (path / "config.json").write_text('{"task": "evaluate"}')),
            "evaluation",
        ),
        (
            lambda path: (path.mkdir(), (path / "config.json").write_text("x")),
            "config.json is left",
        ),
    ],
)
def test_what_is_no_run_ends_in_one_sentence(tmp_path, make, part):
    make(tmp_path / "run")
    with pytest.raises(DataError, match=part) as raised:
        read(tmp_path / "run")
    assert "run" in str(raised.value) and "\n" not in str(raised.value)


def test_numbers_without_a_config_are_enough(tmp_path):
    (tmp_path / "run").mkdir()
    write_lines(tmp_path / "run" / "metrics.jsonl", [{"step": 1, "loss": 2.0}])
    assert read(tmp_path / "run").config == {}


def test_many_fields_deep_fields_and_many_entries_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "MAX_ENTRIES", 10)
    workdir = write_run(tmp_path / "run")
    deep = {"a": 1}
    for _ in range(100):
        deep = {"x": deep}
    many = {f"f{n}": n for n in range(2 * MAX_FIELDS)}
    (workdir / "config.json").write_text(json.dumps({"task": "pretrain", "deep": deep} | many))
    for n in range(20):
        (workdir / "tensorboard" / f"x{n}").touch()
    folder = read(workdir)
    assert len(folder.fields) == MAX_FIELDS and max(map(len, folder.fields.values())) < 300
    assert "config.json has" in folder.notes[0] and "tensorboard/ has over 10" in folder.notes[1]


def test_names_of_event_files_from_a_stranger_are_harmless(tmp_path):
    workdir = write_run(tmp_path / "run", starts=())
    for name in ("1.h.0.x", "-1.h.2", "999999999999.h.1", "5.h.7\n", "5..8", f"5.{'a' * 200}.9"):
        (workdir / "tensorboard" / f"events.out.tfevents.{name}").touch()
    assert read(workdir).starts == [Start(5, 8), Start(5, 9)]
