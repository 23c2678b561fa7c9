"""Tests opening files that may come from a stranger."""

import os
import socket
from functools import partial
from pathlib import Path

import pytest

from fsvfm_jax.host.plain_files import FileRefused, append_plain, open_plain, read_plain


def test_plain(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    (tmp_path / "link").symlink_to(file)
    assert read_plain(file, max_bytes=7) == b"content"
    assert read_plain(tmp_path / "link", max_bytes=7) == b"content"
    with open_plain(file, max_bytes=7) as opened:
        assert opened.read(3) == b"con"


def test_refuses_what_is_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    kinds = {"pipe": "named pipe", "folder": "folder", "device": "device", "socket": "socket"}
    for name, kind in kinds.items():
        with pytest.raises(FileRefused) as caught:
            open_plain(tmp_path / name, max_bytes=100)
        assert caught.value.strerror == f"it is a {kind}, not a plain file"
        assert caught.value.filename == str(tmp_path / name)


def test_refuses_a_sparse_file_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(50 * 10**9)
    with pytest.raises(FileRefused, match="50,000,000,000 bytes"):
        open_plain(tmp_path / "sparse", max_bytes=10**9)


def test_reads_no_more_than_is_allowed_of_a_file_that_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    real = os.fstat

    def grow(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        with file.open("ab") as other:
            other.write(b" and more")
        return status

    monkeypatch.setattr(os, "fstat", grow)
    with pytest.raises(FileRefused, match="more bytes"):
        read_plain(file, max_bytes=7)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "none", max_bytes=1)


def test_appends_to_a_plain_file_only(tmp_path: Path) -> None:
    for line in (b"a\n", b"b\n"):
        with append_plain(tmp_path / "lines") as opened:
            opened.write(line)
    assert (tmp_path / "lines").read_bytes() == b"a\nb\n"
    os.mkfifo(tmp_path / "pipe")  # Opening the pipe to write would wait for a reader.
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "dangling").symlink_to("made")
    with pytest.raises(FileRefused, match="it is a link"):
        append_plain(tmp_path / "dangling")
    assert not (tmp_path / "made").exists()
    for name, kind in {"pipe": "a named pipe", "null": "a link", ".": "a folder"}.items():
        with pytest.raises(FileRefused) as refused:
            append_plain(tmp_path / name)
        assert refused.value.strerror == f"it is {kind}, not a plain file"
    with pytest.raises(FileNotFoundError):
        append_plain(tmp_path / "missing" / "lines")


def test_links_are_not_followed_where_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "loose").symlink_to(tmp_path / "missing")
    for name in ("link", "loose"):
        with pytest.raises(FileRefused, match="it is a link, not a plain file"):
            open_plain(tmp_path / name, max_bytes=7, follow_links=False)
        with pytest.raises(FileRefused, match="it is a link, not a plain file"):
            append_plain(tmp_path / name)
    assert not (tmp_path / "missing").exists()
    with open_plain(tmp_path / "file", max_bytes=7, follow_links=False) as opened:
        assert opened.read() == b"content"


def test_a_link_that_takes_the_place_of_a_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaces the file between its check and its opening."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: real(path))
    monkeypatch.setattr(os, "lstat", lambda path: real(path))
    for open_file in (partial(open_plain, max_bytes=7, follow_links=False), append_plain):
        with pytest.raises(OSError, match="symbolic links"):
            open_file(tmp_path / "link")
