"""Tests the listing of a folder: every data file once, and the other files counted and named."""

import contextlib
import os
import subprocess
import tracemalloc
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from face_trees import write_tree
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fsvfm_jax.data import listing
from fsvfm_jax.data.labelled.set_root import Excluded, SetRoot, walk_pictures
from fsvfm_jax.data.listing import (
    AGAIN,
    DEEP,
    HIDDEN,
    LeftOut,
    Tally,
    is_system_name,
    walk,
    warn_of_left_out,
)
from fsvfm_jax.data.sources import FaceFolder
from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.files import find_images, find_sources
from fsvfm_jax.prepare.trees import list_tree

SYSTEM = [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".Trash-1000", "$RECYCLE.BIN", "lost+found"]
SYSTEM += ["System Volume Information", "#recycle", ".git"]
SYSTEM_FILES = ["._x.png", ".hidden.png", "Thumbs.db", ".DS_Store", "desktop.ini", "THUMBS.DB"]


def touch(root: Path, *names: str) -> None:
    """Makes empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def found(folder: Path, *args, **options) -> tuple[list[str], list[LeftOut]]:
    """Returns the files that are found, and those that are left out."""
    left_out: list[LeftOut] = []
    names = list(walk(str(folder), *args, leave_out=left_out.append, **options))
    return names, left_out


NAMES = st.sets(st.sampled_from(["a.png", "b/c.JPG", "b/d.bmp", "e/f/g.tiff", "e/h.tif", "i.webp"]))


@given(NAMES, st.sets(st.sampled_from(["n.gif", "b/o.ppm", "e/p", "q.heic", "e/f/r.avif"])))
def test_images_are_found_and_others_are_counted(
    tmp_path_factory: pytest.TempPathFactory, images: set[str], others: set[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    touch(root, *images, *others)
    names, left_out = found(root)
    assert sorted(names) == sorted(images)
    assert {(one.name, one.kind) for one in left_out} == {
        (name, os.path.splitext(name)[1]) for name in others
    }
    assert sorted(found(root, None)[0]) == sorted(images | others)


def test_the_log_says_it_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(
        tmp_path, "a.png", "b.gif", "c.GIF", "d", "@eaDir/a.png", *(f"{i}.txt" for i in range(30))
    )
    assert list(walk(str(tmp_path))) == ["a.png"]
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith(
        f"{tmp_path}: 34 left out (30 .txt, 2 .gif, 1 hidden or of the system, 1 without a suffix)"
    )
    assert said.endswith(", ...") and "\n" not in said and len(said.split(", ")) < 30
    caplog.clear()
    assert list(walk(str(tmp_path / "@eaDir"))) == ["a.png"]  # a root may have any name
    assert list(walk(str(tmp_path / "nowhere"))) == [] and not caplog.records


LEFT_OUT = st.builds(LeftOut, st.text(max_size=3), st.sampled_from([HIDDEN, "", ".txt", ".gif"]))


@given(st.lists(LEFT_OUT, max_size=60), st.randoms())
def test_a_tally_does_not_depend_on_the_order(left_out: list[LeftOut], random: Random) -> None:
    tally = Tally(left_out)
    assert tally.first == sorted(one.name for one in left_out)[: listing.MAX_SHOWN]
    assert tally.kinds == Counter(one.kind for one in left_out)
    random.shuffle(left_out)
    assert vars(Tally(left_out)) == vars(tally)


def test_a_tally_is_small(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally(LeftOut(f"{number}", f".{number}") for number in range(20_000))
    assert len(tally.kinds) == listing.MAX_KINDS + 1 and len(tally.first) == listing.MAX_SHOWN
    warn_of_left_out("DIR", tally)
    (record,) = caplog.records
    assert record.getMessage().startswith("DIR: 20000 left out (19000 of other kinds, 1 .")


@pytest.mark.parametrize("read", ["log", "set"])
def test_what_is_left_out_takes_no_memory(tmp_path: Path, read: str) -> None:
    """Writes a text beside each face in one folder; keeping names or entries would take 600 kB."""
    touch(tmp_path, *(f"{number}.txt" for number in range(2000)))
    root = SetRoot(str(tmp_path), (), Excluded(()), "")
    tracemalloc.start()
    try:
        if read == "log":
            assert list(walk(str(tmp_path))) == []
        else:
            assert walk_pictures(root, str(tmp_path), "", label="real") == []
            assert root.left_out.kinds == {".txt": 2000}
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


def test_which_link_is_followed_depends_on_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests every order in which a file system may list them."""
    touch(tmp_path, "out/x.png", *(f"tree/{name}/y.png" for name in "abc"))
    for name in ("z", "a/l", "b/k", "b/m", "c/l"):
        (tmp_path / "tree" / name).symlink_to(tmp_path / "out")
    scandir, results = os.scandir, []
    for backwards in (False, True):

        def listed(folder: str, *, backwards: bool = backwards) -> Any:
            entries = sorted(scandir(folder), key=lambda one: one.name, reverse=backwards)
            return contextlib.nullcontext(entries)

        monkeypatch.setattr(os, "scandir", listed)
        names, left_out = found(tmp_path / "tree")
        results.append((sorted(names), sorted(left_out)))
    assert results[0] == results[1]
    assert results[0][0] == ["a/y.png", "b/y.png", "c/y.png", "z/x.png"]


