"""Tests that the check finds all faults, explains the repair, and reports nothing else."""

import argparse
import hashlib
import os
import shutil
import threading
from pathlib import Path

import face_trees
import numpy as np
import pytest
from PIL import Image

from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.set_manifest import Shard, Split, dump_manifest, read_manifest
from fsvfm_jax.data.stats import compute_stats
from fsvfm_jax.errors import ConfigError, DataError, StorageError
from fsvfm_jax.prepare import check
from fsvfm_jax.prepare.contact_sheet import TILE
from fsvfm_jax.prepare.examine import TreeFaces, examine
from fsvfm_jax.prepare.pack import pack
from fsvfm_jax.prepare.trees import list_tree

SIZE = face_trees.SIZE
COUNT = 12


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return face_trees.write_tree(tmp_path / "tree", COUNT)


@pytest.fixture
def packed(tree: Path, tmp_path: Path) -> Path:
    pack(str(tree), str(tmp_path / "set"), shard_records=5)
    return tmp_path / "set"


def run(*args: object) -> None:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    check.run(parser.parse_args([*map(str, args), "--processes", "1"]))


def findings(capsys: pytest.CaptureFixture[str], *args: object) -> list[str]:
    """Returns the faults that are found, each with its repair."""
    with pytest.raises(DataError, match=r"\d+ findings? in ") as raised:
        run(*args)
    assert raised.value.exit_code == 65
    lines = capsys.readouterr().out.splitlines()
    found = []
    for place, line in enumerate(lines):
        if line[:1].isdigit():
            assert lines[place + 1].strip().startswith("To mend it: ")
            found.append(line.partition(". ")[2])
    assert str(raised.value).startswith(f"{len(found)} finding")
    return found


def test_a_healthy_set_and_its_tree(
    tree: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tree, packed):
        run(path)
        printed = capsys.readouterr().out
        assert f"{COUNT} faces; pixels: {COUNT} of {SIZE} x {SIZE}" in printed
        assert printed.endswith("nothing is wrong\n")
        with Image.open(path / "contact_sheet.png") as sheet:
            assert sheet.width > 8 * TILE
    stats = compute_stats(FaceRecords(str(packed), image_size=SIZE))
    assert f"mean {stats.mean[0]:.4f}" in printed
    assert f"std {stats.std[0]:.4f}" in printed


