"""Tests the items of a stage and their lines."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fsvfm_jax.errors import ConfigError, StorageError
from fsvfm_jax.prepare.manifest import Line, Manifest, keep_lines, read_lines
from fsvfm_jax.prepare.stages import do_stage

ITEMS = {"a": 1, "b": 2, "c": 3}


def work(items: Sequence[int]) -> Iterator[list[Line]]:
    for item in reversed(items):
        yield [{"source": "abc"[item - 1], "outcome": "face"}]


def opened(tree: Path) -> Manifest:
    return Manifest(tree, "detect", key="source", options={})


def test_every_item_has_its_lines_and_progress_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(tmp_path) as manifest:
        do_stage(manifest, ITEMS, work, beam=None, at_once=2)
        assert manifest.finish() == {"face": 3}
    assert [line["source"] for line in read_lines(tmp_path)] == [*ITEMS]
    assert "detect: 3/3 (100 %)" in capsys.readouterr().err


def test_what_was_done_elsewhere_is_not_done_again(tmp_path: Path) -> None:
    tmp_path.joinpath(".unfinished").mkdir()
    keep_lines(tmp_path, "detect", list(work([1, 2])))
    done: list[int] = []

    def counted(items: Sequence[int]) -> Iterator[list[Line]]:
        done.extend(items)
        return work(items)

    with opened(tmp_path) as manifest:
        do_stage(manifest, ITEMS, counted, beam=None, at_once=2)
        assert manifest.finish() == {"face": 3}
    assert done == [3]
    assert not list(tmp_path.glob(".*"))


def test_lines_that_come_late_do_not_count(tmp_path: Path) -> None:
    """Tests lines of a machine that was given up but still works."""
    with opened(tmp_path) as manifest:
        do_stage(manifest, ITEMS, work, beam=None, at_once=2)
        keep_lines(tmp_path, "detect", [[{"source": "a", "outcome": "refused"}]])
        manifest.collect()
        assert manifest.finish() == {"face": 3}


def test_machines_keep_lines_at_once(tmp_path: Path) -> None:
    """Tests threads of one process, and processes with the same number in containers."""
    tmp_path.joinpath(".unfinished").mkdir()
    kept = [[[{"source": f"{thread} {number}"}]] for thread in range(4) for number in range(50)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda lines: keep_lines(tmp_path, "detect", lines), kept))
    files = list((tmp_path / ".detect").iterdir())
    assert len(files) == len(kept)
    assert all(hashlib.sha256(x.read_bytes()).hexdigest() == x.stem for x in files)


def test_items_without_lines_are_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsvfm_jax.prepare.stages.do", lambda *_, **__: None)
    with opened(tmp_path) as manifest:
        keep_lines(tmp_path, "detect", list(work([2])))
        with pytest.raises(StorageError, match="of 2 items, such as a, nothing came to"):
            do_stage(manifest, ITEMS, work, beam="", at_once=2)


def test_without_beam_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = pytest.raises(ConfigError, match=r"apache_beam is not installed: .*'\.\[beam\]'")
    with opened(tmp_path) as manifest, missing:
        do_stage(manifest, ITEMS, work, beam="", at_once=2)
