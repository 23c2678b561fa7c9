"""Tests the figures of `--timings`."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from fsvfm_jax.predict.faces import FileFaces
from fsvfm_jax.predict.networks import Detector
from fsvfm_jax.predict.timings import Timings


@pytest.fixture
def network(monkeypatch):
    """Returns a network that takes no time."""
    made = object.__new__(Detector)
    monkeypatch.setattr(
        Detector, "margin_batches_of_views", lambda self, views: [np.zeros(len(views))]
    )
    monkeypatch.setattr(Detector, "image_size", 16)
    made.batch_size = 4
    return made


def test_files_frames_and_faces_are_counted(network, capsys):
    timings = Timings()
    one = SimpleNamespace(frame=0)
    timings.add(FileFaces([one, one], 3, 2, 0, None, 0.5))
    timings.add(FileFaces([], 1, 0, 0, "it cannot be read", 0.5))
    timings.first_score()
    timings.tell(network, processes=2)
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.partition(":")[0] for line in said.err.splitlines()] == [
        "first score",
        "decode and detect",
        "network alone",
        "together",
    ]
    assert "2 files, 4 frames, 2 faces; 4.0 frames/s in each of 2 processes" in said.err
    assert 0 <= int(re.search(r"would need (\d+)%", said.err)[1]) <= 100


def test_a_run_without_a_score_has_figures_too(network, capsys):
    Timings().tell(network, processes=1)
    assert "0 files, 0 frames, 0 faces" in capsys.readouterr().err
