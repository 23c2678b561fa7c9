"""Tests lists as users save them, and errors for other files and paths outside a set."""

import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import write_pictures

from fsvfm_jax.data.labelled import lists
from fsvfm_jax.data.labelled.lists import (
    entries,
    entry,
    find_picture,
    load_json,
    propose_prefix,
    read_lines,
)
from fsvfm_jax.data.labelled.set_root import Excluded, SetRoot
from fsvfm_jax.errors import DataError

LINES = ["a b/ä.png real", "c.png fake"]


def set_root(path, *, others=(), field=""):
    return SetRoot(str(path), [str(one) for one in others], Excluded(()), field)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-sig", "utf-32", "latin-1"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_text_is_read_as_editors_save_it(tmp_path, encoding, newline):
    file = tmp_path / "x.txt"
    text = newline.join(["# made by hand", "", *LINES, "  "])
    content = (
        b"\xfe\xff" + text.encode("utf-16-be")
        if encoding == "utf-16-be-sig"
        else text.encode(encoding)
    )
    file.write_bytes(content)
    found = list(read_lines(str(file)))
    # A file's name may be any bytes, and those that are not UTF-8 are kept.
    first = LINES[0] if encoding != "latin-1" else os.fsdecode(LINES[0].encode("latin-1"))
    assert found == [(first, f"{file} line 3"), (LINES[1], f"{file} line 4")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a.png real\nb.png fake\n".encode("utf-16-le"), "is UTF-16 or no text at all; save it"),
        (bytes(1000), "is UTF-16 or no text at all"),
        (b"\xff\xfea", "begins as utf-16-le and is not (truncated data); save it as UTF-8"),
        (b"a" * 10_000, "line 1 has 10,000 characters; a line of a list has a path and a label"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, content, said):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_lines(str(tmp_path / "x.txt")))
    assert said in str(error.value)


def make_unreadable(file: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "sparse":
        with open(file, "wb") as opened:
            opened.truncate(50 * 10**9)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pipe", "it is a named pipe, not a plain file"),
        ("folder", "it is a folder"),
        ("device", "it is a device"),
        ("sparse", "it has 50,000,000,000 bytes"),
        ("missing", "No such file or directory); name the file that says what belongs to the set"),
    ],
)
@pytest.mark.parametrize("read", [load_json, lambda file: list(read_lines(file))])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, kind, said, read):
    make_unreadable(tmp_path / "x.json", kind)
    (tmp_path / "other.json").touch()
    with pytest.raises(DataError) as error:
        read(str(tmp_path / "x.json"))
    assert said in str(error.value)
    assert ("there is 'other.json'" in str(error.value)) == (kind == "missing")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b'{"a": "\xff"}', b"\0"])
def test_what_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json is no JSON that can be read"):
        load_json(str(tmp_path / "x.json"))


def test_places_in_json_are_named():
    assert entries({"a": 1}, "x") == [("a", 1)]
    for value in (None, 1, [], "text"):
        with pytest.raises(DataError, match=f"^x/a is {type(value).__name__}, not an object"):
            entry(value, "b", "x/a")
    with pytest.raises(DataError, match=r"^x/a has no 'c'; it has 'b'"):
        entry({"b": 1}, "c", "x/a")


@pytest.mark.parametrize(
    ("name", "relative"),
    [
        ("a/b.png", "a/b.png"),
        ("./a//b.png", "a/b.png"),
        (r".\a\b.png", "a/b.png"),
        ("ROOT/a/b.png", "a/b.png"),
        ("OTHER/x.png", "OTHER/x.png"),
    ],
)
def test_a_path_is_below_the_root_or_a_root_that_the_user_names(tmp_path, name, relative):
    names = {"ROOT": str(tmp_path / "set"), "OTHER": str(tmp_path / "other")}
    for word, path in names.items():
        name, relative = name.replace(word, path), relative.replace(word, path)
    root = set_root(names["ROOT"], others=[names["OTHER"]])
    assert find_picture(name, root, "x") == (os.path.join(names["ROOT"], relative), relative)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("../a/b.png", "../"),
        ("../../data/rgb/a/b.png", "../../data/rgb/"),
        (r"D:\sets\a\b.png", "D:/sets/"),
        ("D:/a/b.png", "D:/"),
        (r"\\server\share\a\b.png", "//server/share/"),
        ("/home/somebody/a/b.png", "/home/somebody/"),
        ("/a/b.png", "/"),
    ],
)
def test_a_path_of_another_machine_is_refused_with_the_prefix_that_mends_it(tmp_path, name, prefix):
    write_pictures(tmp_path, "a/b.png")
    root = set_root(tmp_path, field="config.data.test.DFDC")
    with pytest.raises(DataError) as error:
        find_picture(name, root, "list line 1")
    assert str(error.value).startswith(f"list line 1 names {name.replace(chr(92), '/')!r}")
    assert str(error.value).endswith(
        f"has 'a/b.png': give --config.data.test.DFDC.strip_prefix={shlex.quote(prefix)}"
    )
    assert find_picture(name, root, "x", strip_prefix=prefix)[1] == "a/b.png"
    as_written = name[: -len("a/b.png")]
    assert find_picture(name, root, "x", strip_prefix=as_written)[1] == "a/b.png"


def test_a_path_of_another_machine_whose_file_is_not_there_names_the_option(tmp_path):
    with pytest.raises(DataError, match="strip_prefix='BEGINNING/' removes the beginning of its"):
        find_picture("D:/a/b.png", set_root(tmp_path), "x")
    assert propose_prefix("datasets/a/b.png", set_root(tmp_path)) == ""


@pytest.mark.parametrize("name", ["a\0.png", "x/../a.png", "/etc/../a.png", "a" * 5000, "C:a.png"])
def test_other_paths_that_lead_out_are_refused(tmp_path, name):
    for prefix in ("", "x/", "/etc"):
        with pytest.raises(DataError, match=r"^x names "):
            find_picture(name, set_root(tmp_path), "x", strip_prefix=prefix)


@settings(max_examples=100)
@given(st.text("a./\\:C\0", max_size=12), st.text("a./\\:C", max_size=6))
def test_no_path_leaves_the_root(name, prefix):
    root = set_root("/nowhere/set", others=["/nowhere/other"])
    try:
        file, relative = find_picture(name, root, "x", strip_prefix=prefix)
    except DataError:
        return
    assert os.path.normpath(file) == "/nowhere/set" or file.startswith("/nowhere/set/")
    assert ".." not in file.split("/")
    assert os.path.join("/nowhere/set", relative) == file


def test_a_huge_list_has_a_limit():
    assert lists.MAX_LIST_BYTES < 300_000_000
