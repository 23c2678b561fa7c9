"""Tests that an uploaded file has the faces of `score`, and a picture to show."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ROOT
from golden_files import need
from PIL import Image
from video_files import write_video

from fsvfm_jax.predict import upload
from fsvfm_jax.predict.faces import (
    FaceOptions,
    FileFaces,
    detector_of,
    faces_of_file,
)
from fsvfm_jax.predict.shown import MAX_SHOWN_SIDE
from fsvfm_jax.predict.upload import UploadOptions, make_worker
from fsvfm_jax.prepare import video
from fsvfm_jax.prepare.crops import Box, Found
from fsvfm_jax.prepare.files import MediaFile

need("av", "prepare")
FACES = FaceOptions("none", 0.0, "all", 4, 64, "resize")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], FileFaces]:
    """Returns the function of a worker, without limits of this process."""
    monkeypatch.setattr(upload, "start_limits", lambda: None)
    do = make_worker(UploadOptions(FACES, max_length=60))
    return lambda file: do(MediaFile("name", str(file))._replace(name=file.name))


def test_faces_are_those_of_score_and_a_large_picture_is_shown_smaller(
    tmp_path: Path, work: Callable[[Path], FileFaces]
) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(300, 2000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = work(tmp_path / "x.png")
    media = MediaFile("x.png", str(tmp_path / "x.png"))
    expected = faces_of_file(media, detector=detector_of(FACES), options=FACES)
    (face,), (same,) = found.faces, expected.faces
    assert np.array_equal(face.pixels, same.pixels) and face.box == Box(850, 0, 1150, 300)
    assert found.shown.frame is None and found.shown.scale == 0.4
    assert found.shown.pixels.shape == (120, MAX_SHOWN_SIDE, 3)


def test_of_a_video_the_frame_with_the_most_faces_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Detector:
        """Finds two faces in pictures that are not dark."""

        box_scale = 1.0

        def __call__(self, image: Any) -> list[Found]:
            return [Found(Box(0, 0, 9, 9), 1.0)] * (1 if image[40, 40, 0] < 12 else 2)

    monkeypatch.setattr(upload, "start_limits", lambda: None)
    monkeypatch.setattr(upload, "detector_of", lambda options: Detector())
    write_video(tmp_path / "x.mp4", 31)
    do = make_worker(UploadOptions(FACES, max_length=60))
    found = do(MediaFile("x.mp4", str(tmp_path / "x.mp4")))
    assert [face.frame for face in found.faces] == [0, 10, 10, 20, 20, 30, 30]
    assert found.shown.frame == 10 and found.shown.scale == 1


def test_what_cannot_be_read_has_an_error_and_no_picture(
    tmp_path: Path, work: Callable[[Path], FileFaces], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    found = work(tmp_path / "empty.jpg")
    assert "cannot identify it" in found.error and found.shown is None
    write_video(tmp_path / "long.mp4", 2, times=(0, 36_000_000))
    monkeypatch.setattr(video, "map_spaced_frames", None)  # It is refused before it is decoded.
    found = work(tmp_path / "long.mp4")
    assert found.error == "it is longer than 60 s" and found.shown is None


def test_worker_processes_import_no_jax() -> None:
    program = "import sys, fsvfm_jax.predict.upload; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
