"""Tests that a shard contains all records that it was given, or is absent."""

import hashlib
import resource
from pathlib import Path

import face_trees
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.set_manifest import Shard
from fsvfm_jax.errors import StorageError
from fsvfm_jax.prepare.pack import pack
from fsvfm_jax.prepare.shards import shard_name, write_shard

SIZE = face_trees.SIZE


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_records_come_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes]
) -> None:
    file = tmp_path_factory.mktemp("shard") / shard_name("val", 3, 12)
    shard = write_shard(file, iter(records))
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert shard == Shard("faces-val.array_record-00003-of-00012", len(records), len(data), digest)
    reader = ArrayRecordReader(str(file))
    assert (reader.read_all() if records else []) == records
    reader.close()


def test_a_shard_that_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError, match=r"the shard .*/x cannot be written \(.*File too la"):
            write_shard(tmp_path / "x", [bytes(range(256)) * 10_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_a_shard_whose_records_fail(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_shard(tmp_path / "x", (bytes([1 // left]) for left in (1, 0)))
    assert not list(tmp_path.iterdir())


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    tree = face_trees.write_tree(tmp_path / "tree", 5)
    (tree / "parsing_maps/a/002.npy").unlink()
    pack(str(tree), str(tmp_path / "set"), shard_records=1)
    source = FaceRecords(str(tmp_path / "set"), image_size=SIZE)
    assert len(source.read(range(len(source)))) == 4
    assert len(tfds.builder_from_directory(tmp_path / "set").as_data_source("train")) == 4
