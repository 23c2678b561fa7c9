"""Tests that an encoder of every family goes through everything: training, export, comparison.

The networks are tiny and have random weights. `test_families.py` compares their features with those
of their libraries.
"""

import argparse
import json

import jax
import numpy as np
import pytest
import tiny
from etils import epath
from foreign_vits import CASES, TINY, build, save

import fsvfm_jax
from configs import evaluation, sets
from fsvfm_jax.benchmark import comparison
from fsvfm_jax.convert.__main__ import main as convert
from fsvfm_jax.convert.folder import read_folder
from fsvfm_jax.convert.runs import read_run
from fsvfm_jax.convert.weights import read_source
from fsvfm_jax.tasks import TASKS
from fsvfm_jax.train import train

SIZES = {f"model.{name}": TINY[name] for name in ("width", "depth", "num_heads", "patch_size")}
FACE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.fixture(params=CASES)
def exported(request, tmp_path):
    """Returns the folder of an encoder, converted from the folder of its library."""
    case = CASES[request.param]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    save(case, build(case, TINY), TINY, theirs)
    is_stated = "license" in read_source(theirs, branch="student", given={}).facts
    convert(["to", "folder", str(theirs), str(ours), *([] if is_stated else ["--license=mit"])])
    return ours


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "lora", "norms", "adapter"])
def test_it_is_fine_tuned_and_its_detector_is_exported_in_both_ways(exported, tmp_path, mode):
    has_pool = "pool_heads" in read_source(exported, branch="student", given={}).model
    changes = {"init.params": str(exported), "epochs": 1}
    # An encoder with an attention pool is used with it, and without it.
    changes["model.pool"] = "attention" if has_pool and mode in ("full", "lora") else "mean"
    config = tiny.detection_config(mode, SIZES | changes)
    # Not by `tiny.run_detection`, for which all encoders of one size are the same network.
    train(config, epath.Path(tmp_path / "run"), task=TASKS["finetune"])
    source = ["to", "folder", str(tmp_path / "run")]
    convert([*source, str(tmp_path / "whole")])
    whole = read_folder(tmp_path / "whole")
    assert whole.description.license == read_folder(exported).description.license
    score = fsvfm_jax.load(tmp_path / "whole").predict([FACE])
    of_run = fsvfm_jax.load(tmp_path / "run").predict([FACE])
    np.testing.assert_allclose(score, of_run, rtol=0, atol=1e-6)
    if mode != "full":
        convert([*source, str(tmp_path / "small"), "--without-encoder"])
        small = read_folder(tmp_path / "small", encoder=exported)
        jax.tree.map(np.testing.assert_array_equal, small.params, whole.params)


@pytest.mark.slow
def test_pretraining_continues_from_it(exported, tmp_path):
    model = read_source(exported, branch="student", given={}).model
    if not model.get("class_token", True):
        pytest.skip("the decoders of pretraining need a class token")
    config = tiny.tiny_config(SIZES | {"init.params": str(exported), "epochs": 2})
    train(config, epath.Path(tmp_path / "run"), task=TASKS["pretrain"])
    run = read_run(tmp_path / "run")
    assert int(run.state.step) > 0
    assert run.license == read_folder(exported).description.license
    # It has learned, and is still near its start.
    before, after = read_folder(exported).params, jax.device_get(run.state.params)
    kernels = [x["blocks"]["attn"]["qkv"]["kernel"].ravel() for x in (before, after)]
    assert 0.9 < np.corrcoef(kernels)[0, 1] < 1 - 1e-6
    shapes = [fsvfm_jax.load(x).features(FACE).shape for x in (exported, tmp_path / "run")]
    assert shapes == [(1, TINY["width"])] * 2


@pytest.mark.slow
def test_all_are_compared_and_an_ended_comparison_goes_on(tmp_path, monkeypatch):
    config = tiny.comparison()
    template = config.encoders.mine
    test = evaluation.get_config()
    test.data.test.update(sets.rendered(("swap-a",), "test", videos=8))
    test.data.num_workers = 0
    with config.unlocked():
        config.encoders = {}
        for number, case in enumerate(CASES.values()):
            folder = tmp_path / f"encoder{number}"
            save(case, build(case, TINY), TINY, folder)
            config.encoders[f"e{number}"] = template.copy_and_resolve_references()
            config.encoders[f"e{number}"].params = str(folder)
        config.test = test
    config.test.select = ("validation",)
    config.modes, config.rates.linear, config.seeds = ("linear",), (1e-3,), (0,)
    config.train.linear.update(epochs=1, batch_size=16)
    train_run, ended = comparison.study.train_run, []

    def train_some(config, workdir):
        if len(list(tmp_path.glob("out/*/*/*/report"))) == 5 and not ended:
            ended.append(workdir)
            raise KeyboardInterrupt
        train_run(config, workdir)

    monkeypatch.setattr(comparison.study, "train_run", train_some)
    args = argparse.Namespace(output=str(tmp_path / "out"))
    cache = jax.config.jax_compilation_cache_dir
    try:
        with pytest.raises(KeyboardInterrupt):
            comparison.benchmark_compare(args, config)
        reports = sorted(tmp_path.glob("out/*/*/*/report/table.json"))
        before = [file.stat().st_mtime_ns for file in reports]
        assert len(before) == 5
        comparison.benchmark_compare(args, config)
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)
    assert [file.stat().st_mtime_ns for file in reports] == before
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert [row["encoder"] for row in rows] == list(config.encoders)
    # Only the head of two classes is trained; the norm of the pooled features is frozen.
    assert {row["trainable"] for row in rows} == {2 * TINY["width"] + 2}
    assert all(0 <= row["video_auc@mean"]["mean"] <= 1 for row in rows)
