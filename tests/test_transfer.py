"""Tests that the offline benchmark makes its table, and continues after an interruption."""

import argparse
import json
import re

import jax
import pytest

from configs import offline
from fsvfm_jax.benchmark import rendered_folders, transfer
from fsvfm_jax.data.rendered.rendered_sets import RENDERED_SETS

SMALL = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 1, "num_heads": 2}


@pytest.fixture
def small(monkeypatch):
    """Returns the same chain with the smallest numbers."""

    def shrunk(make):
        def get(*args, **options):
            c = make(*args, **options)
            c.update_from_flattened_dict(
                {f"model.{name}": x for name, x in SMALL.items()}
                | {"epochs": 1, "optimizer.warmup_epochs": 0, "tracking.log_every": 9}
            )
            return c

        return get

    def pretraining(*args, **options):
        c = shrunk(original)(*args, **options)
        c.model.update(decoder_width=16, decoder_depth=1)
        c.model.update(projection_dim=8, projection_hidden=16)
        c.data.num_samples = 32
        return c

    original = offline.pretraining
    monkeypatch.setattr(offline, "pretraining", pretraining)
    monkeypatch.setattr(offline, "finetuning", shrunk(offline.finetuning))
    monkeypatch.setattr(offline, "spoofing", shrunk(offline.spoofing))
    monkeypatch.setattr(offline, "SPOOFS", offline.SPOOFS[:2])
    monkeypatch.setattr(offline, "TESTED", offline.TESTED[:2])
    names = ("swap-a", "swap-b", "cam-m", "cam-c")
    kept = {name: (8, 2) for name in offline.RENDERED if name[0] in names}
    kept[offline.TRAINED, "train"] = (32, 2)
    kept |= {(name, "train"): (24, 2) for name in offline.SPOOFS}
    monkeypatch.setattr(offline, "RENDERED", kept)
    monkeypatch.setattr(rendered_folders, "SIZE", 16)
    cache = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", cache)


@pytest.mark.slow
def test_the_whole_chain_and_its_table(small, tmp_path, capsys):
    args = argparse.Namespace(output=str(tmp_path), seeds=2, tune=False)
    transfer.benchmark_transfer(args)
    text = (tmp_path / "table.md").read_text()
    assert "proves nothing about real deepfakes" in text
    for words in ("statistics", "random frozen", "scratch", "linear", "adapter", "full", "(n=2)"):
        assert words in text
    for way in ("validation", "last", "test-oracle"):
        assert f"| {way}" in text
    assert "The papers report" in text
    assert re.search(
        r"HTER is \d+\.\d\d, .* for 'validation' \([+-].*\) and .* for 'last' \(", text
    )
    rows = {row["method"]: row for row in json.loads((tmp_path / "table.json").read_text())}
    assert set(rows) == {"statistics", *offline.METHODS}
    faces = rendered_folders.faces_folder(tmp_path) / "swap-a" / "train"
    assert len(list(faces.rglob("real/*.png"))) == len(list(faces.rglob("fake/*.png"))) == 32
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/report/table.json")}
    assert len(before) == 12
    transfer.benchmark_transfer(args)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "table.md").read_text() == text


def test_the_unseen_forgeries_are_not_trained_on():
    forgeries = {
        name: {forgery for forgery, _ in RENDERED_SETS[name].forgeries} for name in offline.TESTED
    }
    trained = forgeries.pop(offline.TRAINED)
    unseen = tuple(name for name, of_set in forgeries.items() if trained.isdisjoint(of_set))
    assert unseen == offline.UNSEEN_FORGERIES


def test_the_learning_rates_are_the_ones_that_were_to_choose_from():
    assert set(offline.LEARNING_RATES) == set(offline.METHODS)
    assert set(offline.LEARNING_RATES.values()) <= {*offline.RATES, *offline.RATES_BEYOND}
