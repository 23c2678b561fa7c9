"""Evaluates one detector on many test sets; writes the scores and a table with its protocol.

The checkpoint of a training run can be selected in several ways, and each selection has its own
rows in the table: "validation" selects the checkpoint with the lowest validation loss, "last"
selects the last one, and "test-oracle" selects for every test set the checkpoint that is best on
that set. Many papers do the last, but it needs the labels of the test set.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float64
from ml_collections import ConfigDict

from fsvfm_jax import finetune, scoring
from fsvfm_jax.config.resolve import to_json
from fsvfm_jax.convert.runs import is_run, run_config, run_data
from fsvfm_jax.data.labelled.detection_sets import (
    DetectionSet,
    check_classes,
    fingerprints_of,
    open_sets,
)
from fsvfm_jax.data.labelled.faces import LabelledFaces
from fsvfm_jax.detectors import NO_DETECTOR, LoadedDetector, load_detector
from fsvfm_jax.devices import distributed, sharding
from fsvfm_jax.errors import ConfigError, DataError, brief, nearest
from fsvfm_jax.grouping import open_groups
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.storage import write_text
from fsvfm_jax.known_videos import warn_of_known_videos
from fsvfm_jax.optim import make_schedule
from fsvfm_jax.report.class_formats import check_formats
from fsvfm_jax.report.published import MODELS
from fsvfm_jax.report.results import OF_RUN, set_line, set_row, write_results
from fsvfm_jax.report.rows import Row, mean_rows, oracle_error, video_threshold
from fsvfm_jax.report.scores import Scores, joined
from fsvfm_jax.report.write import file_stems
from fsvfm_jax.run import integrity

logger = logging.getLogger(__name__)

# The margins of all faces of a set, by the set's name.
Margins = Mapping[str, Float64[np.ndarray, " _N"]]


class Candidates(NamedTuple):
    """The checkpoints of a detector that an evaluation scores.

    Attributes:
        steps: The steps of the checkpoints that a selection chooses from, by selection; a step of
            None is for the weights of a folder or file.
        run_steps: Number of steps of the whole training run; None without a run.
        seed: Seed of the training run, or the seed in the config; None if it is not known.
        mode: The training run's `config.mode`; None without a run.
        trainable: Number of parameters that the run trains; None without a run.
    """

    steps: dict[str, list[int | None]]
    run_steps: int | None
    seed: int | None
    mode: str | None = None
    trainable: int | None = None

    def distinct(self) -> list[int | None]:
        """Returns every step once, in the order of the selections."""
        return list(dict.fromkeys(step for steps in self.steps.values() for step in steps))


class Sets(NamedTuple):
    """The sets of an evaluation, by name.

    Attributes:
        test: The sets to test on.
        val: The sets on which the threshold is chosen.
    """

    test: dict[str, DetectionSet]
    val: dict[str, DetectionSet]

    def all(self) -> dict[str, DetectionSet]:
        """Returns both kinds in one dict; no name occurs twice."""
        return {**self.val, **self.test}


def evaluate(config: ConfigDict, workdir: epath.Path, *, check_only: bool = False) -> None:
    """Scores every set with every checkpoint that the config selects, and writes the report.

    Args:
        config: The resolved config of an evaluation.
        workdir: The folder for the report.
        check_only: Whether to return after listing the sets and reading the detector.

    Raises:
        UserError: The evaluation is not possible with the config, the detector or a set.
    """
    _check_compare(config.compare)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, accum_steps=1, mesh=mesh)
    candidates = choose_checkpoints(config)
    steps = candidates.distinct()
    detector = load_detector(Path(config.init.params), config, step=steps[0])
    _check_select(config)
    distributed.check_same(repr(candidates.steps), what="checkpoints in config.init.params")
    sets = _open(config, image_size=detector.model.image_size)
    distributed.check_same(fingerprints_of(sets.all()), what="lists of faces")
    _check_can_be_judged(sets, config)
    warn_of_known_videos(
        Path(config.init.params),
        sets.test.values(),
        thresholds=sets.val.values(),
        image_size=detector.model.image_size,
    )
    groups = open_groups(config, sets.test)
    formats = check_formats(sets.test) if jax.process_index() == 0 else {}
    if check_only:
        logger.info("check: read the detector and the lists; nothing was scored or written")
        return

    margins = score_all(detector, sets.all(), steps, config=config, mesh=mesh)
    rows, scores = make_rows(margins, sets, candidates, config=config)
    if jax.process_index() == 0:
        write_results(
            workdir,
            rows,
            scores,
            report=config.report,
            protocol=_protocol(config, sets.all()),
            formats=formats,
            groups=groups,
            drawn=len(sets.test),
        )
        write_text(workdir / "evaluation.json", to_json(config))
        logger.info("done: %s", workdir / "table.md")


def choose_checkpoints(config: ConfigDict) -> Candidates:
    """Returns the checkpoints that each selection of the config chooses from.

    Args:
        config: The resolved config of an evaluation: `init`, `select`.

    Raises:
        DataError: There is no detector, or the run has no checkpoints.
        ConfigError: The run has no validated checkpoint, and "validation" is selected.
    """
    path = Path(config.init.params)
    if not path.exists():
        raise DataError(f"config.init.params = {str(path)!r} does not exist: give another path")
    if not is_run(path):
        return Candidates({name: [None] for name in config.select}, None, config.init.seed)
    run = run_config(path)
    if run.task != "finetune":
        raise DataError(f"{path} {NO_DETECTOR}")
    directory = epath.Path(path) / "checkpoints"
    scores = {
        step: integrity.score(directory / str(step))
        for step in integrity.steps(directory)
        if (directory / str(step) / integrity.STEP_MANIFEST).exists()
    }
    if not scores:
        raise DataError(f"{path} has no checkpoint yet")
    finite = {step: score for step, score in scores.items() if np.isfinite(score)}
    # Without validation sets the scores of checkpoints are training losses.
    if "validation" in config.select and not (finite and run.data.get("val")):
        raise ConfigError(
            f"{path} has no validated checkpoint (config.data.val): drop 'validation' of"
            f" config.select = {tuple(config.select)!r}"
        )
    newest, run_steps = max(scores), make_schedule(run, run_data(path)["images"]).total_steps
    if newest < run_steps:
        logger.warning("the run has not ended: step %d of %d", newest, run_steps)
    choices = {
        "validation": [min(finite, key=lambda step: (finite[step], step))] if finite else [],
        "last": [newest],
        "test-oracle": sorted(scores),
        "given": [newest if config.init.step is None else config.init.step],
    }
    steps = {name: choices[name] for name in config.select}
    return Candidates(steps, run_steps, run.seed, run.mode, finetune.count_trained(run))


def score_all(
    detector: LoadedDetector,
    sets: Mapping[str, DetectionSet],
    steps: Sequence[int | None],
    *,
    config: ConfigDict,
    mesh: Mesh,
) -> dict[int | None, Margins]:
    """Scores all sets with every checkpoint, and returns the margins by the checkpoint's step.

    Args:
        detector: The detector of the first step; this function loads the others.
        sets: The sets by name.
        steps: The steps of the checkpoints, without repetition.
        config: The resolved config of an evaluation: `init`, `data`, `batch_size`, `dtype`.
        mesh: The mesh over all devices.

    Raises:
        UserError: A checkpoint cannot be loaded, or its output is not finite.
    """
    predict = scoring.make_predict(detector.model, stats=detector.stats, mesh=mesh)
    feed = scoring.feed_of(config, detector.model, mesh)
    margins: dict[int | None, Margins] = {}
    for step in steps:
        if step != steps[0]:
            detector = load_detector(Path(config.init.params), config, step=step)
        if step is not None:
            logger.info("checkpoint %d", step)
        params = sharding.replicate(detector.params, mesh)
        margins[step] = {
            name: scoring.score_set(predict, params, faces, feed=feed, name=name)
            for name, faces in sets.items()
        }
    return margins


def make_rows(
    margins: Mapping[int | None, Margins],
    sets: Sets,
    candidates: Candidates,
    *,
    config: ConfigDict,
) -> tuple[list[Row], list[Scores]]:
    """Returns a row for every selection and test set, and the scores behind each of these rows.

    If there are several test sets, rows with the means over the sets follow.

    Args:
        margins: The margins by step and set.
        sets: The sets.
        candidates: The checkpoints that each selection chooses from.
        config: The resolved config of an evaluation: `report`, `compare`.
    """
    rows, scores, spoof = [], [], config.report == "spoof"
    compared = config.compare or None
    for selection, steps in candidates.steps.items():
        for name, faces in sets.test.items():
            found = {
                step: scoring.to_scores(margins[step][name], faces, dataset=name) for step in steps
            }
            # Only the chosen checkpoint has a row: its intervals take far longer than the choice.
            chosen = min(steps, key=lambda step: oracle_error(found[step], spoof=spoof))
            row = set_row(
                config.report,
                found[chosen],
                thresholds=_thresholds(margins[chosen], sets.val) if spoof else {},
                selection=selection,
                step=chosen,
                seed=candidates.seed,
                candidates=len(steps),
                of_run={name: getattr(candidates, name) for name in OF_RUN},
                model=compared,
                alone=len(sets.test) == 1,
            )
            rows.append(row)
            scores.append(found[chosen]._replace(dataset=f"{name} {selection}"))
    if len(sets.test) > 1:
        rows += mean_rows(rows, model=compared)
    return rows, scores


def _check_compare(model: str) -> None:
    """Raises ConfigError unless the papers publish figures of the model; '' compares with none."""
    if model and model not in MODELS:
        raise ConfigError(f"config.compare = {brief(model)} is unknown; {nearest(model, MODELS)}")


def _check_select(config: ConfigDict) -> None:
    """Raises ConfigError if `select` chooses among checkpoints although the path is not a run."""
    path = Path(config.init.params)
    if not is_run(path) and tuple(config.select) != ("given",):
        raise ConfigError(
            f"config.select = {tuple(config.select)!r} chooses among a run's checkpoints, and"
            f" {path} is no run: use --config.select=\"('given',)\""
        )


def _open(config: ConfigDict, *, image_size: int) -> Sets:
    """Opens all sets of the config; rendered faces are `image_size` pixels wide and high."""
    data = config.data
    return Sets(
        *(
            open_sets(data[kind], data.paths, image_size=image_size, field=f"config.data.{kind}")
            for kind in Sets._fields
        )
    )


def _check_can_be_judged(sets: Sets, config: ConfigDict) -> None:
    """Raises errors before the scoring that the report would otherwise raise hours later."""
    if both := sets.val.keys() & sets.test.keys():
        raise ConfigError(
            f"config.data.val and config.data.test both have a set {', '.join(sorted(both))}: call"
            " one of them otherwise"
        )
    file_stems([f"{name} {selection}" for selection in config.select for name in sets.test])
    if config.report == "spoof" and sets.val:
        check_classes(sets.val, purpose="choosing a threshold", where=" (config.data.val)")
    if len(sets.test) == 1:  # With several sets, the row of a set shows such a problem.
        check_classes(sets.test, purpose="every metric", where=" (config.data.test)")


def _protocol(config: ConfigDict, sets: Mapping[str, DetectionSet]) -> list[str]:
    """Returns the facts that a reader needs to compare the numbers with other papers' numbers."""
    detector = markdown_text(config.init.params)
    lines = [f"Detector: {detector}; images: {config.data.view}, in {config.dtype}."]
    for name, one in {**config.data.val, **config.data.test}.items():
        options = {key: x for key, x in one.items() if key != "layout"}
        faces = sets[name]
        grouping = faces.faces.grouping if isinstance(faces, LabelledFaces) else ""
        lines.append(set_line(name, one.layout, options, grouping=grouping))
    return lines


def _thresholds(margins: Margins, sets: Mapping[str, DetectionSet]) -> dict[str, float]:
    """Returns the threshold that is chosen on all these sets together, as `spoof_row` takes it."""
    if not sets:
        return {}
    parts = [scoring.to_scores(margins[name], faces, dataset=name) for name, faces in sets.items()]
    return {"validation": video_threshold(joined(parts, dataset="validation"))}
