"""Tests a stage's lines: sorted at the end, kept after a kill, refused with other options."""

import errno
import json
import os
from pathlib import Path

import pytest

from fsvfm_jax.errors import ConfigError, DataError, StorageError
from fsvfm_jax.prepare.manifest import Manifest, new_files, read_lines, storage, write_file


def opened(tree: Path, stage: str = "detect", **options: object) -> Manifest:
    """Opens the manifest of a stage whose items are named by "source"."""
    return Manifest(tree, stage, key="source", options=options)


def line(source: str, **more: object) -> dict[str, object]:
    """Returns a line of an item."""
    return {"source": source, "outcome": "face", **more}


def bytes_of(tree: Path) -> dict[str, bytes]:
    """Returns the bytes of every file of a tree, by path."""
    return {str(x.relative_to(tree)): x.read_bytes() for x in tree.rglob("*") if x.is_file()}


def test_lines_are_sorted_whatever_the_order_of_work(tmp_path: Path) -> None:
    for name, order in {"x": "bca", "y": "abc"}.items():
        with opened(tmp_path / name, size=1) as manifest:
            for source in order:
                manifest.add([line(source, frame=11), line(source, frame=2)])
            assert manifest.finish() == {"face": 6}
    assert bytes_of(tmp_path / "x") == bytes_of(tmp_path / "y")
    assert set(bytes_of(tmp_path / "x")) == {"manifest.jsonl", "options.json"}
    lines = list(read_lines(tmp_path / "x"))
    assert [x["source"] + str(x["frame"]) for x in lines] == ["a11", "a2", "b11", "b2", "c11", "c2"]
    assert {x["stage"] for x in lines} == {"detect"}


@pytest.mark.parametrize("torn", [b"", b'[{"stage": "detect", "source": "c"', b"\xff"])
def test_a_killed_stage_goes_on(tmp_path: Path, torn: bytes) -> None:
    with opened(tmp_path / "whole", size=1) as manifest:
        manifest.add([line("a")])
        manifest.add([line("b")])
        manifest.finish()
    with opened(tmp_path / "killed", size=1) as manifest:
        manifest.add([line("b")])  # `finish` is not called
    with open(tmp_path / "killed" / ".detect.jsonl", "ab") as journal:
        journal.write(torn)
    (tmp_path / "killed" / ".unfinished" / "123").mkdir(parents=True)
    with opened(tmp_path / "killed", size=1) as manifest:
        assert "b" in manifest
        assert "a" not in manifest and "c" not in manifest
        manifest.add([line("a")])
        manifest.finish()
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_a_finished_stage_takes_new_items(tmp_path: Path) -> None:
    with opened(tmp_path) as manifest:
        manifest.add([line("b"), line("b", frame=1)])
        manifest.finish()
    with opened(tmp_path) as manifest:
        assert "b" in manifest
        manifest.add([line("a")])
        assert manifest.finish() == {"face": 3}
    assert [x["source"] for x in read_lines(tmp_path)] == ["a", "b", "b"]


def test_a_stage_leaves_the_lines_of_others(tmp_path: Path) -> None:
    for stage in ("parse", "detect"):
        with opened(tmp_path, stage) as manifest:
            assert "a" not in manifest
            manifest.add([line("a")])
            manifest.finish()
    assert [x["stage"] for x in read_lines(tmp_path)] == ["detect", "parse"]


def test_other_options_are_refused_with_the_difference(tmp_path: Path) -> None:
    with opened(tmp_path, size=224, faces="all"):
        pass
    before = bytes_of(tmp_path)
    message = r"made by detect with other options: size was 224 and is 256; give the same"
    with pytest.raises(ConfigError, match=message), opened(tmp_path, size=256, faces="all"):
        pass
    assert bytes_of(tmp_path) == before
    with opened(tmp_path, size=224, faces="all"), opened(tmp_path / "sub", size=256):
        pass


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with (
        opened(tmp_path),
        pytest.raises(ConfigError, match="another process prepares"),
        opened(tmp_path, "parse"),
    ):
        pass


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line("a", stage="x")) + "\n{\n")
    with pytest.raises(DataError, match=r"manifest.jsonl is damaged in line 2"):
        list(read_lines(tmp_path))


def test_files_are_written_all_or_none(tmp_path: Path) -> None:
    with opened(tmp_path):
        with pytest.raises(ValueError), new_files(tmp_path) as write:
            write("images/a.png", b"a")
            raise ValueError
        assert not (tmp_path / "images").exists()
        with new_files(tmp_path) as write:
            write("images/a.png", b"a")
            write("images/sub/b.png", b"b")
            assert not (tmp_path / "images").exists()
        write_file(tmp_path, "images/a.png", b"new")
    assert (tmp_path / "images" / "a.png").read_bytes() == b"new"
    assert (tmp_path / "images" / "sub" / "b.png").read_bytes() == b"b"
    assert list((tmp_path / ".unfinished").iterdir()) == []


