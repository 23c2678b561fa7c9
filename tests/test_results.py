"""Tests the output file of `plan --compare`."""

import json
import os
from pathlib import Path

import pytest

from fsvfm_jax.errors import DataError, StorageError
from fsvfm_jax.plan.results import Result, append_result, open_results


def result(identity: str, **changes) -> Result:
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
    assert open_results(str(file)) == {name: result(name) for name in "ab"}


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


@pytest.mark.parametrize(
    "content",
    [
        b"a text of somebody else",
        b'{\n  "command": "python -m fsvfm_jax.plan"\n}',
        b"\n",
        b"[]\n",
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


def test_a_full_disk_is_told():
    with pytest.raises(StorageError, match="cannot be written"):
        append_result("/dev/full", result("a"))
