"""Tests the output file of `plan --compare`."""

import fcntl
import json
import math
import os
import resource
import threading
from pathlib import Path

import pytest

from fsvfm_jax.errors import DataError, StorageError
from fsvfm_jax.plan.results import MAX_LINE, Line, Result, append_result, open_results


def result(identity: str, **changes) -> Line:
    fields = {
        "identity": identity,
        "candidate": {"model.unroll": 1},
        "command": "plan",
        "config": "configs/vit_s.py",
        "topology": "cpu:1",
        "versions": {"jax": "0.10.2"},
        "date": "2026-11-29T08:00:00+00:00",
        "error": "it failed",
        "plan": None,
    }
    return fields | changes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "results.jsonl"
    for identity in ("a", "b"):
        append_result(str(file), result(identity))
    return file


def test_results_are_read_back(file):
    stored = {name: Result(identity=name, error="it failed", plan=None) for name in "ab"}
    assert open_results(str(file)) == stored
    file.write_bytes(b"\n" + file.read_bytes() + b" \n\n")
    assert open_results(str(file)) == stored


def test_a_whole_last_line_without_a_newline_is_kept(file):
    file.write_bytes(file.read_bytes().removesuffix(b"\n"))
    assert set(open_results(str(file))) == {"a", "b"}
    append_result(str(file), result("c"))
    assert set(open_results(str(file))) == {"a", "b", "c"}
    assert len(file.read_bytes().splitlines()) == 3


def test_a_missing_file_is_empty_and_can_be_written(tmp_path):
    file = tmp_path / "new.jsonl"
    assert open_results(str(file)) == {}
    assert file.read_bytes() == b""


@pytest.mark.parametrize("size", [1, 5, 14, 100])
def test_a_line_that_was_not_finished_is_removed(file, size, caplog):
    whole = file.read_bytes()
    file.write_bytes(whole + json.dumps(result("c")).encode()[:size])
    assert set(open_results(str(file))) == {"a", "b"}
    assert file.read_bytes() == whole
    append_result(str(file), result("c"))
    assert set(open_results(str(file))) == {"a", "b", "c"}


def test_a_first_line_that_was_not_finished_is_removed(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_bytes(json.dumps(result("a")).encode()[:60])
    assert open_results(str(file)) == {}
    assert file.read_bytes() == b""


def test_a_command_waits_while_another_writes(file):
    whole = file.read_bytes()
    found = {}
    with file.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(with_line()[:50])
        reader = threading.Thread(target=lambda: found.update(open_results(str(file))))
        reader.start()
        other.write(with_line()[50:])
    reader.join()
    assert set(found) == {"a", "b", "c"}
    assert file.read_bytes() == whole + with_line()


def test_a_disk_that_becomes_full_leaves_no_part_of_a_line(file):
    whole = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            append_result(str(file), result("c"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == whole


def test_a_line_that_could_not_be_read_back_is_not_written(file):
    whole = file.read_bytes()
    with pytest.raises(DataError, match="use a shorter command"):
        append_result(str(file), result("c", command="x" * MAX_LINE))
    assert file.read_bytes() == whole


def with_line(**changes) -> bytes:
    return json.dumps(result("c", **changes)).encode() + b"\n"


FIGURES = {
    "batch_size": 16,
    "images_per_device": 16,
    "fits": None,
    "memory": {"temporary": 1, "total": 2, "available": None},
    "compile_seconds": 1.5,
    "autotuned": True,
    "moved_bytes": 10,
    "kernels": 1,
    "modules": [],
    "top_kernels": [],
    "bound": None,
}


BOUND = {"step_seconds": 0.01, "images_per_second": 1600.0, "mfu": 0.3}
MODULE = {"module": "loss", "stage": "", "bytes": 10, "executions": 1, "share": 1.0}
REFUSED = dict.fromkeys(("moved_bytes", "kernels", "modules", "top_kernels"))


@pytest.mark.parametrize(
    "plan", [FIGURES, FIGURES | {"bound": BOUND, "modules": [MODULE]}, FIGURES | REFUSED]
)
def test_the_figures_of_a_program_are_read_back(file, plan):
    file.write_bytes(with_line(plan=plan))
    assert open_results(str(file))["c"]["plan"] == plan


@pytest.mark.parametrize(
    "content",
    [
        b"a text of somebody else",
        b'{\n  "command": "python -m fsvfm_jax.plan"\n}',
        b"[]\n",
        b'{"identity": "somebody", "age": 3}',
        b'{"identity": "somebody"\n',
        b"{}",
        b"{ ",
        with_line(error=3).removesuffix(b"\n"),
        with_line(command="x" * MAX_LINE),
        b"[" + b"[]," * MAX_LINE + b"[]]",
        b'{"identity": "a"}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"identity": ' + b"9" * 10_000 + b"}\n",
        with_line(error=3),
        with_line(plan={}),
        with_line(plan=FIGURES | {"batch_size": 0}),
        with_line(plan=FIGURES | {"moved_bytes": 10**400}),
        with_line(plan=FIGURES | {"memory": None}),
        with_line(plan=FIGURES | {"modules": [1]}),
        with_line(plan=FIGURES | {"modules": [MODULE | {"bytes": 10**400}]}),
        with_line(plan=FIGURES | {"modules": [MODULE | {"share": math.nan}]}),
        with_line(plan=FIGURES | {"top_kernels": None}),
        with_line(plan=FIGURES | {"modules": None}),
        with_line(plan=FIGURES | {"kernels": None}),
        with_line(plan=FIGURES | {"compile_seconds": math.inf}),
        with_line(plan=FIGURES | {"bound": BOUND | {"step_seconds": math.nan}}),
        with_line(plan=FIGURES | {"bound": BOUND | {"step_seconds": 0.0}}),
        with_line(plan=FIGURES | {"bound": BOUND | {"mfu": -0.1}}),
    ],
)
def test_another_file_is_refused_and_not_changed(file, content):
    for before in (b"", file.read_bytes()):
        file.write_bytes(before + content)
        with pytest.raises(DataError) as caught:
            open_results(str(file))
        assert file.read_bytes() == before + content
        text = str(caught.value)
        assert text.startswith(f"--output={file} is ") and text.endswith("choose another file")
        assert "\n" not in text and len(text) < 1000


@pytest.mark.parametrize("content", [b"{", b'{"id', b"[", b'{"identity": 1'])
def test_the_beginning_of_another_file_is_not_removed(tmp_path, content):
    file = tmp_path / "data.json"
    file.write_bytes(content)
    with pytest.raises(DataError):
        open_results(str(file))
    assert file.read_bytes() == content


def test_a_file_that_is_no_plain_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("pipe", "link", ".", "missing/results.jsonl", "target/results.jsonl"):
        with pytest.raises(StorageError, match=r"cannot be (read|written)"):
            open_results(str(tmp_path / name))


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        open_results(str(tmp_path / "results.jsonl"))


def test_a_full_disk_is_reported():
    with pytest.raises(StorageError, match="cannot be written"):
        append_result("/dev/full", result("a"))
