"""Tests what a comparison runs, what it refuses, and its whole chain with the smallest numbers."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
import tiny
from ml_collections import ConfigDict

from configs import evaluation, sets
from configs.compare import dfd, rendered
from fsvfm_jax.benchmark import comparison
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.convert.card import Description
from fsvfm_jax.convert.folder import write_folder
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models import build_encoder
from fsvfm_jax.report import published
from fsvfm_jax.report.write import write_table
from fsvfm_jax.tuning import MODES

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config():
    """Returns a comparison of two modes of the smallest network."""
    c = rendered.get_config("smoke")
    for mode in c.train:
        c.train[mode].model.update(tiny.ENCODER)
    c.modes = ("full", "linear")
    return c


OTHER = {"image_size": 24, "patch_size": 8, "width": 48, "depth": 1, "num_heads": 4}


@pytest.fixture
def exported(tmp_path):
    """Returns the folder of an encoder that has other sizes than the recipes."""
    params = jax.device_get(build_encoder(OTHER).init_params(jax.random.key(0)))
    description = Description(
        model=OTHER | {"pool": "mean"},
        stats=Stats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        license="apache-2.0",
        source="a test",
        source_sha256="0" * 64,
    )
    write_folder(tmp_path / "exported", params, description)
    return tmp_path / "exported"


def test_the_rows_are_every_encoder_that_has_weights_in_every_mode(config, exported):
    config.encoders.mine.params = str(exported)
    cells, left_out = comparison.cells_of(config)
    assert [cell.name for cell in cells] == [
        *("mine-full", "mine-linear", "random-full", "random-linear"),
    ]
    assert "other" in left_out and "mine" not in left_out
    resolved = resolve(cells[1].run_config(rate=0.01, seed=7))
    assert (resolved.mode, resolved.seed, resolved.optimizer.lr) == ("linear", 7, 0.01)
    assert resolved.init.params == str(exported)
    sizes = {name: resolved.model[name] for name in comparison.SIZES}
    assert sizes == OTHER and resolved.data.mean == (0.1, 0.2, 0.3)
    assert cells[3].config.model.image_size == tiny.ENCODER["image_size"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"task": "finetune"}, ConfigError, "task = 'finetune' .*compare"),
        ({"modes": ("full", "ful")}, ConfigError, r"modes = .*'ful'.*did you mean 'full'"),
        ({"modes": ("full", "full")}, ConfigError, r"modes = .* must be different"),
        (
            {"encoders.mine.compare.full": "FS"},
            ConfigError,
            r"compare\.full = .FS. is unknown",
        ),
        ({"encoders.mine.branch": "x"}, ConfigError, r"config\.encoders\.mine\.branch = 'x'"),
        ({"seeds": (0, 0)}, ConfigError, r"seeds = \(0, 0\) must be different"),
        ({"seeds": ()}, ConfigError, "must be different, at least one"),
        ({"seeds": (100,)}, ConfigError, "tuning_seed = 100 is among config.seeds"),
        ({"rates.full": (0.1, 0.1)}, ConfigError, r"rates\.full = .* must be different"),
        ({"rates.full": (-0.1,)}, ConfigError, r"rates\.full = .* above 0"),
        ({"rates.full": (1e9,)}, ConfigError, r"rates\.full = "),
        ({"encoders.random.params": None}, ConfigError, "encoders.clip.params=WEIGHTS"),
        ({"encoders.mine.params": "/none"}, DataError, r"mine\.params = '/none' does not exist"),
        ({"train.full.batch_size": 0}, ConfigError, "batch_size"),
        (
            {"train.full.mode": "lora"},
            ConfigError,
            r"full\.mode = 'lora': it must be 'full'",
        ),
        ({"test.batch_size": -5}, ConfigError, "batch_size = -5"),
        ({"test.select": ("validation", "last")}, ConfigError, "has several ways"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(config, changes, error, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises(error, match=message):
        comparison.cells_of(config)


def test_a_comparison_is_no_run():
    with pytest.raises(ConfigError, match=r"python -m fsvfm_jax\.benchmark compare"):
        resolve(dfd.get_config("b"))


def test_every_mode_of_the_papers_comparison_has_a_recipe_and_rates(tmp_path):
    c = dfd.get_config("l")
    assert set(c.modes) == set(c.train) == set(c.rates) == set(MODES)
    assert all(x.params is None for x in c.encoders.values())
    c.encoders.fsvfm.params = ""
    c.paths = (str(tmp_path),)
    with pytest.raises(DataError, match="Celeb-DF"):
        comparison.cells_of(c)
    c.test = evaluation.get_config()
    c.test.data.test.update(sets.rendered(("swap-a",), "test", videos=4))
    c.test.select = ("validation",)
    cells, _ = comparison.cells_of(c)
    assert {cell.config.data.paths for cell in cells} == {(str(tmp_path),)}
    only = dfd.get_config("b,CDFv2,DFDC").test.data.test
    assert set(only) == {"CDFv2", "DFDC"}


def test_the_caption_says_what_was_done():
    c = ConfigDict({"seeds": (0, 1), "tuning_seed": 9})
    at_edge = comparison.study.Search({1e-3: 0.1, 1e-2: 0.2})
    inside = comparison.study.Search({1e-3: 0.3, 1e-2: 0.2, 1e-1: 0.4})
    text = comparison._caption(c, {"a-full": at_edge, "b-full": inside}, ["clip"])
    assert "2 seeds" in text and "interval over seeds and videos" in text
    assert "the smallest or the largest for a-full.\n" in text and "with seed\n9 (rates.md)" in text
    assert "Not compared, since no weights are given: clip." in text
    c.seeds = (0,)
    text = comparison._caption(c, {}, [])
    assert "1 seed.\n" in text and "interval over videos in brackets" in text
    assert "rates.md" not in text and "edge" not in text and "Not compared" not in text


def test_the_papers_results_stand_below_the_row_that_they_belong_to(tmp_path):
    encoders = dfd.get_config("l").encoders
    assert encoders.fsvfm.compare.adapter == "FS-Adapter ViT-L" and not encoders.clip.compare.full
    sets = published.AVERAGED["DfD average"]
    auc = {"mean": 0.5, "sd": None, "n": 1}
    groups = {f"video_auc@{x}": auc for x in (*sorted(sets), comparison.MEAN)}
    intervals = {f"video_auc_interval@{x}": (0.4, 0.6) for x in sets}
    rows = [
        {"encoder": name, "mode": mode, **groups, **intervals}
        for name, mode in [("fsvfm", "full"), ("fsvfm", "lora"), ("clip", "full")]
    ]
    rows.append({"encoder": "fsvfm", "mode": "adapter", "note": "a run was not finite"})
    models = {("fsvfm", mode): text for mode, text in encoders.fsvfm.compare.items()}
    models |= {("fsvfm", "lora"): "", ("clip", "full"): ""}
    found = comparison._with_published(rows, models)
    assert [row for row in found if "paper" not in row] == rows
    (papers,) = (row for row in found if "paper" in row)
    assert found.index(papers) == 1 and (papers["encoder"], papers["mode"]) == ("fsvfm", "full")
    assert papers["video_auc@CDFv2"] == 95.17 / 100 and papers["video_auc@mean"] == 91.8 / 100
    assert "video_auc@WDF" not in papers and "read off a figure" in papers["paper"]
    write_table(tmp_path, "compare", found, caption="")
    assert "95.17" in (tmp_path / "compare.md").read_text()


@pytest.mark.e2e
def test_the_whole_chain_makes_a_table_and_goes_on_after_an_end_in_the_middle(
    config, tmp_path, capsys, monkeypatch
):
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
