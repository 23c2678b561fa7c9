"""Tests that packing always makes the same set of a tree, and that every loss is reported."""

import json
import shutil
import subprocess
from pathlib import Path

import face_trees
import numpy as np
import pytest
import tensorflow_datasets as tfds
from patience import PATIENCE

from fsvfm_jax.data.images import decode_map
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.set_manifest import read_manifest
from fsvfm_jax.data.stats import compute_stats
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.prepare import pack as pack_module
from fsvfm_jax.prepare.__main__ import main
from fsvfm_jax.prepare.pack import pack

SIZE = face_trees.SIZE
COUNT = 20


def test_a_set_is_shards_metadata_and_manifest(tree: Path, tmp_path: Path) -> None:
    split = pack(str(tree), str(tmp_path), shard_records=8)
    names = [f"faces-train.array_record-0000{index}-of-00003" for index in range(3)]
    others = {"manifest.json", "dataset_info.json", "features.json"}
    assert set(face_trees.contents(tmp_path)) == {*names, *others}
    assert not list(tmp_path.glob(".*"))
    assert [(shard.file, shard.count) for shard in split.shards] == [
        *zip(names, (8, 8, 4), strict=True)
    ]
    assert read_manifest(tmp_path) == {"train": split}
    assert (split.size, split.encoding, split.left_out) == ((SIZE, SIZE), "jpeg", 0)
    maps = [decode_map(file.read_bytes()) for file in (tree / "parsing_maps").rglob("*.npy")]
    expected = [sum(int((of == label).any()) for of in maps) for label in range(11)]
    assert list(split.images_per_class) == expected


@pytest.mark.e2e
def test_workers_and_hash_seeds_change_nothing(
    tree: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "PAIRS_AT_ONCE", 2)
    pack(str(tree), str(tmp_path), shard_records=5, workers=2)
    assert face_trees.contents(tmp_path) == undisturbed


@pytest.mark.e2e
def test_neither_packing_nor_reading_needs_tensorflow(tree: Path, tmp_path: Path) -> None:
    code = """
import sys
from fsvfm_jax.data.records import FaceRecords
assert "tensorflow_datasets" not in sys.modules
from fsvfm_jax.prepare.encode import pack_pair
assert "jax" not in sys.modules
from fsvfm_jax.prepare.pack import pack
pack(*sys.argv[1:])
assert FaceRecords(sys.argv[2], image_size=32)[0]["image"].shape == (32, 32, 3)
import tensorflow_datasets as tfds
assert tfds.builder_from_directory(sys.argv[2]).as_data_source("train")[0]["image"].any()
assert "tensorflow" not in sys.modules
"""
    process = face_trees.start_python(code, str(tree), str(tmp_path), stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors


def test_a_set_has_several_splits(tmp_path: Path) -> None:
    train = face_trees.write_tree(tmp_path / "a", 5)
    other = face_trees.write_tree(tmp_path / "b", 4, first=50, size=40)
    target = str(tmp_path / "set")
    pack(str(train), target)
    pack(str(other), target, split="val", shard_records=3)
    assert list(tfds.builder_from_directory(target).info.splits) == ["train", "val"]
    for split, count, size in (("train", 5, SIZE), ("val", 4, 40)):
        source = FaceRecords(target, image_size=size, split=split)
        assert len(source) == count
        assert source.stats() == compute_stats(source)
    with pytest.raises(ConfigError, match="its split train as jpeg: give --encoding jpeg, or name"):
        pack(str(other), target, split="test", encoding="original")


def test_what_is_left_out_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = face_trees.write_tree(tmp_path / "tree", 9)
    images, maps = tree / "images", tree / "parsing_maps"
    (maps / "a/002.npy").unlink()
    np.save(maps / "a/004.npy", np.zeros((1, SIZE, 20), np.int8))
    np.save(maps / "b/001.npy", np.full((1, SIZE, SIZE), 11, np.int8))
    (images / "b/003.png").write_bytes((images / "b/003.png").read_bytes()[:-30])
    (maps / "b/005.npy").write_bytes(b"")
    (maps / "b/999.npy").write_bytes(b"")
    (images / "b/008.heic").write_bytes(b"")
    target = tmp_path / "set"
    main(["pack", str(tree), str(target), "--shard-records", "4", "--processes", "1"])
    lines = (target / "left_out-train.jsonl").read_text().splitlines()
    left_out = [json.loads(line) for line in lines]
    reasons = {line["name"]: line["reason"] for line in left_out}
    assert reasons["a/002"] == "it has no parsing map"
    assert reasons["a/004"] == "it has 32 x 32 pixels, but its parsing map 32 x 20"
    assert reasons["b/001"].startswith("its parsing map cannot be decoded: holds class 11")
    assert reasons["b/003"].startswith("its image cannot be decoded: ")
    assert reasons["b/005"].startswith("its parsing map cannot be decoded: ")
    assert reasons["parsing_maps/b/999.npy"] == "it is a parsing map without its image"
    assert reasons["images/b/008.heic"] == "it is no image by its name"
    assert len(reasons) == 7
    source = FaceRecords(str(target), image_size=SIZE)
    names = [source.name(index).split()[0] for index in range(len(source))]
    assert names == ["a/000", "a/006", "a/008", "b/007"]
    said = capsys.readouterr().out
    assert "4 faces in train, 3 shards" in said and "7 files were left out: " in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "raw"}, "--encoding raw stores pixels alone: give --image-size"),
        ({"image_size": 0}, "--image-size is 0; it must be at least 1"),
        ({"shard_records": 0}, "--shard-records is 0; it must be at least 1"),
        ({"workers": 0}, "--processes is 0; it must be at least 1"),
        ({"split": "../x"}, "--split is '../x'; use small letters"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    tree: Path, tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pack(str(tree), str(tmp_path), **options)


def test_odd_names_survive(tmp_path: Path) -> None:
    tree = face_trees.write_tree(tmp_path / "tree", 1)
    for name in ("ä ö.tar", "b\nc"):
        shutil.copy(tree / "images/a/000.png", tree / "images" / f"{name}.png")
        shutil.copy(tree / "parsing_maps/a/000.npy", tree / "parsing_maps" / f"{name}.npy")
    pack(str(tree), str(tmp_path / "set"))
    source = FaceRecords(str(tmp_path / "set"), image_size=SIZE)
    assert [record.name for record in source.records(range(3))] == ["a/000", "b\nc", "ä ö.tar"]


def test_the_default_makes_files_of_a_size(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "SHARD_BYTES", 10_000)
    split = pack(str(tree), str(tmp_path))
    records = FaceRecords(str(tmp_path), image_size=SIZE).records(range(COUNT))
    mean = np.mean([len(record.image) + len(record.parsing_map) + 70 for record in records])
    assert split.shards[0].count == pytest.approx(10_000 / mean, abs=1)
