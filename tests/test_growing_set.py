"""Tests that interruptions do not change a set, and that other files are not touched."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import face_trees
import numpy as np
import pytest
from patience import PATIENCE

from fsvfm_jax.errors import ConfigError, DataError, StorageError
from fsvfm_jax.prepare import encode, growing_set
from fsvfm_jax.prepare.pack import pack


class Killed(BaseException):
    """An error that no code may catch."""


@pytest.mark.e2e
def test_it_goes_on_after_a_kill(tree: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Kills the process as soon as the second shard exists."""
    code = """
import sys, time
from fsvfm_jax.prepare import pack
def wait(*args, **kwargs):
    time.sleep(0.02)
    return pack_pairs(*args, **kwargs)
pack_pairs, pack.pack_pairs, pack.PAIRS_AT_ONCE = pack.pack_pairs, wait, 1
pack.pack(*sys.argv[1:], shard_records=5)
"""
    process = face_trees.start_python(code, str(tree), str(tmp_path), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while len(list(tmp_path.glob(".unfinished-train/*.json"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (tmp_path / ".unfinished-train/of-an-earlier-kill.unfinished").touch()
    assert not (tmp_path / "dataset_info.json").exists()
    kept = {x.name: x.stat().st_mtime_ns for x in tmp_path.glob(".unfinished-train/*-of-00004")}
    pack(str(tree), str(tmp_path), shard_records=5)
    assert face_trees.contents(tmp_path) == undisturbed
    assert len(kept) >= 2
    for name, time_written in kept.items():
        assert (tmp_path / name).stat().st_mtime_ns == time_written


@pytest.mark.e2e
def test_it_goes_on_wherever_it_was_stopped(
    tree: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops packing before and after the renaming of each file, up to the last."""
    replace = Path.replace
    steps = 0

    def counted(source: Path, target: Path) -> Path:
        nonlocal steps
        steps += 1
        if steps == stop:
            raise Killed
        result = replace(source, target)
        if steps == -stop:
            raise Killed
        return result

    monkeypatch.setattr(Path, "replace", counted)
    for stop in (sign * step for step in range(1, 100) for sign in (1, -1)):
        steps = 0
        try:
            pack(str(tree), str(tmp_path / "set"), shard_records=5)
            break
        except Killed:
            steps = -1000
            pack(str(tree), str(tmp_path / "set"), shard_records=5)
        assert face_trees.contents(tmp_path / "set") == undisturbed, stop
        shutil.rmtree(tmp_path / "set")
    assert stop > 15


def test_a_full_disk_is_a_clear_error(
    tree: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """Limits the size of a file, which the system refuses at the same place as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError, match=r"00000-of-00004 cannot be written \(.*File too la"):
            pack(str(tree), str(tmp_path), shard_records=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert set(face_trees.contents(tmp_path)) == {".unfinished-train/plan"}
    pack(str(tree), str(tmp_path), shard_records=5)
    assert face_trees.contents(tmp_path) == undisturbed


def test_what_cannot_be_made_is_a_clear_error(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/set cannot be written"):
        pack(str(tree), str(tmp_path / "file" / "set"))


def test_packing_again_does_nothing(tree: Path, tmp_path: Path) -> None:
    first = pack(str(tree), str(tmp_path))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert pack(str(tree), str(tmp_path)) == first
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_files_or_settings_are_refused(
    tmp_path: Path, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = face_trees.write_tree(tmp_path / "tree", 3)
    if finished:
        pack(str(tree), str(tmp_path / "set"))
    else:
        with monkeypatch.context() as context, pytest.raises(Killed):
            context.setattr(growing_set, "_finish", lambda *args: (_ for _ in ()).throw(Killed))
            pack(str(tree), str(tmp_path / "set"))
    times = os.stat(tree / "parsing_maps/a/000.npy")
    for change in ("settings", "newer", "maps", "files"):
        if change == "newer":
            os.utime(tree / "parsing_maps/a/000.npy")
        if change == "maps":  # same size and same time
            np.save(tree / "parsing_maps/a/000.npy", np.zeros((1, 32, 32), np.int8))
            os.utime(tree / "parsing_maps/a/000.npy", ns=(times.st_atime_ns, times.st_mtime_ns))
        if change == "files":
            face_trees.write_tree(tree, 1, first=3)
        with pytest.raises(ConfigError, match=r"of other files or settings; .*name another folder"):
            pack(str(tree), str(tmp_path / "set"), image_size=16 if change == "settings" else None)


def test_shards_that_are_gone_are_made_anew(
    tree: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(str(tree), str(tmp_path), shard_records=5)
    first, second, third, _ = sorted(tmp_path.glob("*array_record*"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    kept = third.stat().st_mtime_ns
    pack(str(tree), str(tmp_path), shard_records=5)
    assert face_trees.contents(tmp_path) == undisturbed
    assert third.stat().st_mtime_ns == kept
    # Another version of the program might write these.
    monkeypatch.setattr(encode, "JPEG_QUALITY", 60)
    first.unlink()
    with pytest.raises(DataError, match=f"{first.name} is missing or cut short, and what is"):
        pack(str(tree), str(tmp_path), shard_records=5)
    assert not first.exists()


def test_splits_of_pixels_have_one_size(tree: Path, tmp_path: Path) -> None:
    pack(str(tree), str(tmp_path), encoding="raw", image_size=16)
    with pytest.raises(ConfigError, match="as pixels of 16 x 16: give --image-size 16"):
        pack(str(tree), str(tmp_path), split="val", encoding="raw", image_size=8)
    pack(str(tree), str(tmp_path), split="val", encoding="raw", image_size=16)


def test_a_set_of_another_origin_is_not_touched(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a data set of another origin; name another folder"):
        pack(str(tree), str(tmp_path))


def test_two_do_not_pack_the_same_set(tree: Path, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        with pytest.raises(ConfigError, match=r"another process packs .*; wait"):
            pack(str(tree), str(tmp_path))
    finally:
        os.close(folder)


def test_a_tree_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    tree = face_trees.write_tree(tmp_path / "tree", 2)
    for file in (tree / "images").rglob("*.png"):
        file.write_bytes(b"text")
    with pytest.raises(DataError, match="none of 2 images can be packed; a/000: its image cannot"):
        pack(str(tree), str(tmp_path / "set"))
    assert not face_trees.contents(tmp_path / "set")
    shutil.rmtree(tree / "parsing_maps")
    with pytest.raises(DataError, match=r"none of the 2 images .* has a parsing map; make them by"):
        pack(str(tree), str(tmp_path / "set"))
    with pytest.raises(DataError, match="/images does not exist; a tree holds"):
        pack(str(tmp_path), str(tmp_path / "set"))


SHARD = "faces-train.array_record-00000-of-00004"


@pytest.fixture
def stopped(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a set whose packing was stopped."""

    def stop(*args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(growing_set, "_finish", stop)
        pack(str(tree), str(tmp_path), shard_records=5)
    return tmp_path / ".unfinished-train"


@pytest.mark.parametrize("name", ["plan", f"{SHARD}.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_state_that_is_no_plain_file_is_refused_at_once(
    tree: Path, stopped: Path, name: str, kind: str
) -> None:
    (stopped / name).unlink()
    {
        "pipe": lambda: os.mkfifo(stopped / name),
        "device": lambda: (stopped / name).symlink_to("/dev/zero"),
        "folder": lambda: (stopped / name).mkdir(),
    }[kind]()
    with pytest.raises(DataError, match=f"{name} is damaged .*it is a .*, not a plain file"):
        pack(str(tree), str(stopped.parent), shard_records=5)


def test_a_tally_of_another_shape_is_one_sentence(tree: Path, stopped: Path) -> None:
    file = stopped / f"{SHARD}.json"
    good = json.loads(file.read_text())
    bad = [{**good, key: value} for key in good for value in (None, 3, "a", [[1]], {"file": "/x"})]
    bad += [{**good, "shard": {**good["shard"], "file": name}} for name in ("../../x", "plan")]
    for content in [b"", b"[" * 100_000, b"\xff", *(json.dumps(one).encode() for one in bad)]:
        file.write_bytes(content)
        with pytest.raises(
            DataError, match=rf"{SHARD}\.json is damaged .*; remove {stopped}"
        ) as said:
            pack(str(tree), str(stopped.parent), shard_records=5)
        assert "\n" not in str(said.value)
    file.write_text(json.dumps(good))
    assert pack(str(tree), str(stopped.parent), shard_records=5).count == 20


def test_nothing_is_read_from_where_the_files_of_tfds_are_made(
    tree: Path, stopped: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (stopped / "tfds").symlink_to(elsewhere)
    pack(str(tree), str(stopped.parent), shard_records=5)
    assert not list(elsewhere.iterdir())


def test_a_set_cannot_have_its_shards_written_elsewhere(
    tree: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (tmp_path / ".unfinished-train").symlink_to(elsewhere)
    with pytest.raises(DataError, match="unfinished-train is a link, and nothing is written els"):
        pack(str(tree), str(tmp_path))
    assert not list(elsewhere.iterdir())
