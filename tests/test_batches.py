"""Tests that files are scored as soon as they can be, in batches that may mix files."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from fsvfm_jax.predict import batches
from fsvfm_jax.predict.decision import Decision
from fsvfm_jax.predict.faces import Face, FaceOptions, FileFaces, unreadable
from fsvfm_jax.predict.inputs import Input
from fsvfm_jax.predict.networks import Detector
from fsvfm_jax.predict.timings import Timings
from fsvfm_jax.prepare.crops import Box
from fsvfm_jax.prepare.files import MediaFile
from fsvfm_jax.report.metrics import probability

OPTIONS = FaceOptions("none", 0.0, "all", 4, 8, "resize")
DECISION = Decision("p_fake", 0.5, "given", None)
BATCH = 4


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Detector:
    """Returns a network whose margin of a face is its first pixel, and which notes its batches."""

    def margins(self: Detector, views: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        views = iter(views)
        while rows := list(itertools.islice(views, BATCH)):
            self.sizes.append(len(rows))
            yield np.array([float(row[0, 0, 0]) for row in rows])

    monkeypatch.setattr(Detector, "margin_batches_of_views", margins)
    made = object.__new__(Detector)
    made.sizes = []
    return made


def file_of(*pixels: int) -> FileFaces:
    faces = [
        Face(np.full((8, 8, 3), value, np.uint8), Box(0, 0, 8, 8), None, None, None, track)
        for track, value in enumerate(pixels)
    ]
    return FileFaces(faces, 1, len(faces), 0, None, 0.0)


def score(
    stream: Iterable[tuple[int, FileFaces] | None],
    network: Detector,
    monkeypatch: pytest.MonkeyPatch,
    *,
    inputs: int = 9,
) -> list[tuple[int, list[float]]]:
    """Returns place and scores of the files in the order in which they are finished."""
    done: list[tuple[int, list[float]]] = []

    def find_faces(inputs: Iterable[Input], options: FaceOptions, **others: Any) -> Iterator:
        list(inputs)
        for one in stream:
            done.append((-1 if one is None else -2, []))
            yield one

    def finish(place: int, record: Any, shown: None) -> None:
        assert record["path"] == f"{place}.png"
        done.append((place, [face["p_fake"] for face in record["faces"]]))

    monkeypatch.setattr(batches, "find_faces", find_faces)
    batches.score_inputs(
        (Input(f"{place}.png", MediaFile("a.png", "a.png"), None) for place in range(inputs)),
        finish,
        network=network,
        options=OPTIONS,
        decision=DECISION,
        processes=1,
        timings=Timings(),
    )
    return done


def finished(done: list[tuple[int, list[float]]]) -> list[tuple[int, list[float]]]:
    return [one for one in done if one[0] >= 0]


def test_batches_mix_files(network: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = [(2, file_of(1, 2, 3)), (0, file_of(4, 5, 6)), (1, file_of(7))]
    done = score(stream, network, monkeypatch, inputs=3)
    expected = {2: [1, 2, 3], 0: [4, 5, 6], 1: [7]}
    assert network.sizes == [4, 3]
    for place, scores in finished(done):
        assert scores == probability(np.array(expected[place], np.float64)).tolist()
    assert [place for place, _ in finished(done)] == [2, 0, 1]


def test_a_file_without_a_face_does_not_wait_for_a_batch(
    network: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = [(0, file_of(1)), (1, file_of()), (2, unreadable("it is damaged")), (3, file_of(2))]
    places = [place for place, _ in score(stream, network, monkeypatch, inputs=4)]
    assert places == [-2, -2, 1, -2, 2, -2, 0, 3]


def test_a_slow_file_makes_no_other_one_wait(
    network: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = [None, (0, file_of(1)), None, None, (1, file_of(2)), (2, file_of(3))]
    places = [place for place, _ in score(stream, network, monkeypatch, inputs=3)]
    assert places == [-1, -2, -1, 0, -1, -2, -2, 1, 2]
    assert network.sizes == [1, 2]


def test_nothing_to_score(network: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    assert score([], network, monkeypatch, inputs=0) == []
    assert score([(0, file_of())], network, monkeypatch, inputs=1)[-1] == (0, [])
