"""Tests reading and writing the small files of a run."""

import errno
import os

import pytest
from etils import epath

from fsvfm_jax.errors import StorageError
from fsvfm_jax.host import storage


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path):
    file = epath.Path(tmp_path / "a.json")
    for content in ({"a": [1, 2.5]}, [{"b": None}]):
        storage.write_json(file, content)
        assert storage.read_stored_json(file, type(content), mend="") == content
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_who_is_killed_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    file = epath.Path(tmp_path / "a.json")
    storage.write_json(file, 1)
    monkeypatch.setattr(type(file), "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        storage.write_json(file, 2)
    assert storage.read_stored_json(file, int, mend="") == 1


def test_an_error_while_writing_leaves_what_was_there_and_nothing_else(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), storage.whole_file(file) as opened:
        opened.write(b"af")
        raise ZeroDivisionError
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_two_writers_of_a_file_at_the_same_time_do_not_disturb_each_other(tmp_path):
    file = tmp_path / "a"
    with storage.whole_file(file) as first:
        first.write(b"first")
        with storage.whole_file(file) as second:
            second.write(b"second")
        assert file.read_bytes() == b"second"
    assert file.read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("has_links", [True, False])
def test_a_new_file_replaces_nothing(tmp_path, monkeypatch, has_links):
    def link(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not has_links:
        monkeypatch.setattr(os, "link", link)
    file = tmp_path / "a"
    with storage.whole_file(file, is_new=True) as first:
        first.write(b"first")
    assert file.read_bytes() == b"first"
    with pytest.raises(OSError), storage.whole_file(file, is_new=True) as second:
        second.write(b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


def test_a_file_of_another_owner_beside_the_output_is_unchanged(tmp_path):
    other = tmp_path / "a.json.tmp"
    other.write_text("of somebody else")
    storage.write_json(epath.Path(tmp_path / "a.json"), [1])
    assert other.read_text() == "of somebody else"


def test_a_new_file_has_the_permissions_that_the_process_gives_to_files(tmp_path):
    storage.write_json(epath.Path(tmp_path / "a.json"), [1])
    (tmp_path / "b").touch()
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_folder_for_results_may_be_a_link_or_missing_but_nothing_else(tmp_path):
    def refused(folder):
        with pytest.raises(StorageError, match=r"^--x cannot be written \(.*\): choose") as error:
            storage.check_folder(folder, flag="--x")
        return str(error.value)

    (tmp_path / "link").symlink_to(".")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "file").touch()
    storage.check_folder(tmp_path / "link", flag="--x")
    storage.check_folder(tmp_path / "new" / "newer", flag="--x")
    assert "link to nothing" in refused(tmp_path / "nowhere")
    assert "it is no folder" in refused(tmp_path / "file")
    assert "file is no folder" in refused(tmp_path / "file" / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "nowhere"]


def test_what_cannot_be_written_is_named_with_the_way_out(tmp_path):
    with pytest.raises(StorageError, match=r"missing/a\.json cannot be written \(No such file"):
        storage.write_json(epath.Path(tmp_path / "missing" / "a.json"), 1)


@pytest.mark.parametrize("content", [b"", b'{"a', b"\xff\xfe", b"null", b"[" * 10**5])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path, content):
    file = epath.Path(tmp_path / "a.json")
    file.write_bytes(content)
    with pytest.raises(StorageError, match=r"a\.json is damaged \(.*\): put back a copy"):
        storage.read_stored_json(file, dict[str, int], mend="put back a copy")


def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(StorageError, match=r"a\.json cannot be read \(it is a named pipe"):
        storage.read_stored_json(epath.Path(tmp_path / "a.json"), dict, mend="remove it")


def test_what_is_in_a_bucket():
    assert storage.in_bucket("gs://bucket/run") and not storage.in_bucket("runs/a:b")


def test_writing_waits_for_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    storage.write_json(epath.Path(tmp_path / "a.json"), [1])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "[\n 1\n]\n"


def test_a_link_in_place_of_the_file_is_replaced(tmp_path):
    (tmp_path / "other").write_text("of somebody else")
    (tmp_path / "a.json").symlink_to(tmp_path / "other")
    storage.write_json(epath.Path(tmp_path / "a.json"), [1])
    assert (tmp_path / "other").read_text() == "of somebody else"
    assert not (tmp_path / "a.json").is_symlink()


def test_a_folder_is_made_where_something_else_is_and_what_that_is_stays(tmp_path, caplog):
    path = epath.Path(tmp_path / "a")
    (tmp_path / "outside").mkdir()
    for make in (
        lambda: path.write_text(""),
        lambda: os.mkfifo(path),
        lambda: os.symlink("outside", path),
        lambda: os.symlink("missing", path),
    ):
        make()
        storage.make_own_folder(path)
        assert storage.is_own_folder(path)
        (path / "file").write_text("")
        storage.make_own_folder(path)  # an existing folder is unchanged
        storage.delete(path)
        assert not os.path.lexists(path)
    assert len(caplog.messages) == 4 and "it is a link" in caplog.messages[-1]
    assert list((tmp_path / "outside").iterdir()) == []
    assert os.readlink(tmp_path / "a.odd-3") == "outside"


def test_of_what_is_no_folder_only_the_name_is_deleted(tmp_path):
    path = epath.Path(tmp_path / "a")
    (tmp_path / "outside").mkdir()
    for make in (os.mkfifo, lambda p: os.symlink("outside", p), lambda p: os.symlink("no", p)):
        make(path)
        storage.delete(path)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]


def test_what_is_set_aside_keeps_its_content_and_is_reported(tmp_path, caplog):
    for count in (1, 2):
        (tmp_path / "a.jsonl").write_text(str(count))
        storage.set_aside(epath.Path(tmp_path / "a.jsonl"), "it is odd")
        assert (tmp_path / f"a.jsonl.odd-{count}").read_text() == str(count)
        assert caplog.messages[-1].endswith(f"is set aside as a.jsonl.odd-{count}: it is odd")
    assert not (tmp_path / "a.jsonl").exists()
