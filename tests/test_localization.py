"""Tests the scores of maps on worked examples, and the whole chain with the smallest numbers."""

import argparse

import numpy as np
import pytest
from test_transfer import small  # noqa: F401

from fsvfm_jax.benchmark import localization, transfer
from fsvfm_jax.benchmark.__main__ import main

FORGED = np.array([[1, 1, 0, 0], [0, 0, 0, 1]], bool)


@pytest.mark.parametrize(
    ("values", "ious", "hits"),
    [
        ([[4, 3, 2, 1], [0, 0, 0, 1]], [1, 1], [True, True]),
        ([[4, 1, 2, 1], [1, 0, 0, -1]], [1 / 3, 0], [True, False]),
        ([[0, 0, 5, 5], [0, 0, 0, 1]], [0, 1], [False, True]),
    ],
)
def test_scores_of_worked_examples(values, ious, hits):
    iou, hit = localization.scores(np.array(values, float), FORGED)
    np.testing.assert_allclose(iou, ious)
    np.testing.assert_array_equal(hit, hits)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_constant_map_is_chance(value):
    iou, hits = localization.scores(np.full(FORGED.shape, value), FORGED, seed=1)
    # Two of four patches: 1 common patch with probability 4 / 6, both with 1 / 6.
    np.testing.assert_allclose(iou, [4 / 6 / 3 + 1 / 6, 1 / 4], atol=0.1)
    np.testing.assert_allclose(hits, [1 / 2, 1 / 4], atol=0.1)


@pytest.mark.parametrize("flag", ["--faces=0", "--seeds=0", "--seeds=x"])
def test_numbers_below_one_are_refused(tmp_path, capsys, flag):
    with pytest.raises(SystemExit, match="78"):
        main(["localization", f"--output={tmp_path / 'x'}", flag])
    assert "is no number from 1 up" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_whole_chain_writes_table_and_pictures(tmp_path, capsys):
    args = argparse.Namespace(output=str(tmp_path), seeds=2, faces=6)
    localization.benchmark_localization(args)
    text = (tmp_path / "localization.md").read_text()
    assert text in capsys.readouterr().out
    for title in (localization.CHANCE, localization.AVERAGE, localization.GRADIENTS, "untrained"):
        assert title in text
    for name in ("best", "worst"):
        file = tmp_path / f"localization-{name}.png"
        assert file.read_bytes().startswith(b"\x89PNG")
    before = (tmp_path / "full-0" / "metrics.jsonl").read_bytes()
    runs = transfer.train_detectors(tmp_path, "full", seeds=2)
    assert [run.name for run in runs] == ["full-0", "full-1"]
    assert (tmp_path / "full-0" / "metrics.jsonl").read_bytes() == before
