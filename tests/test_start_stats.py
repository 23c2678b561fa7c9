"""Tests where the mean and deviation of a run are looked for, and that they are stored."""

import json

import pytest
from etils import epath
from ml_collections import ConfigDict

from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.run import start_stats
from fsvfm_jax.run.start_stats import find_stats

FOUND = Stats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
UNKNOWN = Stats((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def source() -> SyntheticFaces:
    return SyntheticFaces(3, image_size=16, seed=0)


def data(**values) -> ConfigDict:
    return ConfigDict({"mean": None, "std": None, "stats_file": None, "skip_corrupt": 0} | values)


def find(fields, source, workdir, *, starting=None, compute=True) -> Stats:
    return find_stats(
        fields, source, epath.Path(workdir), starting=lambda: starting, compute=compute
    )


def stored(workdir) -> list[float]:
    content = json.loads((workdir / "data_stats.json").read_text())
    return [*content["mean"], *content["std"]]


def test_the_config_comes_before_the_starting_weights(source, tmp_path, monkeypatch):
    monkeypatch.setattr(start_stats, "compute_stats", None)
    given = data(mean=FOUND.mean, std=FOUND.std)
    assert find(given, source, tmp_path, starting=UNKNOWN) == FOUND


def test_the_starting_weights_come_before_the_set_and_are_stored(source, tmp_path, monkeypatch):
    monkeypatch.setattr(start_stats, "compute_stats", None)
    assert find(data(), source, tmp_path, starting=FOUND) == FOUND
    assert stored(tmp_path) == [*FOUND.mean, *FOUND.std]
    # A later start finds the statistics in the file.
    assert find(data(), source, tmp_path) == FOUND


def test_otherwise_they_are_computed_once(source, tmp_path, monkeypatch):
    found = find(data(), source, tmp_path)
    assert all(0 < value < 1 for value in (*found.mean, *found.std))
    monkeypatch.setattr(start_stats, "compute_stats", None)
    assert find(data(), source, tmp_path) == found


def test_a_check_computes_and_writes_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(start_stats, "compute_stats", None)
    assert find(data(), source, tmp_path, compute=False) == UNKNOWN
    assert not list(tmp_path.iterdir())
