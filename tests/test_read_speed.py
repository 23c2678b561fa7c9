"""Tests the report of the reading benchmark, but not any speed."""

import json
from pathlib import Path

import face_trees
import pytest

from fsvfm_jax.benchmark import read_speed
from fsvfm_jax.benchmark.__main__ import main
from fsvfm_jax.prepare.pack import pack


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read")
    tree = face_trees.write_tree(folder / "tree", 6)
    pack(str(tree), str(folder / "set"), shard_records=4)
    return folder / "set"


@pytest.mark.e2e
def test_single_reads_and_chunks_are_measured(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["read", str(packed), "--chunks", "2", "5", "--output", str(tmp_path / "out.jsonl")])
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert (tmp_path / "out.jsonl").read_text() == said.out
    assert (record["records"], record["shards"]) == (6, 2)
    assert [row["at_once"] for row in record["rows"]] == [1, 2, 5]
    assert all(row["cached_us"] > 0 and row["disk_us"] > 0 for row in record["rows"])
    assert "| 1 | " in said.err and " (1.0) |" in said.err


def test_the_table_tells_how_many_times_as_fast() -> None:
    rows = [
        {"at_once": 1, "cached_us": 20.0, "disk_us": None},
        {"at_once": 64, "cached_us": 8.0, "disk_us": None},
    ]
    table = read_speed.summary({"records": 9, "shards": 1, "rows": rows})
    assert table.splitlines()[-2:] == ["| 1 | 20.0 (1.0) | - |", "| 64 | 8.0 (2.5) | - |"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 65, "nowhere does not exist; name a folder"),
        (["nowhere", "--chunks", "0"], 78, "--chunks has 0; give 1 to 512"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["read", *arguments])
    said = capsys.readouterr().err
    assert ended.value.code == code and message in said and said.count("\n") == 1
