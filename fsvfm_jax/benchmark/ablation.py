"""Compares the parts of the pretraining on rendered faces: `benchmark ablation`.

Every row of the table is pretrained with the same budget and several seeds. It is measured by
linear and nearest-neighbour classifiers of frozen features, by full fine-tuning, and by a linear
classifier of frozen patches. It proves nothing about real deepfakes. The settings are those of
`configs/offline.py` in the current folder, or else in the package.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from configs import offline
from fsvfm_jax.benchmark import study, transfer
from fsvfm_jax.benchmark.frozen_probes import Probes, measure_frozen
from fsvfm_jax.benchmark.rendered_folders import faces_folder, open_split, render_sets
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.rendered.rendered_sets import VERSION
from fsvfm_jax.host.storage import read_stored_json, write_json
from fsvfm_jax.learners import make_learner
from fsvfm_jax.models.fsvfm import encoder_subset
from fsvfm_jax.predict.networks import Encoder, load
from fsvfm_jax.report.figure import encode_picture
from fsvfm_jax.report.intervals_figure import intervals_figure
from fsvfm_jax.report.resampling import (
    Resampled,
    over_seeds_and_sets,
    resampled_auc,
    resampled_mean,
)
from fsvfm_jax.report.rows import Row
from fsvfm_jax.report.write import write_file, write_table

UNTRAINED = "random weights"
TITLES = {
    "linear": "Linear classifier of frozen features, by kind of forgery",
    "knn": "Nearest neighbours of frozen features, by kind of forgery",
    "full": "Full fine-tuning, by kind of forgery",
    "patches": "Linear classifier of frozen patches, by kind of forgery",
}
MEASURES = tuple(TITLES)
PAIRS = {"train": 400, "test": 200}  # forgeries with their real faces, of each set
KINDS = {"seen": offline.SEEN_FORGERIES, "unseen": offline.UNSEEN_FORGERIES}
CAPTION = """\
Rendered faces and forgeries (fsvfm_jax/data/rendered/rendered_sets.py); this proves nothing about
real deepfakes. Each row is pretrained {seeds} times with the budget of configs/offline.py, and
measured with new faces on the kinds of forgeries of the training ("seen": the mean over {seen}) and
on other kinds ("unseen": {unseen}). The table contains the mean +- deviation over the seeds, and in
brackets the 95 % interval over seeds and videos, in percent.
"linear" and "k-NN" are the video AUC of classifiers of frozen features. "full" is the video AUC
after full fine-tuning. All pretrained rows have the learning rate that `benchmark transfer --tune`
found for "{reference}", which may favour that row. "patches" says how well a linear classifier of
frozen patches finds the forged patches of a face. It is fitted to forged patches and the same
patches of the real faces. It is an AUC, the mean over faces; chance is 50.
"{untrained}" is not pretrained. "full" trains it for {scratch} epochs instead of {epochs}, with a
learning rate of its own, which is the same in all layers."""
REFERENCE = "crfr_p"

Measured = dict[str, dict[str, Resampled]]


def benchmark_ablation(args: argparse.Namespace) -> None:
    """Runs the missing parts in the folder, and writes `ablation.md` and `ablation.json` there.

    Args:
        args: The arguments of `benchmark ablation`.
    """
    folder = study.open_folder(args.output)
    sets = [(offline.TRAINED, "train"), (offline.TRAINED, "val")]
    render_sets(folder, [*sets, *((name, "test") for name in offline.TESTED)])
    others = [name for name in offline.VARIANTS if name != REFERENCE]
    variants = (REFERENCE, UNTRAINED, *others)
    found: dict[str, list[Measured]] = {}
    tested = study.tested_faces(offline.detection(faces=str(faces_folder(folder))))
    for variant in variants:
        found[variant] = [
            _measured(folder, variant, seed=seed, tested=tested) for seed in range(args.seeds)
        ]
        _write(folder, found, seeds=args.seeds)
    print((folder / "ablation.md").read_text())


def _write(folder: Path, found: Mapping[str, Sequence[Measured]], *, seeds: int) -> None:
    """Writes the table, and for each measure a picture and the differences from the reference."""
    rows = [{"method": name} | _row(measured) for name, measured in found.items()]
    write_table(folder, "ablation", rows, caption=_caption(seeds))
    for measure, title in TITLES.items():
        drawn = intervals_figure(rows, list(found), metric=measure, title=title)
        write_file(epath.Path(folder), f"ablation-{measure}.png", encode_picture(drawn))
        if len(found) > 1:
            of_measure = {
                name: [one[measure] for one in measured] for name, measured in found.items()
            }
            pairs = study.differences(of_measure, KINDS)
            caption = study.differences_caption(title)
            write_table(folder, f"ablation-{measure}-differences", pairs, caption=caption)


def _caption(seeds: int) -> str:
    return CAPTION.format(
        seeds=seeds,
        reference=REFERENCE,
        untrained=UNTRAINED,
        scratch=offline.EPOCHS["scratch"],
        epochs=offline.EPOCHS["full"],
        **{kind: ", ".join(names) for kind, names in KINDS.items()},
    )


def _pretrained(folder: Path, variant: str, *, seed: int) -> Path | None:
    """Pretrains a variant, unless it is done, and returns its workdir; None for random weights."""
    if variant == UNTRAINED:
        return None
    run = folder / variant / f"pretrained-{seed}"
    study.train_run(offline.pretraining(variant, seed=seed), run)
    return run


def _detector(folder: Path, variant: str, *, seed: int) -> Path:
    """Fine-tunes the encoder of a variant, unless it is done, and returns the workdir.

    Random weights have the detectors "scratch" of `benchmark transfer`.
    """
    pretrained = _pretrained(folder, variant, seed=seed)
    if pretrained is None:
        return transfer.train_detector(folder, None, "scratch", seed=seed)
    run, faces = folder / variant / f"full-{seed}", str(faces_folder(folder))
    study.train_run(offline.finetuning("full", seed=seed, params=str(pretrained), faces=faces), run)
    return run


def _measured(folder: Path, variant: str, *, seed: int, tested: str) -> Measured:
    """Returns the measures of one pretraining by name and set; makes what is missing."""
    run = _detector(folder, variant, seed=seed)
    detection = offline.detection(faces=str(faces_folder(folder)))
    found: Measured = {measure: {} for measure in MEASURES}
    probes = _probes(folder, variant, seed=seed)
    for name, videos in study.video_scores(detection, run, seed=seed, faces=tested).items():
        found["full"][name] = resampled_auc(videos, of=name)
        for probe in ("linear", "knn"):
            probed = videos._replace(scores=np.array(probes[probe][name]))
            found[probe][name] = resampled_auc(probed, of=name)
        found["patches"][name] = resampled_mean(np.array(probes["patches"][name]), of=name)
    return found


def _probes(folder: Path, variant: str, *, seed: int) -> Probes:
    """Measures the frozen encoder of a variant, unless it is done."""
    numbers = "-".join(map(str, (VERSION, *PAIRS.values(), seed)))
    file = folder / variant / f"probes-{numbers}.json"
    if not file.exists():
        train = open_split(folder, [offline.TRAINED], "train")[offline.TRAINED]
        found = measure_frozen(
            _encoder(folder, variant, seed=seed),
            train,
            open_split(folder, offline.TESTED, "test"),
            trained_on=offline.TRAINED,
            pairs=PAIRS,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(epath.Path(file), found)
    return read_stored_json(epath.Path(file), Probes, mend="delete it")


def _encoder(folder: Path, variant: str, *, seed: int) -> Encoder:
    """Returns the encoder of a variant, or the one that its pretraining with this seed starts from.

    The latter, for UNTRAINED, takes image size and pixel statistics from a pretrained encoder.
    """
    if run := _pretrained(folder, variant, seed=seed):
        return load(run)
    trained = load(_pretrained(folder, REFERENCE, seed=0))
    learner = make_learner(resolve(offline.pretraining(seed=seed)), stats=trained.stats)
    params = encoder_subset(learner.init(jax.random.key(seed)).params)
    options = {"path": trained.path, "stats": trained.stats, "view": trained.view, "facts": {}}
    return Encoder(trained.model, params, batch_size=trained.batch_size, **options)


def _row(measured: Sequence[Mapping[str, Mapping[str, Resampled]]]) -> Row:
    """Returns each measure by kind of forgery, and for the JSON by set, too.

    Args:
        measured: The measures of each seed.
    """
    row: dict[str, Any] = {}
    single = {name: (name,) for names in KINDS.values() for name in names}
    for measure in MEASURES:
        for suffix, groups in (("", KINDS), ("_of_set", single)):
            for group, names in groups.items():
                table = [[of_seed[measure][name] for name in names] for of_seed in measured]
                mean, interval = over_seeds_and_sets(table)
                row[f"{measure}{suffix}@{group}"] = mean
                row[f"{measure}{suffix}_interval@{group}"] = interval
    return row