def test_findings_come_before_a_picture_that_cannot_be_written(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    no_place = ("--contact-sheet", tree / "none" / "x.png")
    with pytest.raises(StorageError, match="name another by --contact-sheet"):
        run(tree, *no_place)
    (tree / "parsing_maps/a/000.npy").unlink()
    assert findings(capsys, tree, *no_place) == findings(capsys, tree)


def test_files_that_cannot_be_read(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, maps = tree / "images", tree / "parsing_maps"
    (images / "a/002.png").write_bytes((images / "a/002.png").read_bytes()[:-30])
    (maps / "a/004.npy").write_bytes(b"text")
    np.save(maps / "b/001.npy", np.zeros((1, SIZE, 20), np.int8))
    np.save(maps / "b/003.npy", np.full((1, SIZE, SIZE), 11, np.int8))
    (maps / "b/005.npy").unlink()
    (images / "b/007.png").unlink()
    missing, orphans, unreadable = findings(capsys, tree)
    assert "1 images have no parsing map: " in missing
    assert "b/005.png" in missing
    assert "1 parsing maps have no image: " in orphans
    assert "b/007.npy" in orphans
    assert "4 faces cannot be read: " in unreadable
    problems = examine(
        TreeFaces([pair for pair in list_tree(str(tree)).pairs if pair.parsing_map]),
        workers=1,
        description="",
    ).problems
    for name in ("a/002.png", "a/004.npy", "b/001.png: 32 x 32 pixels, and a", "b/003.npy"):
        assert sum(name in problem for problem in problems) == 1


def test_copies_and_overlaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Compares decoded pixels, because the same picture may have different bytes."""
    train = face_trees.write_tree(tmp_path / "train", 4)
    Image.open(train / "images/a/000.png").save(train / "images/z.png", compress_level=0)
    shutil.copy(train / "parsing_maps/a/000.npy", train / "parsing_maps/z.npy")
    val = face_trees.write_tree(tmp_path / "val", 3, first=3)
    target = tmp_path / "set"
    pack(str(train), str(target))
    pack(str(val), str(target), split="val")
    twice, common = findings(capsys, target)
    assert "set train: 1 images are there twice: z (record 4 of" in twice
    assert "is a/000 (record 0 of" in twice
    assert f"1 images of {target} val are in {target} train too: b/003 (record" in common
    assert findings(capsys, train, val)[1].startswith(f"1 images of {val} are in {train} too")


def test_regions_that_are_never_there(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (tree / "parsing_maps").rglob("*.npy"):
        parsing_map = np.load(file)
        parsing_map[(parsing_map >= 7) | (parsing_map == 2)] = 1
        np.save(file, parsing_map)
    (absent,) = findings(capsys, tree)
    assert absent.endswith("no image shows mouth, hair")


@pytest.mark.parametrize("damage", ["flip", "missing", "truncated"])
def test_damaged_shards(packed: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    file = packed / "faces-train.array_record-00001-of-00003"
    data = file.read_bytes()
    if damage == "flip":
        record = FaceRecords(str(packed), image_size=SIZE).records([6])[0]
        face_trees.flip_bit(file, 8 * data.index(record.image[-100:]))
    if damage == "missing":
        file.unlink()
    if damage == "truncated":
        file.write_bytes(data[:-100])
    found = findings(capsys, packed)
    assert len(found) == 2
    assert any(f"{file} is missing, or not as it was packed (by its SHA-256)" in x for x in found)
    if damage == "flip":
        assert f"1 faces cannot be read: record 1 of {file} is damaged" in found[1]


def test_statistics_that_do_not_fit(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(packed)
    split = vars(manifest["train"])
    count, total, squares = split["power_sums"]
    wrong = Split(**split | {"power_sums": (count, tuple(2 * x // 3 for x in total), squares)})
    files = {name: (packed / name).read_bytes() for name in ("features.json", "dataset_info.json")}
    (packed / "manifest.json").write_bytes(dump_manifest({"train": wrong}, files))
    (stats,) = findings(capsys, packed)
    assert "train: mean and std are (0." in stats


def test_a_set_without_manifest(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (packed / "manifest.json").unlink()
    run(packed)
    assert "nothing is wrong" in capsys.readouterr().out


def test_left_out_images_are_reported(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "parsing_maps/a/000.npy").unlink()
    pack(str(tree), str(tree / "set"))
    run(tree / "set")
    assert "1 files were left out when packing: left_out-train.jsonl" in capsys.readouterr().out


def test_the_picture_of_a_set_is_not_written_through_a_link(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    (packed / "contact_sheet.png").symlink_to(tmp_path / "mine")
    run(packed)
    assert (tmp_path / "mine").read_text() == "text"
    with Image.open(packed / "contact_sheet.png") as sheet:
        assert sheet.width > 8 * TILE


@pytest.mark.parametrize("kind", ["pipe", "sparse", "link out"])
def test_shards_that_are_not_read(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file = packed / "faces-train.array_record-00001-of-00003"
    file.replace(tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(file)
    if kind == "sparse":
        with file.open("wb") as opened:
            opened.truncate(50 * 10**9)
    if kind == "link out":
        file.symlink_to(tmp_path / "elsewhere")
    found = findings(capsys, packed)
    assert any(f"{file} is missing, or not as it was packed (by its SHA-256)" in x for x in found)


def test_a_pipe_that_takes_the_place_of_a_shard_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaces a shard after its first check; reading the pipe would wait until it is closed."""
    file = tmp_path / "shard"
    os.mkfifo(file)
    pipe = os.open(file, os.O_RDWR | os.O_NONBLOCK)
    threading.Timer(1, os.close, [pipe]).start()
    monkeypatch.setattr(check, "find_file", lambda folder, name: folder / name)
    empty = Shard(file.name, count=0, bytes=0, sha256=hashlib.sha256().hexdigest())
    assert not check._matches((file, empty))


def test_what_names_contain_does_not_act_on_the_terminal(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, suffix in (("images", "png"), ("parsing_maps", "npy")):
        source = tree / folder / f"a/000.{suffix}"
        shutil.copy(source, tree / folder / f"\x1b[31m\n1. mine.{suffix}")
    found = findings(capsys, tree)
    assert len(found) == 1 and "\\x1b[31m\\n1. mine.png" in found[0]
    pack(str(tree), str(tmp_path / "set"))
    assert "\\x1b[31m\\n1. mine (record" in findings(capsys, tmp_path / "set")[0]


def test_a_class_of_others_is_refused(packed: Path) -> None:
    (packed / "manifest.json").unlink()
    text = (packed / "features.json").read_text().replace("text_feature.Text", "evil.Feature")
    (packed / "features.json").write_text(text)
    with pytest.raises(DataError, match=r"names the class '.*evil\.Feature'"):
        run(packed)


def test_what_cannot_be_checked(tmp_path: Path, tree: Path) -> None:
    with pytest.raises(DataError, match="is no packed set"):
        run(tmp_path)
    with pytest.raises(StorageError, match=r"/nowhere/x.png cannot be written .*--contact-sheet"):
        run(tree, "--contact-sheet", tmp_path / "nowhere" / "x.png")
    with pytest.raises(ConfigError, match="--processes is 0; it must be at least 1"):
        check.run(argparse.Namespace(paths=[str(tree)], processes=0, contact_sheet=None))
