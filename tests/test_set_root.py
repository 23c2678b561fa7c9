"""Tests that excluded folders are not read, and that errors name the folders that exist."""

import shlex
from dataclasses import replace

import pytest
from labelled_trees import write_pictures

from fsvfm_jax.data.labelled.set_root import (
    Excluded,
    SetRoot,
    folders_in,
    subfolder,
    walk_pictures,
)
from fsvfm_jax.errors import DataError


def test_excluded_names_are_remembered_where_they_are_met():
    excluded = Excluded(["YouTube-real", "fake", "never"])
    assert not excluded.has(["real", "fakes"])
    assert excluded.has(["real", "fake"])
    assert excluded.has_folder_of("D:\\sets\\YouTube-real\\x.png")
    assert not excluded.has_folder_of("sets/never")  # the name of a file does not exclude a folder
    assert excluded.met == {"YouTube-real", "fake"}


def test_pictures_are_sorted_and_those_in_excluded_folders_are_left_out(tmp_path):
    write_pictures(tmp_path, "x/b/2.png x/a.png x/no/1.png x/b/no/1.png y/1.png")
    (tmp_path / "x/notes.txt").touch()
    root = SetRoot(str(tmp_path), (), Excluded(["no"]), "")
    found = walk_pictures(root, str(tmp_path), "x", label="real")
    assert [picture.path for picture in found] == ["x/a.png", "x/b/2.png"]
    assert {(picture.label, picture.where) for picture in found} == {("real", f"{tmp_path}/x")}
    assert found[0].file == f"{tmp_path}/x/a.png"
    assert root.excluded.met == {"no"}
    assert root.left_out.first == ["x/notes.txt"] and root.left_out.kinds == {".txt": 1}


def test_a_flag_is_what_a_user_types():
    root = SetRoot("DIR", (), Excluded(()), "config.data.test.A")
    assert root.flag("strip_prefix", "../") == "--config.data.test.A.strip_prefix=../"
    hostile = "x'; rm -r ~; '/$(id)/"
    flag = root.flag("strip_prefix", hostile)
    assert shlex.split(flag) == [f"--config.data.test.A.strip_prefix={hostile}"]
    assert replace(root, field="").flag("strip_prefix", "../") == "strip_prefix='../'"


def test_folders_are_named(tmp_path):
    for name in ("b", "a", ".hidden", "@eaDir"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert folders_in(str(tmp_path)) == ["a", "b"]
    assert subfolder(str(tmp_path), "a") == f"{tmp_path}/a"
    with pytest.raises(DataError, match=r"/c does not exist; in .* there is 'a', 'b'$"):
        subfolder(str(tmp_path), "c", "d")
    (tmp_path / "a" / "x.png").touch()
    with pytest.raises(DataError, match=r"/a/c does not exist; in .* there is no folder, only 1"):
        subfolder(str(tmp_path), "a", "c")
    with pytest.raises(DataError, match=rf"; the folder above, {tmp_path}, may be meant$"):
        subfolder(f"{tmp_path}/b/", "b")
    with pytest.raises(DataError, match=r"file cannot be listed \(Not a directory\)"):
        folders_in(str(tmp_path / "file"))
