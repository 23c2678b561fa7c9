"""Tests that every scored file gets a picture, under a name that no input can choose."""

import os

import numpy as np
import pytest
from PIL import Image

from fsvfm_jax.errors import StorageError
from fsvfm_jax.predict.plots import MIN_CAPTIONED, make_folder, with_boxes, write_plot
from fsvfm_jax.predict.shown import Shown


def record(path: str, *, frames: list[int | None], times: list[float | None]) -> dict:
    faces = [
        {
            "box": [10, 20, 110, 120],
            "frame": frame,
            "time": time,
            "track": number % 2,
            "p_fake": 0.1 * number,
        }
        for number, (frame, time) in enumerate(zip(frames, times, strict=True))
    ]
    people = [{"track": track, "p_fake": 0.2, "frames": 2} for track in (0, 1)]
    return {
        "path": path,
        "p_fake": 0.2,
        "decision": "real",
        "threshold": {"value": 0.5, "name": "given"},
        "faces": faces,
        "people": people if faces else [],
        "note": None,
    }


def shown(frame: int | None, *, height: int = 300, width: int = 500, scale: float = 0.5) -> Shown:
    return Shown(frame, scale, np.full((height, width, 3), 200, np.uint8))


@pytest.mark.parametrize("times", [[0.0, 0.1, 0.5, 0.6], [0.0, None, 0.5, 0.6]])
def test_a_video_has_a_picture_by_its_place_and_name(tmp_path, times):
    video = record("clips/a b.mp4", frames=[0, 1, 5, 6], times=times)
    write_plot(tmp_path, 7, video, shown=shown(0), score_name="p_fake")
    with Image.open(tmp_path / "0007-a_b.mp4.png") as picture:
        assert picture.width > picture.height > 200


def test_a_photograph_has_a_picture_with_its_boxes(tmp_path):
    photo = record("a.jpg", frames=[None], times=[None])
    write_plot(tmp_path, 0, photo, shown=shown(None), score_name="p_fake")
    with Image.open(tmp_path / "0000-a.jpg.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[1] == 500 and 300 < pixels.shape[0] < 400
    top = pixels.shape[0] - 300  # of the photograph, below its captions
    # The box has half the size, since the picture has half the size of the photograph.
    assert pixels[top + 59, 30].tolist() == [255, 140, 0] and pixels[top + 100, 5, 0] == 200
    assert (pixels[top + 35, 30] == 200).all()


def test_a_small_photograph_gets_a_caption_that_can_be_read(tmp_path):
    tiny = shown(None, height=30, width=20)
    photo = record("a" * 300 + ".jpg", frames=[None], times=[None])
    write_plot(tmp_path, 0, photo, shown=tiny, score_name="p_fake")
    (file,) = tmp_path.iterdir()
    with Image.open(file) as picture:
        assert picture.width == MIN_CAPTIONED and picture.height < 200


def test_files_without_a_face_have_a_picture_and_unreadable_ones_have_none(tmp_path):
    nothing = {"p_fake": None, "decision": None, "note": "no face found"}
    for place, (frame, name) in enumerate(((None, "a.jpg"), (3, "a.mp4"))):
        without = record(name, frames=[], times=[]) | nothing
        write_plot(tmp_path, place, without, shown=shown(frame), score_name="p_fake")
    write_plot(tmp_path, 2, record("b.jpg", frames=[], times=[]), shown=None, score_name="p_fake")
    assert sorted(os.listdir(tmp_path)) == ["0000-a.jpg.png", "0001-a.mp4.png"]


def test_a_box_may_be_narrow_and_reach_the_edge():
    small = Shown(None, 0.01, np.zeros((8, 8, 3), np.uint8))
    drawn = with_boxes(small, [(0, 0, 10, 10), (790, 790, 800, 800)], ["0: 0.1", "1: 0.2"])
    assert drawn.shape == (8, 8, 3)


def test_no_name_leads_out_of_the_folder(tmp_path):
    folder = tmp_path / "plots"
    make_folder(folder)
    for place, path in enumerate(("../../x.mp4", "/etc/x.mp4", "a/..", "\x1b[2J\n.mp4", "x" * 999)):
        video = record(path, frames=[0], times=[0.0])
        write_plot(folder, place, video, shown=shown(0), score_name="p_fake")
    assert len(list(folder.iterdir())) == 5
    assert all(len(file.name) < 100 and file.name.isprintable() for file in folder.iterdir())
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_take_the_pictures_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.png").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for name, message in (
        ("file", "is a link or a file"),
        ("link", "is a link or a file"),
        ("full", "has files in it already"),
        ("file/below", "cannot be written"),
    ):
        with pytest.raises(StorageError, match=message):
            make_folder(tmp_path / name)
    make_folder(tmp_path / "empty")
    make_folder(tmp_path / "new" / "below")
    assert os.listdir(tmp_path / "new" / "below") == []
