"""Zip archives are opened only if their directory is that of a checkpoint."""

import zipfile
from pathlib import Path

import pytest

from fsvfm_jax.convert import archives
from fsvfm_jax.convert.archives import open_archive


def write_archive(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return path


def test_entries_are_read(tmp_path: Path) -> None:
    with write_archive(tmp_path / "a.zip", ["a", "b"]).open("rb") as file:
        archive = open_archive(file)
        assert archive.namelist() == ["a", "b"]
        assert archive.read("b") == b"content"


def test_entries_of_the_same_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = write_archive(tmp_path / "a.zip", ["a", "a"])
    with path.open("rb") as file, pytest.raises(ValueError, match="entries of the same name"):
        open_archive(file)


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 2)
    path = write_archive(tmp_path / "a.zip", ["a", "b", "c"])
    with path.open("rb") as file, pytest.raises(ValueError, match="it has 3 entries"):
        open_archive(file)


def test_a_directory_of_any_length_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 100)
    path = write_archive(tmp_path / "a.zip", ["x" * 200])
    with path.open("rb") as file, pytest.raises(ValueError, match="its directory of"):
        open_archive(file)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(100), bytes(1000)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with (tmp_path / "a.zip").open("rb") as file, pytest.raises((zipfile.BadZipFile, ValueError)):
        open_archive(file)
