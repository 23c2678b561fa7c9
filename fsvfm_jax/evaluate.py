"""The evaluation task: one detector, many test sets; scores, and a table that says how it was made.

Of a training run, the checkpoint can be chosen in several ways, and each has rows of its own:
"validation" takes the one with the lowest validation loss, "last" the last, and "test-oracle" for
every test set the one that is best on that very set, as many papers do, and as nobody can who does
not know the answers.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float64
from ml_collections import ConfigDict

from fsvfm_jax import scoring
from fsvfm_jax.config.resolve import to_json
from fsvfm_jax.convert.runs import is_run, run_config, run_data
from fsvfm_jax.data.labelled.detection_sets import (
    DetectionSet,
    check_classes,
    open_sets,
    told_of,
    warn_of_common_videos,
)
from fsvfm_jax.data.labelled.faces import LabelledFaces
from fsvfm_jax.devices import distributed, sharding
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.storage import write_text
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.optim import make_schedule
from fsvfm_jax.report.rows import (
    DETECTION_CAPTION,
    SPOOF_CAPTION,
    Row,
    detection_row,
    mean_rows,
    oracle_error,
    spoof_row,
    video_threshold,
)
from fsvfm_jax.report.scores import Scores
from fsvfm_jax.report.table import plain
from fsvfm_jax.report.write import file_stems, write_report
from fsvfm_jax.run import integrity
from fsvfm_jax.scoring import NO_DETECTOR, LoadedDetector, load_detector

logger = logging.getLogger(__name__)

Margins = Float64[np.ndarray, " _N"]


def evaluate(config: ConfigDict, workdir: epath.Path, *, check_only: bool = False) -> None:
    """Scores every set with every checkpoint that is asked for, and writes the report.

    Args:
        config: Resolved.
        workdir: Where the report goes.
        check_only: Stop once the sets are listed and the detector is read.

    Raises:
        UserError: Of its kinds, each with one sentence.
    """
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.batch_size, accum_steps=1, mesh=mesh)
    path = Path(config.init.params)
    steps, detector = _open_detector(path, config)
    distributed.check_same(repr(steps), what="checkpoints in config.init.params")
    first = next(iter(steps.values()))[0]
    size = detector.model.image_size
    tests, thresholds = (
        open_sets(
            config.data[kind], config.data.paths, image_size=size, field=f"config.data.{kind}"
        )
        for kind in ("test", "val")
    )
    distributed.check_same(told_of({**thresholds, **tests}), what="lists of faces")
    _refuse_what_cannot_be_judged(tests, thresholds, list(steps), report_kind=config.report)
    _warn_of_known_videos(path, tests.values(), thresholds.values(), image_size=size)
    if check_only:
        logger.info("check: read the detector and the lists; nothing was scored or written")
        return

    predict = scoring.make_predict(detector.model, stats=detector.stats, mesh=mesh)
    margins = {}
    for step in dict.fromkeys(step for of_one in steps.values() for step in of_one):
        if step != first:
            detector = load_detector(path, config, step=step)
        if step is not None:
            logger.info("checkpoint %d", step)
        margins[step] = _score(predict, detector, config, {**thresholds, **tests}, mesh)
    rows, scores, spoof = [], [], config.report == "spoof"
    run_steps, seed = (_run_steps(path), run_config(path).seed) if is_run(path) else (None, None)
    row_of = partial(_row, config=config, seed=seed if seed is not None else config.init.seed)
    for selection, candidates in steps.items():
        for name, faces in tests.items():
            found = {
                step: scoring.to_scores(margins[step][name], faces, dataset=name)
                for step in candidates
            }
            # Only the chosen one gets a row: its intervals take far longer than the choice.
            errors = {step: oracle_error(found[step], spoof=spoof) for step in candidates}
            step = min(candidates, key=errors.__getitem__)
            row = row_of(found[step], thresholds, margins[step], selection=selection, step=step)
            rows.append({**row, "candidates": len(candidates), "run_steps": run_steps})
            scores.append(found[step]._replace(dataset=_scores_name(name, selection)))
    if len(tests) > 1:
        rows += mean_rows(rows, model=config.compare or None)
    if jax.process_index() == 0:
        caption = SPOOF_CAPTION if spoof else DETECTION_CAPTION
        caption = f"{caption}\n\n{_protocol(config, {**thresholds, **tests})}"
        write_report(workdir, rows, scores, caption=caption, drawn=len(tests))
        write_text(workdir / "evaluation.json", to_json(config))
        table = workdir / "table.md"
        print(f"\nIn percent; all columns are in {printable(str(table))}\n")
        print(plain(rows))
        logger.info("done: %s", table)


def _open_detector(
    path: Path, config: ConfigDict
) -> tuple[dict[str, list[int | None]], LoadedDetector]:
    """The candidate checkpoints for each selection, and the detector of the first of them.

    Raises:
        UserError: In this order: there is nothing, it is no detector, it cannot be chosen from.
    """
    if not path.exists():
        raise DataError(f"config.init.params = {str(path)!r} does not exist: give another path")
    if is_run(path):
        if run_config(path).task != "finetune":
            raise DataError(f"{path} {NO_DETECTOR}")
        steps = _steps(path, config)
        return steps, load_detector(path, config, step=next(iter(steps.values()))[0])
    detector = load_detector(path, config, step=None)
    if tuple(config.select) != ("given",):
        raise ConfigError(
            f"config.select = {tuple(config.select)!r} chooses among a run's checkpoints, and"
            f" {path} is no run: use --config.select=\"('given',)\""
        )
    return {"given": [None]}, detector


def _steps(path: Path, config: ConfigDict) -> dict[str, list[int | None]]:
    """The checkpoints of a run that each way of choosing has to choose from."""
    directory = epath.Path(path) / "checkpoints"
    scores = {
        step: integrity.score(directory / str(step))
        for step in integrity.steps(directory)
        if (directory / str(step) / integrity.MANIFEST_FILE).exists()
    }
    if not scores:
        raise DataError(f"{path} has no checkpoint yet")
    finite = {step: score for step, score in scores.items() if np.isfinite(score)}
    validated = run_config(path).data.get("val")
    # Without validation sets the scores are training losses.
    if "validation" in config.select and not (finite and validated):
        raise ConfigError(
            f"{path} has no validated checkpoint (config.data.val): drop 'validation' of"
            f" config.select = {tuple(config.select)!r}"
        )
    newest, run_steps = max(scores), _run_steps(path)
    if newest < run_steps:
        logger.warning("the run has not ended: step %d of %d", newest, run_steps)
    given = newest if config.init.step is None else config.init.step
    choices = {
        "validation": [min(finite, key=lambda step: (finite[step], step))] if finite else [],
        "last": [newest],
        "test-oracle": sorted(scores),
        "given": [given],
    }
    return {selection: choices[selection] for selection in config.select}


def _refuse_what_cannot_be_judged(
    tests: Mapping[str, DetectionSet],
    thresholds: Mapping[str, DetectionSet],
    selections: Sequence[str],
    *,
    report_kind: str,
) -> None:
    """Raises at once what would else be raised after hours of scoring."""
    if both := thresholds.keys() & tests.keys():
        raise ConfigError(
            f"config.data.val and config.data.test both have a set {', '.join(sorted(both))}: call"
            " one of them otherwise"
        )
    file_stems([_scores_name(name, selection) for selection in selections for name in tests])
    if report_kind == "spoof" and thresholds:
        check_classes(thresholds, purpose="choosing a threshold", where=" (config.data.val)")
    if len(tests) == 1:  # Of several, one that cannot be judged has a row that says so.
        check_classes(tests, purpose="every metric", where=" (config.data.test)")


def _protocol(config: ConfigDict, sets: Mapping[str, DetectionSet]) -> str:
    """What a reader must know to compare the numbers with others."""
    detector = markdown_text(config.init.params)
    lines = [f"Detector: {detector}; images: {config.data.view}, in {config.dtype}."]
    for name, one in {**config.data.val, **config.data.test}.items():
        options = {
            k: x for k, x in sorted(one.items()) if x not in ("", None, ()) and k != "layout"
        }
        if options.get("frames") == 0:
            options["frames"] = "all"
        told = ", ".join(f"{key} {x}" for key, x in options.items())
        faces = sets[name]
        grouping = f"; {faces.faces.grouping}" if isinstance(faces, LabelledFaces) else ""
        lines.append(f"{markdown_text(name)}: {one.layout} {markdown_text(told + grouping)}.")
    return "\n".join(lines)


def _run_steps(run: Path) -> int:
    """How many steps it will have had when it ends."""
    return make_schedule(run_config(run), run_data(run)["images"]).total_steps


def _scores_name(dataset: str, selection: str) -> str:
    """What the files of a set's scores are called."""
    return f"{dataset} {selection}"