def test_a_full_disk_is_not_told_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks for a single error, although `close` tries again to write what the journal lacks."""
    with pytest.raises(StorageError, match="make room"), opened(tmp_path) as manifest:
        manifest._journal.close()
        full = open("/dev/full", "ab")  # noqa: SIM115 (the manifest closes it)
        monkeypatch.setattr(manifest, "_journal", full)
        manifest.add([line("a")])


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    message = r"written \(No space left on device\); make room"
    with pytest.raises(StorageError, match=message), storage(tmp_path):
        raise full


NO_LINES = {
    "null": b"null\n",
    "list": b"[1]\n",
    "number": b"3\n",
    "no stage": b'{"source": "a", "outcome": "face"}\n',
    "no outcome": b'{"stage": "detect", "source": "a"}\n',
    "no source": b'{"stage": "detect", "outcome": "face"}\n',
    "numbers": b'{"stage": 1, "source": 2, "outcome": 3}\n',
    "deep": b"[" * 100_000 + b"\n",
    "no UTF-8": b"\xff\xfe\n",
    "long": b" " * (2**24 + 5),
    "huge number": b"9" * 5000 + b"\n",
}
FILES = ["manifest.jsonl", ".detect.jsonl", ".detect/1.jsonl", "options.json"]


@pytest.mark.parametrize("content", NO_LINES.values(), ids=NO_LINES)
@pytest.mark.parametrize("name", FILES)
def test_state_of_another_shape_is_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is damaged.* remove ") as caught, opened(tmp_path):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"[]\n", b"[3]\n", b'["a"]\n', b"[{}]\n"])
@pytest.mark.parametrize("name", FILES[1:3])
def test_a_journal_of_another_shape_is_one_sentence(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is damaged"), opened(tmp_path):
        pass


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", FILES)
def test_state_that_is_no_plain_file_is_refused_at_once(
    tmp_path: Path, name: str, kind: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    {
        "pipe": lambda: os.mkfifo(file),
        "device": lambda: file.symlink_to("/dev/zero"),
        "folder": lambda: file.mkdir(),
    }[kind]()
    with (
        pytest.raises(DataError, match=f"{name} is damaged.*it is a .*, not a plain file"),
        opened(tmp_path),
    ):
        pass


def elsewhere_with(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """Makes a folder outside the tree with this content."""
    elsewhere = tmp_path / "elsewhere"
    write = {"1.jsonl": b'[{"outcome": "face", "source": "z"}]\n', "notes.txt": b"precious"}
    for name, content in write.items():
        elsewhere.mkdir(exist_ok=True)
        (elsewhere / name).write_bytes(content)
    return elsewhere, write


@pytest.mark.parametrize("name", ["images", "parsing_maps", ".detect", ".unfinished"])
def test_folders_that_are_links_are_refused(tmp_path: Path, name: str) -> None:
    elsewhere, before = elsewhere_with(tmp_path)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / name).symlink_to(elsewhere)
    with pytest.raises(DataError, match=f"{tree / name} is a link, .* put the folder itself in"):
        opened(tree).__enter__()
    assert bytes_of(elsewhere) == before


@pytest.mark.parametrize("name", ["manifest.jsonl", ".detect.jsonl", ".detect/1.jsonl"])
@pytest.mark.parametrize("target", ["1.jsonl", "notes.txt", "missing"])
def test_lines_are_not_read_or_written_through_links(
    tmp_path: Path, name: str, target: str
) -> None:
    elsewhere, before = elsewhere_with(tmp_path)
    tree = tmp_path / "tree"
    (tree / name).parent.mkdir(parents=True)
    (tree / name).symlink_to(elsewhere / target)
    with pytest.raises(DataError, match=f"{name} is damaged.*it is a link, not a plain file"):
        opened(tree).__enter__()
    assert bytes_of(elsewhere) == before


@pytest.mark.parametrize("name", ["images/a.png", "images/b/c/d.png"])
@pytest.mark.parametrize("linked", ["images", "images/b", ".unfinished"])
def test_new_files_stay_in_the_tree(tmp_path: Path, name: str, linked: str) -> None:
    """Tests a link that appears while a stage works too."""
    elsewhere, before = elsewhere_with(tmp_path)
    tree = tmp_path / "tree"
    with opened(tree):
        (tree / "images").mkdir()
        (tree / linked).exists() and (tree / linked).rmdir()
        (tree / linked).symlink_to(elsewhere)
        if (name, linked) == ("images/a.png", "images/b"):
            write_file(tree, name, b"new")
            assert (tree / name).read_bytes() == b"new"
        else:
            with pytest.raises(DataError, match=f"{linked}.* is a link out of {tree}, or is in"):
                write_file(tree, name, b"new")
    assert bytes_of(elsewhere) == before and len(list(elsewhere.rglob("*"))) == len(before)


def test_a_tree_may_be_a_link_and_have_links_within(tmp_path: Path) -> None:
    (tmp_path / "tree/images/a").mkdir(parents=True)
    (tmp_path / "tree/images/b").symlink_to("a")
    (tmp_path / "link").symlink_to("tree")
    with opened(tmp_path / "link") as manifest:
        write_file(tmp_path / "link", "images/b/c.png", b"new")
        manifest.add([line("c")])
        manifest.finish()
    assert (tmp_path / "tree/images/a/c.png").read_bytes() == b"new"
