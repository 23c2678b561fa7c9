"""Trains and tests the runs of a study.

Every run has a folder of its own. A run that is done is not repeated, and a run that was stopped
continues from its newest checkpoint.
"""

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import jax
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from fsvfm_jax import evaluate, train
from fsvfm_jax.config.resolve import resolve, to_json
from fsvfm_jax.data.labelled.detection_sets import fingerprints_of, open_sets
from fsvfm_jax.devices.memory import enough_memory
from fsvfm_jax.errors import ConfigError, Preempted, StorageError, UserError, reason_of
from fsvfm_jax.host import signals
from fsvfm_jax.host.storage import check_folder, read_bytes, read_stored_json, write_text
from fsvfm_jax.report.metrics import VideoScores, video_means
from fsvfm_jax.report.resampling import Resampled, difference, over_seeds_and_sets
from fsvfm_jax.report.rows import Row, of_single_sets
from fsvfm_jax.report.scores import read_scores
from fsvfm_jax.report.write import read_rows, scores_file
from fsvfm_jax.run.failed_start import CONFIG_FILE, STEP_FILE
from fsvfm_jax.tasks import TASKS

TABLE_FILE = "table.json"
FACES_FILE = "faces.txt"
MEND = "delete the folder of this run"
MAX_FACES_BYTES = 2**20
# Fields that change no result: how a run is watched, and on what it runs.
WITHOUT_INFLUENCE = ("tracking.", "watchdog.", "resume.", "mesh.", "compiler_options")
WITHOUT_INFLUENCE += ("data.num_workers", "max_skipped_steps", "model.remat")
DIFFERENCES = """\
{measure}: difference from the first row, in points of percent, with its 95 % interval. Seeds and
videos are paired. An interval without 0 shows a difference that other seeds and other videos of
these sets would show too; it is not corrected for the number of rows."""

logger = logging.getLogger(__name__)


class StoredStep(TypedDict):
    """The fields of a run's step.json that a table contains."""

    trained_parameters: int
    bytes_per_device: int
    micro_batches: int


def open_folder(output: str) -> Path:
    """Checks the folder of a study, and keeps compiled programs in it for all runs.

    Args:
        output: The folder, which may be missing.

    Raises:
        ConfigError: There are several processes.
        StorageError: The folder cannot be created, or takes no file.
    """
    if jax.process_count() > 1:
        raise ConfigError(
            f"this benchmark runs in one process, and not in {jax.process_count()}: start it on one"
            " machine"
        )
    folder = Path(output)
    check_folder(folder, flag=f"--output={output}")
    jax.config.update("jax_compilation_cache_dir", str((folder / "compiled").absolute()))
    return folder


def train_run(config: ConfigDict, workdir: Path) -> None:
    """Trains a run to its last step; see `train.train`.

    Args:
        config: The config, not resolved.
        workdir: The run's folder.

    Raises:
        ConfigError: The workdir contains a run with another config.
        Preempted: A signal stopped the training, which is saved.
    """
    logger.info("training %s", workdir)
    config = resolve(config)
    claim(workdir, config)
    try:
        train.train(config, epath.Path(workdir), task=TASKS[config.task])
    except Preempted as error:
        raise Preempted(
            f"stopped in the training of {workdir}, which is saved; start the same command again to"
            " continue"
        ) from error
    except UserError:  # The caller may go on with another run.
        signals.end_again()
        raise
    signals.end_again()


def claim(workdir: Path, config: ConfigDict) -> None:
    """Stores a config beside a workdir, so that its run is never taken for one of another config.

    Args:
        workdir: The run's folder.
        config: The resolved config.

    Raises:
        ConfigError: The stored config differs in a field that changes results.
    """
    stored, content = workdir.with_name(f"{workdir.name}.config.json"), to_json(config)
    mend = f"delete it and {workdir}"
    if stored.exists() and (changed := _changed_field(stored, content, mend=mend)):
        raise ConfigError(
            f"{workdir} belongs to another config.{changed}: give another --output, or delete"
            f" {stored} and this folder"
        )
    workdir.parent.mkdir(parents=True, exist_ok=True)
    write_text(epath.Path(stored), content)


def tested_faces(config: ConfigDict) -> str:
    """Returns the fingerprints of all sets of an evaluation: of names, videos and labels.

    Args:
        config: The config of the evaluation, not resolved.
    """
    data = config.data
    sets = [open_sets(part, data.paths, image_size=1) for part in (data.test, data.val)]
    return " ".join(map(fingerprints_of, sets))


