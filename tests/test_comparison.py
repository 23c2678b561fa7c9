"""Tests the table of a comparison, and its whole chain with the smallest numbers."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from configs import evaluation, sets
from configs.compare import dfd
from fsvfm_jax.benchmark import comparison
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.errors import ConfigError, NotFiniteError, OutOfMemory, StepTooLarge
from fsvfm_jax.report import published
from fsvfm_jax.report.metrics import VideoScores
from fsvfm_jax.report.write import write_table
from fsvfm_jax.run.origin import save_origin

ROOT = Path(__file__).parent.parent


def test_a_comparison_is_no_run():
    with pytest.raises(ConfigError, match=r"python -m fsvfm_jax\.benchmark compare"):
        resolve(dfd.get_config("b"))


def test_the_caption_says_what_was_done():
    c = ConfigDict({"seeds": (0, 1), "tuning_seed": 9, "modes": ("full",)})
    c.rates = ConfigDict({"full": (1e-3, 1e-2)})
    at_edge = comparison.rate_search.Search({1e-3: 0.1, 1e-2: 0.2})
    inside = comparison.rate_search.Search({1e-3: 0.3, 1e-2: 0.2, 1e-1: 0.4})
    text = comparison._caption(c, {"a-full": at_edge, "b-full": inside}, ["clip"], has_papers=True)
    assert "2 seeds" in text and "interval over seeds and videos" in text
    assert "the smallest or the largest for a-full.\n" in text and "with seed\n9 (rates.md)" in text
    assert "Not compared, since no weights are given: clip." in text
    c.seeds, c.rates.full = (0,), (1e-3,)
    assert 'in "paper" contains' in text
    text = comparison._caption(c, {}, [], has_papers=False)
    assert '"paper"' not in text
    assert "1 seed.\n" in text and "interval over videos in brackets" in text
    assert "rates.md" not in text and "edge" not in text and "Not compared" not in text


def test_the_papers_results_stand_below_the_row_that_they_belong_to(tmp_path):
    encoders = dfd.get_config("l").encoders
    assert encoders.fsvfm.published.adapter == "FS-Adapter ViT-L"
    assert not encoders.clip.published.full
    assert dfd.get_config("b").encoders.fsfm.published.full == "FSFM ViT-B"
    sets = published.AVERAGED["DfD average"]
    auc = {"mean": 0.5, "sd": None, "n": 1}
    groups = {f"video_auc@{x}": auc for x in (*sorted(sets), comparison.MEAN)}
    intervals = {f"video_auc_interval@{x}": (0.4, 0.6) for x in sets}
    rows = [
        {"encoder": name, "mode": mode, **groups, **intervals}
        for name, mode in [("fsvfm", "full"), ("fsvfm", "lora"), ("clip", "full")]
    ]
    rows.append({"encoder": "fsvfm", "mode": "adapter", "note": "a run was not finite"})
    cells = [
        comparison.Cell(name, mode, ConfigDict(), encoders[name].published[mode], "")
        for name, mode in [*((row["encoder"], row["mode"]) for row in rows), ("clip", "lora")]
    ]
    found = comparison._with_published(rows, cells)
    assert [row for row in found if "paper" not in row] == rows
    (papers,) = (row for row in found if "paper" in row)
    assert found.index(papers) == 1
    assert (papers["encoder"], papers["mode"]) == ("FS-VFM ViT-L", "full")
    assert papers["video_auc@CDFv2"]["mean"] == 95.17 / 100
    assert papers["video_auc@mean"]["mean"] == 91.8 / 100
    assert "video_auc@WDF" not in papers and "read off a figure" in papers["paper"]
    write_table(tmp_path, "compare", found, caption="")
    assert "95.17" in (tmp_path / "compare.md").read_text()


def test_weights_that_changed_since_a_run_are_refused(tmp_path, monkeypatch):
    config = tiny.comparison()
    cell = comparison.Cell("mine", "linear", config.train.linear, "", "1" * 64)
    monkeypatch.setattr(comparison, "cells_of", lambda config: ([cell], []))
    monkeypatch.setattr(comparison.study, "video_scores", lambda *args, **options: {})

    def trained(config, workdir):
        workdir.mkdir(parents=True)
        save_origin(workdir, {"source_sha256": sha256})

    monkeypatch.setattr(comparison.study, "train_run", trained)
    config.rates.linear, config.seeds = (1e-3,), (0,)
    sha256 = "1" * 64
    comparison._train_and_test(tmp_path, cell, config, rate=1e-2, faces="")
    sha256 = "2" * 64
    cache = jax.config.jax_compilation_cache_dir
    try:
        with pytest.raises(ConfigError, match=r"encoders\.mine\.params .* has changed since"):
            comparison.benchmark_compare(argparse.Namespace(output=str(tmp_path)), config)
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)


@pytest.mark.parametrize("searched", [False, True])
def test_a_row_that_does_not_fit_or_diverges_gets_a_note_and_the_others_are_made(
    tmp_path, monkeypatch, searched
):
    config = tiny.comparison()
    config.rates.linear, config.seeds = ((1e-3, 1e-2) if searched else (1e-3,)), (0,)
    names = ("large", "greedy", "wild", "good")
    cells = [comparison.Cell(name, "linear", config.train.linear, "", "") for name in names]
    monkeypatch.setattr(comparison, "cells_of", lambda config: (cells, []))
    monkeypatch.setattr(comparison.study, "tested_faces", lambda config: "")
    monkeypatch.setattr(comparison, "_costs", lambda *args, **options: {})
    videos = VideoScores(np.array(["a", "b"]), np.array([0.1, 0.9]), np.array([False, True]))
    monkeypatch.setattr(comparison.study, "video_scores", lambda *a, **options: {"x": videos})

    def trained(config, workdir):
        if "large" in str(workdir):
            raise StepTooLarge("the step does not fit in memory")
        if "greedy" in str(workdir):
            raise OutOfMemory("the devices' memory ran out")
        (workdir / "checkpoints").mkdir(parents=True)
        if "wild" in str(workdir):
            raise NotFiniteError("the loss is not finite")
        (workdir / "validation.jsonl").write_text('{"step": 1, "val_loss": 0.5}\n')

    monkeypatch.setattr(comparison.study, "train_run", trained)
    cache = jax.config.jax_compilation_cache_dir
    try:
        comparison.benchmark_compare(argparse.Namespace(output=str(tmp_path)), config)
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)
    rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert [row.get("note") for row in rows] == [
        "a step does not fit in memory",
        "memory ran out",
        "a run was not finite",
        None,
    ]
    assert rows[3]["video_auc@mean"]["mean"] == 1.0
    assert ("rate" in rows[0]) != searched  # No rate was chosen.


@pytest.mark.e2e
def test_the_whole_chain_makes_a_table_and_goes_on_after_an_end_in_the_middle(
    tmp_path, capsys, monkeypatch
):
    config = tiny.comparison()
    config.modes, config.encoders.mine.params = ("linear",), ""
    config.rates.linear = (1e-3, 1e-2)
    config.train.linear.update(epochs=1, batch_size=16)
    test = evaluation.get_config()
    test.data.test.update(sets.rendered(("swap-a",), "test", videos=8))
    test.data.num_workers = 0
    with config.unlocked():
        config.test = test
    config.test.select = ("validation",)
    args = argparse.Namespace(output=str(tmp_path))
    cache = jax.config.jax_compilation_cache_dir
    train_run = comparison.study.train_run

    def compiled_once(config, workdir):
        with tiny.compiled_once(resolve(config)):
            train_run(config, workdir)

    def ended(config, workdir):
        if "random-linear" in str(workdir):
            raise KeyboardInterrupt
        compiled_once(config, workdir)

    try:
        monkeypatch.setattr(comparison.study, "train_run", ended)
        with pytest.raises(KeyboardInterrupt):
            comparison.benchmark_compare(args, config)
        (row,) = json.loads((tmp_path / "compare.json").read_text())["rows"]
        assert (row["encoder"], row["mode"]) == ("mine", "linear")
        assert row["video_auc@mean"]["n"] == 1 and row["trainable"] > 10
        assert row["memory"] > 0 and row["rate"] in (1e-3, 1e-2)
        report = tmp_path / "mine-linear" / f"rate-{row['rate']:g}" / "0" / "report" / "table.json"
        before = report.stat().st_mtime_ns
        monkeypatch.setattr(comparison.study, "train_run", compiled_once)
        comparison.benchmark_compare(args, config)
        assert report.stat().st_mtime_ns == before
        rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
        assert rows[0] == row and rows[1]["encoder"] == "random"
        # The same seed and the same random weights.
        assert rows[1]["video_auc@mean"] == row["video_auc@mean"]
        text = (tmp_path / "compare.md").read_text()
        assert "Not compared, since no weights are given: clip, dino," in text
        assert "| encoder | mode   | pool |" in text
        differences = (tmp_path / "compare_differences.md").read_text()
        assert "random, linear - mine, linear" in differences
        assert "+0.00 [+0.00, +0.00]" in differences
        assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
        assert "mine-linear" in (tmp_path / "rates.md").read_text()
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)


@pytest.mark.slow
def test_a_killed_comparison_goes_on_to_the_same_table(tmp_path):
    command = [sys.executable, "-m", "fsvfm_jax.benchmark", "compare"]
    command += ["--config=configs/compare/rendered.py:smoke", "--config.seeds=(0,1)"]
    command += ["--config.modes=('full','linear')"]

    def rows(folder):
        found = json.loads((folder / "compare.json").read_text())["rows"]
        return [{name: x for name, x in row.items() if name != "minutes"} for row in found]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, f"--output={whole}"], cwd=ROOT, check=True)
    process = subprocess.Popen([*command, f"--output={killed}"], cwd=ROOT)
    try:
        # The second run of the first row has begun to train.
        started = killed / "random-full" / "rate-0.003" / "1" / "metrics.jsonl"
        while not started.exists():
            assert process.poll() is None
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    first = killed / "random-full" / "rate-0.003" / "0" / "report" / "table.json"
    before = first.stat().st_mtime_ns
    subprocess.run([*command, f"--output={killed}"], cwd=ROOT, check=True)
    assert first.stat().st_mtime_ns == before
    assert rows(killed) == rows(whole)
