"""Pretrains, fine-tunes and evaluates on rendered faces, with a table: `benchmark transfer`.

It tests the code, and proves nothing about real deepfakes. Every run has a folder of its own; the
same command continues a stopped run. The settings are those of `configs/offline.py` in the current
folder, or else in the package.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from configs import offline
from fsvfm_jax.benchmark import artefacts, rate_search, study
from fsvfm_jax.benchmark.rendered_folders import faces_folder, open_split, render_sets
from fsvfm_jax.data.labelled.detection_sets import DetectionSet, labels_of
from fsvfm_jax.data.labelled.faces import FAKE
from fsvfm_jax.host.storage import write_text
from fsvfm_jax.report import metrics
from fsvfm_jax.report.rows import SPOOF_CAPTION, mean_rows, over_seeds
from fsvfm_jax.report.table import markdown

CAPTION = """\
Rendered faces and forgeries (fsvfm_jax/data/rendered/rendered_sets.py): this tests the code and
proves nothing about real deepfakes. Video AUC in percent, mean +- deviation over {seeds} seeds of
training; checkpoints are chosen on {trained}'s validation faces. All methods train on {trained}.
The other sets have unseen cameras, and {unseen} also have unseen forgeries.
"statistics" is a logistic regression on DCT and high-pass energies. If it, or the random frozen
encoder, is over 90 on an unseen set, the set is an artefact test, and no claim is based on it:
{artefacts}."""


def benchmark_transfer(args: argparse.Namespace) -> None:
    """Runs the missing parts in the folder, and writes `table.md` and `table.json` there.

    Args:
        args: The arguments of `benchmark transfer`.
    """
    folder = study.open_folder(args.output)
    pretrained = pretrain(folder)
    render_sets(folder, offline.RENDERED)
    if args.tune:
        _tune(folder, pretrained)
        return
    deepfakes = _deepfakes(folder, pretrained, seeds=args.seeds)
    spoofs = _spoofs(folder, pretrained)
    text = f"# Deepfakes\n\n{deepfakes}\n# Spoofs, one domain left out\n\n{spoofs}"
    write_text(epath.Path(folder / "table.md"), text)
    print(text)


def pretrain(folder: Path) -> Path:
    """Pretrains the encoder of all methods, unless it is done, and returns its workdir."""
    pretrained = folder / "pretrained"
    study.train_run(offline.pretraining(), pretrained)
    return pretrained


def train_detectors(folder: Path, method: str, *, seeds: int) -> list[Path]:
    """Trains the detectors of a method, unless they are trained, and returns their workdirs.

    Args:
        folder: The folder of the benchmark.
        method: One of `offline.METHODS`.
        seeds: Number of detectors.
    """
    pretrained = pretrain(folder)
    render_sets(folder, [(offline.TRAINED, "train"), (offline.TRAINED, "val")])
    return [train_detector(folder, pretrained, method, seed=seed) for seed in range(seeds)]


def train_detector(folder: Path, pretrained: Path | None, method: str, *, seed: int) -> Path:
    """Trains one detector, unless it is trained, and returns its workdir.

    Args:
        folder: The folder of the benchmark.
        pretrained: The workdir of the pretrained encoder; None if the method starts from random
            weights.
        method: One of `offline.METHODS`.
        seed: The seed of the run.
    """
    run = folder / f"{method.replace(' ', '-')}-{seed}"
    study.train_run(_finetuning(folder, pretrained, method, seed=seed), run)
    return run


def _deepfakes(folder: Path, pretrained: Path, *, seeds: int) -> str:
    aucs = _statistics_aucs(folder, [offline.TRAINED], offline.TESTED)
    rows: list[dict[str, Any]] = [
        {"method": "statistics"} | {f"video_auc@{name}": auc for name, auc in aucs.items()}
    ]
    detection = offline.detection(faces=str(faces_folder(folder)))
    tested = study.tested_faces(detection)
    for method in offline.METHODS:
        of_seeds = {}
        for seed in range(seeds):
            run = train_detector(folder, pretrained, method, seed=seed)
            found = study.evaluate_run(detection, run, seed=seed, faces=tested)
            of_seeds[seed] = [row for row in found if row["dataset"] in offline.TESTED]
        means = over_seeds(of_seeds)
        rows.append(
            {"method": method} | {f"video_auc@{row['dataset']}": row["video_auc"] for row in means}
        )
    untaught = next(row for row in rows if row["method"] == "random frozen")
    artefact_tests = [
        name
        for name in offline.TESTED
        if name != offline.TRAINED
        and max(aucs[name], untaught[f"video_auc@{name}"]["mean"]) > artefacts.ARTEFACT_AUC
    ]
    caption = CAPTION.format(
        seeds=seeds,
        trained=offline.TRAINED,
        unseen=" and ".join(offline.UNSEEN_FORGERIES),
        artefacts=", ".join(artefact_tests) or "none here",
    )
    write_text(epath.Path(folder / "table.json"), json.dumps(rows, indent=1))
    return markdown(rows, caption)


def _spoofs(folder: Path, pretrained: Path) -> str:
    rows, faces, of_statistics = [], str(faces_folder(folder)), []
    for target in offline.SPOOFS:
        run = folder / f"spoof-{target}"
        study.train_run(offline.spoofing(target, seed=0, params=str(pretrained), faces=faces), run)
        detection = offline.spoof_detection(target, faces=faces)
        tested = study.tested_faces(detection)
        rows += study.evaluate_run(detection, run, seed=0, faces=tested)
        sources = [name for name in offline.SPOOFS if name != target]
        (auc,) = _statistics_aucs(folder, sources, [target]).values()
        of_statistics.append(f"{target} {100 * auc:.2f}")
    means = mean_rows(rows)
    of_way = {row["selection"]: row for row in means}
    oracle = 100 * of_way["test-oracle"]["hter@test"]
    others = {way: 100 * of_way[way]["hter@validation"] for way in ("validation", "last")}
    more = " and ".join(
        f"{hter:.2f} for {way!r} ({hter - oracle:+.2f})" for way, hter in others.items()
    )
    text = markdown([*rows, *means], SPOOF_CAPTION)
    return (
        f"{text}\nWith checkpoint and threshold from the test set, the average HTER is"
        f" {oracle:.2f}, as the papers report it; with a threshold from other videos it is {more}."
        f" Video AUC of the statistics alone (a set with over 90 is an artefact test):"
        f" {', '.join(of_statistics)}.\n"
    )


def _tune(folder: Path, pretrained: Path) -> None:
    """Searches the learning rate of every method; writes and prints the validation losses."""
    searches = {}
    for method in offline.METHODS:

        def at_rate(rate: float, method: str = method) -> ConfigDict:
            config = _finetuning(folder, pretrained, method, seed=offline.TUNING_SEED)
            config.optimizer.lr = rate
            return config

        runs = folder / "tuning" / method.replace(" ", "-")
        searches[method] = rate_search.search_rate(
            at_rate, runs, rates=offline.RATES, beyond=offline.RATES_BEYOND
        )
    print(rate_search.write_searches(folder, searches))


def _finetuning(folder: Path, pretrained: Path | None, method: str, *, seed: int) -> ConfigDict:
    faces = str(faces_folder(folder))
    return offline.finetuning(method, seed=seed, params=str(pretrained or ""), faces=faces)


def _statistics_aucs(
    folder: Path, trained: Sequence[str], tested: Sequence[str]
) -> dict[str, float]:
    """Returns the video AUC of a logistic regression on high-pass statistics, by tested set."""
    fitted = open_split(folder, trained, "train").values()
    features = np.concatenate([_statistics(faces) for faces in fitted])
    model = artefacts.logistic_regression(features, np.concatenate([_fake(x) for x in fitted]))
    found = {}
    for name, faces in open_split(folder, tested, "test").items():
        scores = artefacts.scores(model, _statistics(faces))
        videos = np.array([faces.video(index) for index in range(len(faces))])
        fake = _fake(faces)
        of_videos = metrics.video_means(scores, fake, videos)
        found[name] = metrics.auc(of_videos.scores, of_videos.positive)
    return found


def _fake(faces: DetectionSet) -> np.ndarray:
    return labels_of(faces) == FAKE


def _statistics(faces: DetectionSet) -> np.ndarray:
    return artefacts.highpass_statistics(faces[index]["image"] for index in range(len(faces)))
