"""Tests that rendered sets are written once, whole, and read back."""

import pytest

from configs import offline
from fsvfm_jax.benchmark import rendered_folders
from fsvfm_jax.data.labelled.faces import overlap
from fsvfm_jax.data.rendered.rendered_sets import VERSION
from fsvfm_jax.errors import ConfigError


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setitem(offline.RENDERED, ("swap-a", "val"), (4, 2))
    monkeypatch.setattr(rendered_folders, "SIZE", 16)


def test_a_set_is_written_once_and_read_back(tmp_path):
    rendered_folders.render_sets(tmp_path, [("swap-a", "val")])
    files = sorted((tmp_path / f"faces-{VERSION}").rglob("*.png"))
    assert len(files) == 8
    before = [file.stat().st_mtime_ns for file in files]
    rendered_folders.render_sets(tmp_path, [("swap-a", "val")])
    assert [file.stat().st_mtime_ns for file in files] == before
    (faces,) = rendered_folders.open_split(tmp_path, ["swap-a"], "val").values()
    assert len(faces) == 8 and len({faces.video(index) for index in range(8)}) == 4


def test_a_set_that_was_not_completed_is_written_again(tmp_path):
    partly = rendered_folders.faces_folder(tmp_path) / "swap-a" / "val.part" / "real"
    partly.mkdir(parents=True)
    rendered_folders.render_sets(tmp_path, [("swap-a", "val")])
    (faces,) = rendered_folders.open_split(tmp_path, ["swap-a"], "val").values()
    assert len(faces) == 8


def test_a_set_with_another_number_of_faces_is_refused(tmp_path, monkeypatch):
    rendered_folders.render_sets(tmp_path, [("swap-a", "val")])
    monkeypatch.setitem(offline.RENDERED, ("swap-a", "val"), (6, 2))
    with pytest.raises(ConfigError, match=r"has 8 faces, .* says 12: give another --output"):
        rendered_folders.render_sets(tmp_path, [("swap-a", "val")])


def test_no_video_of_a_split_is_taken_for_one_of_another_split(tmp_path, monkeypatch):
    monkeypatch.setitem(offline.RENDERED, ("swap-a", "train"), (4, 2))
    rendered_folders.render_sets(tmp_path, [("swap-a", "val"), ("swap-a", "train")])
    lists = [
        rendered_folders.open_split(tmp_path, ["swap-a"], split)["swap-a"].faces
        for split in ("train", "val")
    ]
    assert overlap(*lists) == [] and len(overlap(lists[0], lists[0])) == 4
