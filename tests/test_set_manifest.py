"""A manifest says what was written, or that it does not."""

import random
from pathlib import Path

import face_trees
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.data.set_manifest import (
    MANIFEST_FILE,
    TFDS_FILES,
    Shard,
    Split,
    dump_manifest,
    read_manifest,
)
from fsvfm_jax.errors import DataError

COUNTS = st.integers(0, 2**80)
SHARDS = st.tuples(st.text(), COUNTS, COUNTS, st.text("0123456789abcdef"))
# Not built by Hypothesis, which forbids random numbers: those who check types draw some.
SPLITS = st.fixed_dictionaries(
    {
        "plan": st.text(),
        "encoding": st.text(),
        "size": st.none() | st.tuples(COUNTS, COUNTS),
        "left_out": COUNTS,
        "power_sums": st.tuples(*[st.tuples(COUNTS, COUNTS, COUNTS)] * 3),
        "images_per_class": st.tuples(*[COUNTS] * 11),
        "shards": st.lists(SHARDS, max_size=3),
    }
)
FILES = {name: name.encode() for name in TFDS_FILES}


def write(folder: Path, splits: dict[str, Split]) -> None:
    """What a set has beside its shards."""
    for name, data in {**FILES, MANIFEST_FILE: dump_manifest(splits, FILES)}.items():
        (folder / name).write_bytes(data)


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, Split]:
    """Those written to tmp_path."""
    shards = (Shard("a", 5, 700, "0f"), Shard("b", 2, 300, "f0"))
    split = Split("plan", "jpeg", (32, 32), 1, ((7, 7, 7), (8, 9, 10), (8, 9, 10)), (7,), shards)
    write(tmp_path, {"train": split})
    return {"train": split}


@given(st.dictionaries(st.text(), SPLITS, max_size=2))
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, dict]
) -> None:
    folder = tmp_path_factory.mktemp("set")
    splits = {
        name: Split(**fields | {"shards": tuple(Shard(*shard) for shard in fields["shards"])})
        for name, fields in drawn.items()
    }
    write(folder, splits)
    assert read_manifest(folder) == splits


def test_a_split_counts_its_records(splits: dict[str, Split]) -> None:
    assert splits["train"].count == 7


def test_a_set_may_have_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def test_a_flipped_bit_is_refused(tmp_path: Path, splits: dict[str, Split]) -> None:
    file = tmp_path / MANIFEST_FILE
    bits = 8 * file.stat().st_size
    refused = 0
    for bit in random.Random(0).sample(range(bits), 500):
        face_trees.flip_bit(file, bit)
        try:
            assert read_manifest(tmp_path) == splits  # if it was in a blank
        except DataError as error:
            assert f"{file} is damaged (" in str(error)
            refused += 1
        face_trees.flip_bit(file, bit)
    assert refused > 300
    assert read_manifest(tmp_path) == splits


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_a_truncated_file_is_refused(tmp_path: Path, splits: dict[str, Split], keep: int) -> None:
    file = tmp_path / MANIFEST_FILE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{file} is damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", TFDS_FILES)
@pytest.mark.parametrize("change", ["flip", "missing"])
def test_other_files_of_tfds_are_refused_if_looked_at(
    tmp_path: Path, splits: dict[str, Split], name: str, change: str
) -> None:
    if change == "flip":
        face_trees.flip_bit(tmp_path / name, 11)
    else:
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing or not as {MANIFEST_FILE} beside it"):
        read_manifest(tmp_path)
    assert read_manifest(tmp_path, check_tfds=False) == splits
