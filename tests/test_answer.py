"""Tests the answers of the page: the record of `score`, a picture with boxes, and masks."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scenes import TWO_FACES

from fsvfm_jax.predict import answer, networks
from fsvfm_jax.predict.answer import AVERAGE_REGIONS, OTHER_CROPS, Answerer
from fsvfm_jax.predict.decision import Decision
from fsvfm_jax.predict.faces import Face, FaceOptions, FileFaces
from fsvfm_jax.predict.shown import Shown
from fsvfm_jax.predict.upload import UploadOptions
from fsvfm_jax.prepare.crops import Box
from fsvfm_jax.prepare.files import MediaFile
from fsvfm_jax.prepare.workers import DIED
from fsvfm_jax.report.metrics import probability

DECISION = Decision("p_fake", 0.5, "given", 2.0)
BOX = Box(40, 36, 168, 164)
MEDIA = MediaFile("<b>.png", "/nowhere")


@pytest.fixture(scope="module")
def network(detector_folder: Path) -> networks.Detector:
    return networks.load(detector_folder, batch_size=2)


class Worker:
    """Returns, or raises, the result of the test in place of a process."""

    result: Any = None

    def __init__(self, make: Any, options: UploadOptions):
        pass

    def do(self, media: MediaFile, *, seconds: float | int) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def close(self) -> None:
        pass


@pytest.fixture
def answerer(network: networks.Detector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answerer]:
    monkeypatch.setattr(answer, "Worker", Worker)
    options = UploadOptions(FaceOptions("dlib", 0.15, "all", 4, 64, "resize"), 60)
    yield Answerer(network, options, DECISION, processes=1, max_seconds=9)
    Worker.result = None


def faces_of(tracks: list[int], *, frame: int | None = None) -> list[Face]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(len(tracks), 64, 64, 3), dtype=np.uint8)
    return [
        Face(view, BOX, 1.5, frame, None, track) for view, track in zip(pixels, tracks, strict=True)
    ]


def picture_of(url: str) -> np.ndarray:
    start = "data:image/png;base64,"
    assert url.startswith(start)
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix(start)))) as picture:
        return np.array(picture)


@pytest.mark.e2e
def test_the_answer_to_a_picture(answerer: Answerer, network: networks.Detector) -> None:
    faces = faces_of([0, 1, 2])
    Worker.result = FileFaces(faces, 1, 3, 0, None, 0.0, shown=Shown(None, 0.5, TWO_FACES))
    found = json.loads(json.dumps(answerer.answer(MEDIA), allow_nan=False))
    margins = network.margins(np.stack([face.pixels for face in faces]))
    record = found["record"]
    assert record["path"] == "<b>.png" and record["temperature"] == 2
    scores = [face["p_fake"] for face in record["faces"]]
    assert scores == pytest.approx(probability(margins / 2).tolist(), abs=1e-6)
    assert found["score_name"] == "p_fake" and found["shown_frame"] is None
    picture = picture_of(found["picture"])
    assert picture.shape == TWO_FACES.shape
    orange = (picture == (255, 140, 0)).all(axis=2)
    # The picture has half the size of the photograph.
    # The text covers a part of the right edge.
    assert orange[18:82, 20].all() and orange[50:82, 83].all() and not orange[:, 84:].any()
    assert picture_of(found["masks"]).shape[1] >= 3 * 192
    assert found["masks_note"] == AVERAGE_REGIONS


def test_only_boxes_of_the_shown_frame_are_drawn(answerer: Answerer) -> None:
    faces = faces_of([0], frame=7)
    for frame, drawn in ((7, True), (0, False)):
        shown = Shown(frame, 1.0, TWO_FACES)
        Worker.result = FileFaces(faces, 4, 1, 0, None, 0.0, shown=shown)
        found = answerer.answer(MEDIA)
        assert np.array_equal(picture_of(found["picture"]), TWO_FACES) != drawn
        assert found["shown_frame"] == frame


def test_masks_are_drawn_for_different_people(answerer: Answerer) -> None:
    rows = []
    for tracks in ([0], [0, 0, 0], [0, 1], [0, 1, 2, 3, 4, 5]):
        shown = Shown(None, 1.0, TWO_FACES)
        Worker.result = FileFaces(faces_of(tracks), 1, 1, 0, None, 0.0, shown=shown)
        rows.append(picture_of(answerer.answer(MEDIA)["masks"]).shape[0])
    assert rows[0] == rows[1] < rows[2] < rows[3]
    assert round((rows[3] - rows[0]) / (rows[2] - rows[0])) == 3


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (None, DIED),
        (TimeoutError(), "it took over 9 s"),
        (FileFaces([], 0, 0, 0, "it is odd", 0.0), "it is odd"),
    ],
)
def test_an_answer_without_faces(answerer: Answerer, result: Any, error: str) -> None:
    Worker.result = result
    found = answerer.answer(MEDIA)
    assert found["record"]["error"] == error and found["record"]["p_fake"] is None
    assert found["picture"] is None and found["masks"] is None


def test_other_crops_have_a_note(
    network: networks.Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "Worker", Worker)
    options = UploadOptions(FaceOptions("dlib", 0.5, "all", 4, 64, "resize"), 60)
    answerer = Answerer(network, options, DECISION, processes=1, max_seconds=9)
    assert answerer.answer(MEDIA)["masks_note"] == OTHER_CROPS
