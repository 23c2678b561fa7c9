"""Tests the ablation's rows, and its whole chain with the smallest numbers."""

import argparse
import json

import numpy as np
import pytest
from test_transfer import small  # noqa: F401

from configs import offline
from fsvfm_jax.benchmark import ablation
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.masking import STRATEGIES
from fsvfm_jax.report.resampling import Resampled


def test_every_variant_is_a_valid_pretraining_that_differs_in_its_own_field_alone():
    papers = resolve(offline.pretraining()).to_dict()
    assert {name for name in offline.VARIANTS if "," not in name} == set(STRATEGIES)
    for name, changes in offline.VARIANTS.items():
        config = resolve(offline.pretraining(name, seed=3))
        assert config.seed == 3
        config.seed = papers["seed"]
        changed = config.to_dict()
        for field, value in changes.items():
            section, key = field.split(".")
            assert changed[section].pop(key) == value
            changed[section][key] = papers[section][key]
        assert changed == papers


def test_a_row_has_each_measure_by_kind_and_by_set():
    names = (*offline.SEEN_FORGERIES, *offline.UNSEEN_FORGERIES)
    value = {name: 0.5 + 0.1 * n for n, name in enumerate(names)}
    measured = [
        {
            measure: {name: Resampled(value[name], np.full(1000, value[name])) for name in names}
            for measure in ablation.MEASURES
        }
    ]
    row = ablation._row(measured)
    assert row["full@seen"] == {"mean": pytest.approx(0.6), "sd": None, "n": 1}
    assert row["patches@unseen"]["mean"] == pytest.approx(0.85)
    assert row["linear_of_set@texture-d"]["mean"] == pytest.approx(0.8)
    assert row["knn_interval@seen"] == pytest.approx((0.6, 0.6))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_whole_chain_and_its_table(tmp_path, monkeypatch, capsys):
    variants = {"crfr_p": {}, "random": {"mask.strategy": "random"}}
    monkeypatch.setattr(offline, "VARIANTS", variants)
    monkeypatch.setattr(ablation, "KINDS", {"seen": ("swap-a",), "unseen": ("swap-b",)})
    monkeypatch.setattr(ablation, "PAIRS", {"train": 8, "test": 8})
    args = argparse.Namespace(output=str(tmp_path), seeds=2)
    ablation.benchmark_ablation(args)
    rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["crfr_p", "random weights", "random"]
    for row in rows:
        for measure in ablation.MEASURES:
            assert 0 <= row[f"{measure}@unseen"]["mean"] <= 1
    text = (tmp_path / "ablation.md").read_text()
    assert "full @unseen" in text and "(n=2)" in text
    reports = sorted(tmp_path.rglob("report/table.json"))
    assert len(reports) == 6
    before = {path: path.stat().st_mtime_ns for path in reports}
    ablation.benchmark_ablation(args)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "ablation.md").read_text() == text
