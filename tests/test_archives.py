"""Tests zip archives with a directory larger than any checkpoint's, or with repeated names."""

import struct
import zipfile

import pytest

from fsvfm_jax.convert.archives import MAX_DIRECTORY_BYTES, MAX_ENTRIES, open_archive


def write(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def test_an_archive_is_opened(tmp_path):
    write(tmp_path / "x.zip", ["a", "b"])
    with (tmp_path / "x.zip").open("rb") as file, open_archive(file) as archive:
        assert archive.namelist() == ["a", "b"] and archive.read("b") == b"x"


def test_names_twice_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        write(tmp_path / "x.zip", ["a", "a"])
    with (tmp_path / "x.zip").open("rb") as file, pytest.raises(ValueError, match="same name"):
        open_archive(file)


def test_many_entries_are_refused(tmp_path):
    write(tmp_path / "x.zip", map(str, range(MAX_ENTRIES + 1)))
    with (tmp_path / "x.zip").open("rb") as file, pytest.raises(ValueError, match="20001 entries"):
        open_archive(file)


def test_a_large_directory_is_not_read(tmp_path):
    entry = b"PK\x01\x02" + bytes(42)
    directory = entry * (MAX_DIRECTORY_BYTES // len(entry) + 1)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), 0, 0)
    (tmp_path / "x.zip").write_bytes(directory + end)
    with (tmp_path / "x.zip").open("rb") as file, pytest.raises(ValueError, match="directory of"):
        open_archive(file)
