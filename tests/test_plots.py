"""Tests that every scored file gets a picture, under a name that no input can choose."""

import os

import numpy as np
import pytest
from PIL import Image

from fsvfm_jax.errors import StorageError
from fsvfm_jax.predict.faces import Face, FileFaces
from fsvfm_jax.predict.plots import MIN_CAPTIONED, Plots, make_folder, with_boxes, write_plot
from fsvfm_jax.predict.shown import Shown
from fsvfm_jax.prepare.crops import Box


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


def found(picture: Shown | None, *, colours: tuple[int, ...] = (0,)) -> FileFaces:
    """Returns faces of one colour each, of two people in turn."""
    faces = [
        Face(np.full((16, 16, 3), colour, np.uint8), Box(0, 0, 9, 9), None, 0, None, number % 2)
        for number, colour in enumerate(colours)
    ]
    return FileFaces(faces, 1, 1, 0, None, 0.0, shown=picture)


@pytest.mark.parametrize("times", [[0.0, 0.1, 0.5, 0.6], [0.0, None, 0.5, 0.6]])
def test_a_video_has_a_picture_by_its_place_and_name(tmp_path, times):
    video = record("clips/a b.mp4", frames=[0, 1, 5, 6], times=times)
    faces = found(None, colours=(10, 20, 30, 40))
    write_plot(tmp_path, video, place=7, found=faces, score_name="p_fake")
    with Image.open(tmp_path / "0007-a_b.mp4.png") as picture:
        assert picture.width > picture.height > 200
        row = np.asarray(picture)[-1, :, 0]
    # The first face of each person is below the curves.
    assert (row[:96] == 10).all() and (row[98:194] == 20).all() and (row[194:] == 255).all()


def test_a_photograph_has_a_picture_with_its_boxes(tmp_path):
    photo = record("a.jpg", frames=[None], times=[None])
    write_plot(tmp_path, photo, place=0, found=found(shown(None)), score_name="p_fake")
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
    write_plot(tmp_path, photo, place=0, found=found(tiny), score_name="p_fake")
    (file,) = tmp_path.iterdir()
    with Image.open(file) as picture:
        assert picture.width == MIN_CAPTIONED and picture.height < 200


def test_files_without_a_face_have_a_picture_and_unreadable_ones_have_none(tmp_path):
    nothing = {"p_fake": None, "decision": None, "note": "no face found"}
    for place, (frame, name) in enumerate(((None, "a.jpg"), (3, "a.mp4"))):
        without = record(name, frames=[], times=[]) | nothing
        write_plot(tmp_path, without, place=place, found=found(shown(frame)), score_name="p_fake")
    write_plot(
        tmp_path,
        record("b.jpg", frames=[], times=[]),
        place=2,
        found=found(None),
        score_name="p_fake",
    )
    assert sorted(os.listdir(tmp_path)) == ["0000-a.jpg.png", "0001-a.mp4.png"]


def test_a_picture_that_cannot_be_written_does_not_end_the_scoring(tmp_path, caplog):
    plots = Plots(tmp_path / "plots", score_name="p_fake")
    photo = record("a.jpg", frames=[None], times=[None])
    for place in range(3):
        plots.add(place, photo, found(shown(None)))  # The folder is gone.
    make_folder(tmp_path / "plots")
    plots.add(3, photo, found(shown(None)))
    plots.add(3, photo, found(shown(None)))  # It is there already, and is not replaced.
    plots.add(4, record("b.jpg", frames=[], times=[]), found(None))
    with pytest.raises(StorageError, match="4 pictures could not be written into"):
        plots.check()
    assert [x.levelname for x in caplog.records].count("WARNING") == 1
    assert os.listdir(tmp_path / "plots") == ["0003-a.jpg.png"]
    plots = Plots(tmp_path / "plots", score_name="p_fake")
    with caplog.at_level("INFO", "fsvfm_jax"):
        plots.add(5, photo, found(shown(None)))
        plots.check()
    assert f"written: {tmp_path}/plots (1 pictures)" in caplog.text


def face(*box: int, track: int = 0) -> dict:
    return {"box": list(box), "track": track, "p_fake": 0.25}


def test_a_box_may_be_narrow_and_reach_the_edge():
    small = Shown(None, 0.01, np.zeros((8, 8, 3), np.uint8))
    faces = [face(0, 0, 10, 10), face(790, 790, 800, 800, track=1)]
    assert with_boxes(small, faces, score_name="p_fake").shape == (8, 8, 3)


def test_the_text_of_a_box_at_the_right_edge_is_not_cut_off():
    def text(left: int) -> np.ndarray:
        plain = Shown(None, 1.0, np.full((100, 300, 3), 200, np.uint8))
        drawn = with_boxes(plain, [face(left, 50, left + 20, 70, track=3)], score_name="p_fake")
        rows = drawn[:48]  # above the box
        columns = np.flatnonzero((rows != 200).any(axis=(0, 2)))
        return rows[:, columns[0] : columns[-1] + 1]

    assert np.array_equal(text(100), text(280)) and text(280).shape[1] > 40


def test_no_name_leads_out_of_the_folder(tmp_path):
    folder = tmp_path / "plots"
    make_folder(folder)
    for place, path in enumerate(("../../x.mp4", "/etc/x.mp4", "a/..", "\x1b[2J\n.mp4", "x" * 999)):
        video = record(path, frames=[0], times=[0.0])
        write_plot(folder, video, place=place, found=found(shown(0)), score_name="p_fake")
    assert len(list(folder.iterdir())) == 5
    assert all(len(file.name) < 100 and file.name.isprintable() for file in folder.iterdir())
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_take_the_pictures_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.png").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("full")
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "linked").symlink_to("empty")
    for name, message in (
        ("file", "it is no folder"),
        ("nowhere", "it is a link to nothing"),
        ("full", "has files in it already"),
        ("link", "has files in it already"),
        ("file/below", "file is no folder"),
    ):
        with pytest.raises(StorageError, match=message):
            make_folder(tmp_path / name)
    make_folder(tmp_path / "empty")
    make_folder(tmp_path / "linked")
    make_folder(tmp_path / "new" / "below")
    assert os.listdir(tmp_path / "new" / "below") == []
