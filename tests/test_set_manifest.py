"""Tests that a manifest lists what was written, or reports that it does not."""

import dataclasses
import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import face_trees
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsvfm_jax.data.set_manifest import (
    SET_MANIFEST,
    TFDS_FILES,
    Shard,
    Split,
    dump_manifest,
    read_manifest,
)
from fsvfm_jax.errors import DataError

COUNTS = st.integers(0, 2**80)
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
NAMES = NAMES.filter(lambda name: name not in (".", ".."))
SHARDS = st.tuples(NAMES, COUNTS, COUNTS, st.text("0123456789abcdef"))
# Hypothesis does not build these, since type checkers draw random numbers, which it forbids.
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
    """Writes the other files of a set."""
    for name, data in {**FILES, SET_MANIFEST: dump_manifest(splits, FILES)}.items():
        (folder / name).write_bytes(data)


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, Split]:
    """Returns the splits that were written to tmp_path."""
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
    file = tmp_path / SET_MANIFEST
    bits = 8 * file.stat().st_size
    refused = 0
    for bit in random.Random(0).sample(range(bits), 500):
        face_trees.flip_bit(file, bit)
        try:
            assert read_manifest(tmp_path) == splits  # the changed byte may be a blank
        except DataError as error:
            assert f"{file} is damaged (" in str(error)
            refused += 1
        face_trees.flip_bit(file, bit)
    assert refused > 300
    assert read_manifest(tmp_path) == splits


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_a_truncated_file_is_refused(tmp_path: Path, splits: dict[str, Split], keep: int) -> None:
    file = tmp_path / SET_MANIFEST
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
    with pytest.raises(DataError, match=f"{name} is missing or not as {SET_MANIFEST} beside it"):
        read_manifest(tmp_path)
    assert read_manifest(tmp_path, check_tfds=False) == splits


def changed(splits: dict[str, Split], change: Callable[[dict], object]) -> bytes:
    """Returns a changed manifest with the hash of its new content."""
    body = json.loads(dump_manifest(splits, FILES))
    del body["sha256"]
    change(body)
    text = json.dumps(body, sort_keys=True).encode()
    return json.dumps({"sha256": hashlib.sha256(text).hexdigest(), **body}).encode()


@pytest.mark.parametrize(
    "name", ["../a", "/etc/passwd", "..", ".", "", "b/../../a", "a\0", "a" * 999]
)
def test_names_that_lead_out_of_the_set_are_refused(
    tmp_path: Path, splits: dict[str, Split], name: str
) -> None:
    def of_shard(body: dict) -> None:
        body["splits"]["train"]["shards"][0]["file"] = name

    def of_file(body: dict) -> None:
        body["files"][name] = hashlib.sha256(b"").hexdigest()

    for change in (of_shard, of_file):
        (tmp_path / SET_MANIFEST).write_bytes(changed(splits, change))
        with pytest.raises(DataError, match=f"{SET_MANIFEST} is damaged"):
            read_manifest(tmp_path)


def test_a_message_has_an_end(tmp_path: Path, splits: dict[str, Split]) -> None:
    long = changed(splits, lambda body: body["files"].update({"a" * 1_000_000: ""}))
    (tmp_path / SET_MANIFEST).write_bytes(long)
    with pytest.raises(DataError, match=r"is damaged .Invalid enum value 'aaa") as caught:
        read_manifest(tmp_path)
    assert len(str(caught.value)) < 1000


def test_a_change_with_the_right_hash_is_taken(tmp_path: Path, splits: dict[str, Split]) -> None:
    """Shows that the hash is not the reason for the refusals above and below."""
    change = changed(splits, lambda body: body["splits"]["train"].update(left_out=4))
    (tmp_path / SET_MANIFEST).write_bytes(change)
    assert read_manifest(tmp_path)["train"].left_out == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
PLACES = ["splits", "files", "train", "shards", "size", "power_sums", "images_per_class", "count"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PLACES), JSON)
def test_any_other_shape_is_refused_or_read(
    tmp_path: Path, splits: dict[str, Split], place: str, value: object
) -> None:
    def put(inside: object) -> None:
        if isinstance(inside, dict):
            for key in inside:
                inside[key] = value if key == place else inside[key]
                put(inside[key])
        if isinstance(inside, list):
            for one in inside:
                put(one)

    (tmp_path / SET_MANIFEST).write_bytes(changed(splits, put))
    try:
        for split in read_manifest(tmp_path, check_tfds=False).values():
            assert isinstance(split, Split) and split.count >= 0
            split.stats()
    except DataError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff", b"null", b"[]", b"1e999", b"{}"],
    ids=lambda content: content[:5].decode(errors="replace"),
)
def test_what_is_no_manifest_is_refused(
    tmp_path: Path, splits: dict[str, Split], content: bytes
) -> None:
    (tmp_path / SET_MANIFEST).write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", [SET_MANIFEST, *TFDS_FILES])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link out"])
def test_files_that_are_not_plain_are_refused_at_once(
    tmp_path: Path, splits: dict[str, Split], name: str, kind: str
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder, splits)
    (folder / name).replace(tmp_path / "elsewhere")
    {
        "pipe": lambda: os.mkfifo(folder / name),
        "device": lambda: (folder / name).symlink_to("/dev/zero"),
        "folder": lambda: (folder / name).mkdir(),
        "link out": lambda: (folder / name).symlink_to(tmp_path / "elsewhere"),
    }[kind]()
    reason = "is a link out of the set" if kind == "link out" else "is no plain file"
    with pytest.raises(DataError, match=f"{name} {reason}"):
        read_manifest(folder)


@pytest.mark.parametrize("name", [SET_MANIFEST, *TFDS_FILES])
def test_a_sparse_file_is_refused_by_its_size(
    tmp_path: Path, splits: dict[str, Split], name: str
) -> None:
    with (tmp_path / name).open("wb") as opened:
        opened.truncate(50 * 10**9)
    with pytest.raises(DataError, match=rf"{name} is (damaged .it has 50,000,000,000|missing)"):
        read_manifest(tmp_path)


def test_a_link_within_the_set_is_followed(tmp_path: Path, splits: dict[str, Split]) -> None:
    (tmp_path / SET_MANIFEST).replace(tmp_path / "named otherwise")
    (tmp_path / SET_MANIFEST).symlink_to("named otherwise")
    assert read_manifest(tmp_path) == splits


@pytest.mark.parametrize("sums", [(0, 0, 0), (1, 2, 3), (1, 10**1000, 10**3000)])
def test_sums_that_no_pixels_have_are_refused(
    splits: dict[str, Split], sums: tuple[int, int, int]
) -> None:
    split = dataclasses.replace(splits["train"], power_sums=tuple((one,) * 3 for one in sums))
    with pytest.raises(DataError, match="what no pixels have"):
        split.stats()