@pytest.mark.parametrize("name", SYSTEM)
def test_folders_of_the_system_are_not_searched(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.png", f"{name}/b.png", f"sub/{name}/deep/c.png")
    assert found(tmp_path) == (
        ["a.png"],
        [LeftOut(name, HIDDEN), LeftOut(os.path.join("sub", name), HIDDEN)],
    )


def test_every_reader_leaves_them_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = write_tree(tmp_path, 4)
    extra = [*SYSTEM_FILES, *(f"{name}/x.png" for name in SYSTEM)]
    touch(tree, *(f"images/{name}" for name in extra), "images/y.gif", "images/a/z.heic")
    touch(tree, "parsing_maps/._x.npy", "parsing_maps/@eaDir/x.npy")
    assert len(FaceFolder(str(tree), image_size=32)) == 4
    assert f"{tree}: 19 left out (17 hidden or of the system, 1 .gif, 1 .heic)" in caplog.text
    listed = list_tree(str(tree))
    assert len(listed.pairs) == 4 and listed.maps_without_image == []
    assert len(listed.others) == 19
    assert listed.others[str(tree / "images/._x.png")] == "it is hidden, or one of the system"
    for names, refusals in (find_images(str(tree / "images")), find_sources(str(tree / "images"))):
        assert len(names) == 4 and len(refusals) == 17
        reasons = {refusal.name: refusal.reason for refusal in refusals}
        assert reasons[".ipynb_checkpoints"] == "it is hidden, or one of the system"
    list_file = tmp_path / "list.txt"
    list_file.write_text("images/a/000.png\nimages/._x.png\n__MACOSX/images/a/000.png\n")
    sources, refusals = find_sources(str(list_file))
    assert [source.name for source in sources] == ["images/a/000.png"] and len(refusals) == 2


def test_folders_are_entered_as_asked(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "no/b.png", "c/no/d.png", "c/e.png", "c/f.gif")
    names, left_out = found(tmp_path, enter=lambda name: name != "no")
    assert sorted(names) == ["a.png", "c/e.png"] and left_out == [LeftOut("c/f.gif", ".gif")]


def test_bmp_and_tiff_are_trained_on(tmp_path: Path) -> None:
    write_tree(tmp_path, 2)
    pixels = {}
    for name, suffix in (("a/000", "bmp"), ("b/001", "TIF")):
        file = tmp_path / "images" / f"{name}.png"
        with Image.open(file) as image:
            image.save(file.with_suffix(f".{suffix}"), "BMP" if suffix == "bmp" else "TIFF")
            pixels[name] = np.asarray(image)
        file.unlink()
    source = FaceFolder(str(tmp_path), image_size=32)
    for face, expected in zip(source, pixels.values(), strict=True):
        np.testing.assert_array_equal(face["image"], expected)


def test_circles_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "tree/a.png", "tree/sub/b.png", "out/c.png")
    for name, target in {
        "one": ".",
        "two": ".",
        "sub/up": "..",
        "z": "sub",
        "self": "self",
    }.items():
        (tmp_path / "tree" / name).symlink_to(target)
    for name in ("linked", "linked again"):
        (tmp_path / "tree" / name).symlink_to(tmp_path / "out")
    (tmp_path / "out" / "back").symlink_to(tmp_path / "tree")
    names, left_out = found(tmp_path / "tree")
    assert sorted(names) == ["a.png", "linked/c.png", "sub/b.png"]
    again = {one.name for one in left_out if one.kind == AGAIN}
    assert again == {"one", "two", "sub/up", "z", "linked again", "linked/back"}
    assert [one for one in left_out if one.kind != AGAIN] == [LeftOut("self", "")]
    names, left_out = found(tmp_path / "tree", None, follow_links=False)
    assert {"one", "linked", "sub/up", "sub/b.png"} < set(names) and left_out == []


def test_a_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes many links to it; otherwise their number would count squared."""
    for number in range(200):
        (tmp_path / f"{number}").symlink_to(".")
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    names, left_out = found(tmp_path)
    assert names == [] and len(left_out) == 200 and len(listed) == 1


def test_folders_may_be_nested_only_so_deep(tmp_path: Path) -> None:
    """Nests three thousand folders, which no path can name and no recursion can read."""
    touch(tmp_path, "a.png")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    names, left_out = found(tmp_path)
    assert names == ["a.png"]
    assert [(one.name.count("/"), one.kind) for one in left_out] == [(listing.MAX_DEPTH, DEEP)]
    assert left_out[0].reason(wanted="image") == "it is more than 64 folders deep"
    # The function that removes this folder after the test is recursive.
    os.rename(tmp_path / "d", tmp_path / "rest")
    subprocess.run(["rm", "-rf", tmp_path / "rest"], check=True)


def test_there_are_only_so_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"{number % 3}/{number}.png" for number in range(10)))
    monkeypatch.setattr(listing, "MAX_ENTRIES", 13)
    assert len(found(tmp_path)[0]) == 10
    touch(tmp_path, "more.png")
    with pytest.raises(DataError, match="has over 13 files and folders; pack such a set"):
        found(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "x", "trash", "macosx", "Thumbs.png", "lost", "a.b.c"])
def test_other_names_are_no_system_s(name: str) -> None:
    assert not is_system_name(name)
    assert all(map(is_system_name, [*SYSTEM, *SYSTEM_FILES]))
