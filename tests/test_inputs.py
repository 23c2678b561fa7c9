"""Tests that every file that is named keeps its place, whatever it is."""

import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.predict.inputs import find_inputs


def touch(root: Path, *names: str) -> None:
    """Makes empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def listed(*sources: str, **options: str) -> list[tuple[str, str | None]]:
    """Returns paths and errors."""
    return [(one.path, one.error) for one in find_inputs(sources, **options).each]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_order_is_that_of_the_sources(here: Path) -> None:
    touch(here, "d/b.jpg", "d/a.mp4", "d/x/c.png", "z.jpg", "in/1.jpg", "in/2.jpg")
    (here / "in/list.txt").write_text("2.jpg\n1.jpg\n2.jpg\n")
    assert listed("z.jpg", "in/list.txt", "d", "./z.jpg") == [
        (path, None)
        for path in (
            *("z.jpg", "in/2.jpg", "in/1.jpg", "in/2.jpg", "d/a.mp4", "d/b.jpg", "d/x/c.png"),
            "./z.jpg",
        )
    ]


def test_a_file_that_cannot_be_read_is_told_and_loses_no_other(here: Path) -> None:
    touch(here, "a.jpg", "notes.md", "d/a.jpg", "d/a.png", "d/x.gif", "d/.hidden.jpg")
    os.mkfifo(here / "pipe.jpg")
    (here / "empty").mkdir()
    found = dict(listed("none.jpg", "notes.md", "pipe.jpg", "d", "a\0.jpg", "empty", "a.jpg"))
    assert "does not exist" in found.pop("none.jpg")
    assert found.pop("pipe.jpg") == "it is neither a folder nor a plain file"
    other = "it is no image or video by its name"
    assert found == {
        "notes.md": other,
        "d/a.jpg": None,  # `prepare detect` would refuse both, since their crops share a name.
        "d/a.png": None,
        "a\0.jpg": "its name has a NUL",
        "empty": "it has no image or video",
        "a.jpg": None,
    }


def test_other_files_of_a_folder_are_counted_in_the_log(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(here, "d/.DS_Store", "d/Thumbs.db", "d/a.jpg", "d/README.md", "d/labels.csv")
    assert listed("d") == [("d/a.jpg", None)]
    assert "d: 4 left out (2 it is hidden, or one of the system, 1 .md, 1 .csv)" in caplog.text


def test_every_file_that_is_named_has_a_record(here: Path) -> None:
    touch(here, "in/.a.jpg", "in/.b.jpg", "in/notes.md")
    hidden = "it is hidden, or one of the system"
    (here / "in/list.txt").write_text(".a.jpg\n.b.jpg\n")
    assert listed("in/list.txt") == [("in/.a.jpg", hidden), ("in/.b.jpg", hidden)]
    assert listed("in/notes.md") == [("in/notes.md", "it is no image or video by its name")]


def test_a_root_needs_a_list(here: Path) -> None:
    touch(here, "in/a.jpg")
    with pytest.raises(ConfigError, match="--root=in is for lists of paths"):
        find_inputs(["in/a.jpg"], root="in")


def test_standard_input_names_sources(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(here, "a.jpg", "d/b.jpg", ".cache/c.jpg")
    (here / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    lines = b" d \t\n \n" + os.fsencode(here / ".cache/c.jpg") + b"\n\xff.jpg\nnone\n"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    found = listed("a.jpg", "-")
    assert [path for path, _ in found] == [
        "a.jpg",
        "d/b.jpg",
        str(here / ".cache/c.jpg"),
        os.fsdecode(b"\xff.jpg"),
        "none",
    ]
    assert [error for _, error in found][:4] == [None] * 4


def test_names_are_read_when_their_turn_comes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines() -> Iterator[bytes]:
        for number in range(1_000_000):
            asked.append(number)
            yield f"{number}.jpg\n".encode()

    class Stream(io.RawIOBase):
        def __init__(self) -> None:
            self.lines = lines()

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:
            line = next(self.lines, b"")
            buffer[: len(line)] = line
            return len(line)

    asked: list[int] = []
    stream = io.BufferedReader(Stream(), 64)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
    found = find_inputs(["-"])
    assert found.total is None and len(list(itertools.islice(found.each, 1000))) == 1000
    assert len(asked) < 5000


def test_a_list_is_counted_and_said(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(here, "in/a.jpg", "in/b.jpg")
    (here / "in/list.txt").write_bytes(
        b"\xef\xbb\xbfa.jpg\r\n\n  \rb.jpg\r" + b"x" * 20_000 + b".jpg\nb.jpg"
    )
    with caplog.at_level("INFO", "fsvfm_jax"):
        found = find_inputs(["in/list.txt", "in"])
    assert found.total == 6 and "in/list.txt is read as a list of 4 paths" in caplog.text
    paths, errors = zip(*((one.path, one.error) for one in found.each), strict=True)
    assert paths[:2] == ("in/a.jpg", "in/b.jpg") and paths[3:] == (
        "in/b.jpg",
        "in/a.jpg",
        "in/b.jpg",
    )
    assert "over 1000 characters" in errors[2] and errors[:2] == (None, None)
    assert len(paths[2]) < 1010


@pytest.mark.parametrize(
    ("later", "paths", "error"),
    [
        ("a.jpg\n", ["in/a.jpg"], "first it had 2 paths, then 1"),
        ("a.jpg\nb.jpg\na.jpg\n", ["in/a.jpg", "in/b.jpg", "in/a.jpg"], "2 paths, then 3"),
        (None, [], "cannot be read"),
    ],
)
def test_a_list_that_changes_is_reported(
    here: Path, later: str | None, paths: list[str], error: str
) -> None:
    touch(here, "in/a.jpg", "in/b.jpg", "z.jpg")
    file = here / "in/list.txt"
    file.write_text("a.jpg\nb.jpg\n")
    found = find_inputs(["z.jpg", "in/list.txt", "z.jpg"])
    file.unlink() if later is None else file.write_text(later)
    inputs = list(found.each)
    assert [one.path for one in inputs] == ["z.jpg", *paths, "in/list.txt", "z.jpg"]
    assert error in inputs[-2].error and all(one.error is None for one in inputs[:-2])


def test_an_absolute_path_outside_of_a_list_s_folder_names_the_flag(here: Path) -> None:
    touch(here, "other/b.jpg", "in/a.jpg")
    (here / "in/list.txt").write_text(f"{here}/other/b.jpg\n")
    assert "give a folder that contains it by --root" in listed("in/list.txt")[0][1]


def test_a_closed_standard_input_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        find_inputs(["-"])


def test_a_list_stays_in_its_root(here: Path) -> None:
    touch(here, "secret.jpg", "in/a.jpg", "other/b.jpg")
    (here / "in/list.txt").write_text(f"a.jpg\n../secret.jpg\n{here}/other/b.jpg\n")
    errors = [error for _, error in listed("in/list.txt")]
    assert errors[0] is None and all("leads out of" in error for error in errors[1:])
    assert listed("in/list.txt", root=str(here))[2] == (f"{here}/other/b.jpg", None)


def test_nothing_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
    with pytest.raises(DataError, match="there is nothing to score"):
        find_inputs(["-"])
    (here / "empty.txt").write_text("\n")
    assert listed("empty.txt") == [("empty.txt", "it is a list without a path")]
