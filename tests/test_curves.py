"""Tests that every scored video gets a picture, under a name that no input can choose."""

import pytest
from PIL import Image

from fsvfm_jax.errors import StorageError
from fsvfm_jax.predict.curves import write_curve


def record(path: str, *, frames: list[int | None], times: list[float | None]) -> dict:
    faces = [
        {"frame": frame, "time": time, "track": number % 2, "p_fake": 0.1 * number}
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
    }


@pytest.mark.parametrize("times", [[0.0, 0.1, 0.5, 0.6], [0.0, None, 0.5, 0.6]])
def test_a_video_has_a_picture_by_its_place_and_name(tmp_path, times):
    video = record("clips/a b.mp4", frames=[0, 1, 5, 6], times=times)
    write_curve(tmp_path / "plots", 7, video, score_name="p_fake")
    with Image.open(tmp_path / "plots" / "0007-a_b.mp4.png") as picture:
        assert picture.width > picture.height > 200


def test_a_photograph_and_a_video_without_a_face_have_none(tmp_path):
    for one in (
        record("a.jpg", frames=[None], times=[None]),
        record("a.mp4", frames=[], times=[]),
    ):
        write_curve(tmp_path / "plots", 0, one, score_name="p_fake")
    assert not (tmp_path / "plots").exists()


def test_no_name_leads_out_of_the_folder(tmp_path):
    folder = tmp_path / "plots"
    for place, path in enumerate(("../../x.mp4", "/etc/x.mp4", "a/..", "\x1b[2J\n.mp4", "x" * 999)):
        write_curve(folder, place, record(path, frames=[0], times=[0.0]), score_name="p_fake")
    assert len(list(folder.iterdir())) == 5
    assert all(len(file.name) < 100 and file.name.isprintable() for file in folder.iterdir())
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "plots").write_text("")
    video = record("a.mp4", frames=[0], times=[0.0])
    with pytest.raises(StorageError, match=r"plots/0000-a\.mp4\.png cannot be written"):
        write_curve(tmp_path / "plots", 0, video, score_name="p_fake")