def _warn_of_known_videos(
    path: Path,
    tests: Iterable[DetectionSet],
    thresholds: Iterable[DetectionSet],
    *,
    image_size: int,
) -> None:
    """Logs which videos are measured on although something of the result hangs on them."""
    tests, thresholds = list(tests), list(thresholds)
    trained, chose = (_sets_of_run(path, kind, image_size=image_size) for kind in ("train", "val"))
    warn_of_common_videos(trained, [*thresholds, *tests], use="was trained on")
    warn_of_common_videos(chose, tests, use="chose the checkpoint")
    warn_of_common_videos(thresholds, tests, use="chooses the threshold")


def _sets_of_run(path: Path, kind: str, *, image_size: int) -> list[DetectionSet]:
    """The sets that a run was trained ("train") or validated on, if they are still to be found."""
    if not is_run(path):
        return []
    data = run_config(path).data
    try:
        sets = open_sets(
            data.get(kind, {}), data.paths, image_size=image_size, field=f"config.data.{kind}"
        )
        return list(sets.values())
    except (ConfigError, DataError) as error:
        logger.warning("whether the run knew the tests is not known: %s", error)
        return []


def _score(
    predict: scoring.Predict,
    detector: LoadedDetector,
    config: ConfigDict,
    sets: Mapping[str, DetectionSet],
    mesh: Mesh,
) -> dict[str, Margins]:
    """Of all sets by one checkpoint."""
    params = sharding.replicate(detector.params, mesh)
    return {
        name: scoring.score_set(
            predict,
            params,
            faces,
            name=name,
            image_size=detector.model.image_size,
            view=config.data.view,
            batch_size=config.batch_size,
            num_workers=config.data.num_workers,
            mesh=mesh,
        )
        for name, faces in sets.items()
    }


def _row(
    scores: Scores,
    thresholds: Mapping[str, DetectionSet],
    margins: Mapping[str, Margins],
    *,
    config: ConfigDict,
    selection: str,
    step: int | None,
    seed: int | None,
) -> Row:
    options = {
        "selection": selection,
        "step": step,
        "seed": seed,
        "model": config.compare or None,
        "alone": len(config.data.test) == 1,
    }
    if config.report == "detection":
        return detection_row(scores, **options)
    chosen = {}
    if thresholds:
        parts = [
            scoring.to_scores(margins[one], of_set, dataset=one)
            for one, of_set in thresholds.items()
        ]
        chosen["validation"] = video_threshold(_joined(parts))
    return spoof_row(scores, thresholds=chosen, **options)


def _joined(parts: Sequence[Scores]) -> Scores:
    """Several sets as one; the same name in two sets is not the same video."""
    return Scores(
        dataset="validation",
        files=np.concatenate([one.files for one in parts]),
        videos=np.concatenate([[f"{one.dataset}/{v}" for v in one.videos] for one in parts]),
        fake=np.concatenate([one.fake for one in parts]),
        p_fake=np.concatenate([one.p_fake for one in parts]),
        skipped=sum(one.skipped for one in parts),
    )