def evaluate_run(config: ConfigDict, run: Path, *, seed: int, faces: str) -> list[Row]:
    """Returns the rows of the run's report, one for each set.

    A report is made once for a config and the names, videos and labels of its faces.

    Args:
        config: The config of the evaluation, not resolved and without a detector.
        run: The workdir of the detector.
        seed: The seed of the run, for the table.
        faces: The result of `tested_faces` for this config.

    Raises:
        OutOfMemory: A batch of the evaluation does not fit.
    """
    config = config.copy_and_resolve_references()
    config.init.params = str(run)
    config.init.seed = seed
    config = resolve(config)
    report = run / "report"
    stored, tested = report / "evaluation.json", epath.Path(report / FACES_FILE)
    is_made = stored.exists() and tested.exists() and _text(tested) == faces
    if not is_made or _changed_field(stored, to_json(config), mend=f"delete {report}"):
        tested.unlink(missing_ok=True)
        with enough_memory("a batch of the evaluation does not fit: lower its batch_size"):
            evaluate.evaluate(config, epath.Path(report))
        write_text(tested, faces)
    return of_single_sets(read_rows(report / TABLE_FILE))


def video_scores(config: ConfigDict, run: Path, *, seed: int, faces: str) -> dict[str, VideoScores]:
    """Returns the score of every test video by set; see `evaluate_run`.

    Args:
        config: As for `evaluate_run`, with one way of choosing the checkpoint.
        run: As for `evaluate_run`.
        seed: As for `evaluate_run`.
        faces: As for `evaluate_run`.
    """
    found = {}
    for row in evaluate_run(config, run, seed=seed, faces=faces):
        name = row["dataset"]
        file = run / "report" / scores_file(name, row["selection"])
        scores = read_scores(file, dataset=name)
        found[name] = video_means(scores.p_fake, scores.fake, scores.videos)
    return found


def training_seconds(run: Path) -> float | None:
    """Returns the median time of a step times the steps: the time without starts and validation.

    It is None if the run had too few steps to measure one.

    Args:
        run: The workdir of a run that is done.
    """
    config = json.loads((run / CONFIG_FILE).read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    if not rates:
        return None
    return lines[-1]["step"] * config["batch_size"] / statistics.median(rates)


def step_size(run: Path) -> dict[str, int | float]:
    """Returns the trained parameters, the memory of a step in GB, and the micro-batches.

    Args:
        run: The workdir of a run.
    """
    stored = read_stored_json(epath.Path(run / STEP_FILE), StoredStep, mend=MEND)
    return {
        "trainable": stored["trained_parameters"],
        "memory": stored["bytes_per_device"] / 1e9,
        "micro_batches": stored["micro_batches"],
    }


def differences(
    rows: Mapping[str, Sequence[Mapping[str, Resampled]]], groups: Mapping[str, Sequence[str]]
) -> list[Row]:
    """Returns how the rows of a table differ from its first row, by group of sets.

    Both rows of a pair have the same seeds and the same draws of the videos, so that what they have
    in common does not widen the interval.

    Args:
        rows: A metric by seed and set, for each row by name.
        groups: The sets of each group.
    """
    (reference, first), *others = rows.items()
    found = []
    for name, of_seeds in others:
        row: Row = {"method": f"{name} - {reference}"}
        for group, sets in groups.items():
            pairs = zip(of_seeds, first, strict=True)
            table = [[difference(one[x], other[x]) for x in sets] for one, other in pairs]
            mean, interval = over_seeds_and_sets(table, low=-1.0)
            row |= {f"difference@{group}": mean, f"difference_interval@{group}": interval}
        found.append(row)
    return found


def differences_caption(measure: str) -> str:
    """Returns the caption of a table of `differences` of a measure."""
    return DIFFERENCES.format(measure=measure)


def _text(file: epath.Path) -> str:
    """Returns the text of a small file of a run.

    Raises:
        StorageError: It is not a plain file, or too large.
    """
    try:
        return read_bytes(file, max_bytes=MAX_FACES_BYTES).decode(errors="replace")
    except OSError as error:
        raise StorageError(f"{file} cannot be read ({reason_of(error)}): delete it") from error


def _changed_field(stored: Path, content: str, *, mend: str) -> str | None:
    """Returns the first field in which a stored config differs from a resolved one, or None.

    Fields that change no result are left out.

    Args:
        stored: The file of the stored config.
        content: The resolved config, as JSON.
        mend: What the user can do if the file is damaged.
    """
    configs = (read_stored_json(epath.Path(stored), dict[str, Any], mend=mend), json.loads(content))
    old, new = (traverse_util.flatten_dict(x, sep=".") for x in configs)
    names = (x for x in sorted(old | new) if not x.startswith(WITHOUT_INFLUENCE))
    return next((name for name in names if old.get(name) != new.get(name)), None)
