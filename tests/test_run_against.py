"""Tests the comparison with the authors' curves: consistent, off, refused, not finished."""

import json

import pytest
from etils import epath
from run_workdirs import write_like_authors, write_run

from fsvfm_jax.report.published_curves import CURVES
from fsvfm_jax.visualize.run_against import Verdict, compare
from fsvfm_jax.visualize.run_facts import describe
from fsvfm_jax.visualize.run_folder import read_folder


def judged(workdir, curve: str = "vggface2_b") -> Verdict:
    return compare(describe(read_folder(epath.Path(workdir)), "run"), CURVES[curve])


@pytest.mark.parametrize("factor", [0.98, 1.0, 1.02])
def test_a_run_near_the_curve_is_consistent(tmp_path, factor):
    verdict = judged(write_like_authors(tmp_path / "run", factor=factor))
    assert not verdict.refused and verdict.text.startswith("consistent within 3% at epochs 0, 4,")
    assert f"{factor - 1:+.1%}" in verdict.text


def test_a_run_off_the_curve_says_by_how_much_and_where(tmp_path):
    workdir = write_like_authors(tmp_path / "run", factor=1.01)
    lines = [json.loads(line) for line in (workdir / "epochs.jsonl").read_text().splitlines()]
    lines[2]["loss_region"] = 0.5
    (workdir / "epochs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    verdict = judged(workdir)
    assert not verdict.refused
    assert verdict.text == (
        "off by +15.0% at epoch 9 (loss_region is 0.5000, the authors' is 0.4349; tolerance 3%)"
    )


def test_only_finished_and_whole_epochs_are_compared(tmp_path):
    assert "no epoch of" in judged(write_like_authors(tmp_path / "new", until=0)).text
    workdir = write_like_authors(tmp_path / "run", until=10)
    lines = [json.loads(line) for line in (workdir / "epochs.jsonl").read_text().splitlines()]
    lines[1] |= {"steps": 100, "loss_rec": 9.0}
    (workdir / "epochs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    text = judged(workdir).text
    assert "at epochs 0, 9;" in text and "a part of the steps: epoch 4" in text


def test_a_loss_that_is_missing_is_off(tmp_path):
    workdir = write_like_authors(tmp_path / "run", until=1)
    (workdir / "epochs.jsonl").write_text('{"epoch": 0, "step": 726, "steps": 726}\n')
    assert judged(workdir).text.startswith("off by +inf")


@pytest.mark.parametrize(
    ("changes", "fingerprint", "part"),
    [
        ({"batch_size": 2048}, {}, "batch_size is 2048, not 4096"),
        ({"schedule_epochs": 600}, {}, "schedule_epochs is 600, not 800"),
        ({"optimizer.blr": 3e-4}, {}, "the peak learning rate is 0.0048, not 0.0024"),
        ({"optimizer.warmup_epochs": 20}, {}, "optimizer.warmup_epochs is 20"),
        ({"mask.mask_ratio": 0.5}, {}, "mask.mask_ratio is 0.5"),
        ({"model.depth": 6}, {}, "model.depth is 6"),
        ({}, {"mean": [0.5, 0.5, 0.5]}, "the mean of the data is 0.5000 0.5000 0.5000, not 0.5482"),
        ({}, {"std": None}, "the std of the data is None"),
        ({}, {"images": 1000}, "the set has 1000 faces"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, changes, fingerprint, part):
    workdir = write_like_authors(tmp_path / "run", changes=changes, fingerprint=fingerprint)
    verdict = judged(workdir)
    assert verdict.refused and part in verdict.text
    assert verdict.text.startswith("not compared with the authors' ViT-B on VGGFace2: ")


def test_a_tiny_run_names_batch_schedule_and_mean(tmp_path):
    verdict = judged(write_run(tmp_path / "run"))
    assert verdict.refused and "more differences" in verdict.text
    for part in (
        "peak learning rate",
        "schedule_epochs is 10",
        "the mean of the data",
        "batch_size is 32",
    ):
        assert part in verdict.text


def test_the_other_curve_says_what_is_not_known_of_it(tmp_path):
    workdir = write_like_authors(
        tmp_path / "run", "youtubefaces_b", fingerprint={"images": 600_000, "mean": [0.1] * 3}
    )
    verdict = judged(workdir, "youtubefaces_b")
    assert not verdict.refused and "consistent" in verdict.text
    assert verdict.text.endswith("the faces and the mean of that set are not known")


def test_a_fine_tuning_run_and_odd_files_are_refused(tmp_path):
    workdir = write_like_authors(tmp_path / "run")
    for content in ({"task": "finetune"}, {"task": "pretrain", "mask": [], "batch_size": None}):
        (workdir / "config.json").write_text(json.dumps(content))
        assert judged(workdir).refused
