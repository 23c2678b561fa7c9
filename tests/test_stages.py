"""Items of a stage and their lines."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.prepare.manifest import Line, Manifest, keep_lines, read_lines
from fsvfm_jax.prepare.stages import do_stage

ITEMS = ["a", "b", "c"]


def work(items: Sequence[str]) -> Iterator[list[Line]]:
    for item in reversed(items):
        yield [{"source": item, "outcome": "face"}]


def opened(tree: Path) -> Manifest:
    return Manifest(tree, "detect", key="source", options={})


def test_every_item_has_its_lines_and_progress_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(tmp_path) as manifest:
        do_stage(manifest, ITEMS, work, beam=None, at_once=2)
        assert manifest.finish() == {"face": 3}
    assert [line["source"] for line in read_lines(tmp_path)] == ITEMS
    assert "detect: 3/3 (100 %)" in capsys.readouterr().err


def test_what_was_done_elsewhere_is_not_done_again(tmp_path: Path) -> None:
    tmp_path.joinpath(".unfinished").mkdir()
    keep_lines(tmp_path, "detect", list(work(ITEMS[:2])))
    with opened(tmp_path) as manifest:
        todo = [item for item in ITEMS if item not in manifest]
        assert todo == ["c"]
        do_stage(manifest, todo, work, beam=None, at_once=2)
        assert manifest.finish() == {"face": 3}
    assert not list(tmp_path.glob(".*"))


def test_without_beam_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = pytest.raises(ConfigError, match=r"apache_beam is not installed: .*'\.\[beam\]'")
    with opened(tmp_path) as manifest, missing:
        do_stage(manifest, ITEMS, work, beam="", at_once=2)
