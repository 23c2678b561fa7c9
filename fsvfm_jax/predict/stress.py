"""The verb `stress`: the same detector on labelled faces that are degraded, real and fake alike."""

import argparse
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from fsvfm_jax.cli import check_output
from fsvfm_jax.data.labelled.faces import spaced
from fsvfm_jax.data.labelled.set_options import RENDERED
from fsvfm_jax.data.sources import JoinedSets
from fsvfm_jax.errors import ConfigError, nearest
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.progress import progress
from fsvfm_jax.predict import arguments, labelled, opening
from fsvfm_jax.predict.degrade import CROP, KINDS, DegradedFaces, Kind, crop_kind
from fsvfm_jax.predict.labelled import LabelledSets, Task
from fsvfm_jax.predict.stress_threshold import (
    SAME_SET,
    Threshold,
    own_threshold,
    threshold_before_scoring,
)
from fsvfm_jax.predict.thresholds import check_calibration, number_of
from fsvfm_jax.prepare.crops import MARGIN
from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.report.bootstrap import bootstrap_interval
from fsvfm_jax.report.figure import encode_picture, shown_name
from fsvfm_jax.report.groups import Groups, group_rows
from fsvfm_jax.report.groups import caption as groups_caption
from fsvfm_jax.report.metrics import (
    auc,
    equal_error_rate,
    rates_at,
    video_means,
)
from fsvfm_jax.report.rows import BOOTSTRAP_SEED, Row
from fsvfm_jax.report.scores import Scores
from fsvfm_jax.report.stress_figure import stress_picture
from fsvfm_jax.report.table import plain
from fsvfm_jax.report.write import table_files

logger = logging.getLogger(__name__)

FRAMES = "frames"
FRAME_COUNTS = (32, 16, 8, 4, 2, 1)
FRAMES_TITLE = "frames per video"
NAMES = (*KINDS, CROP, FRAMES)
TABLE, GROUPS, PICTURE_FILE = "stress", "stress_groups", "stress.png"
TABLE_FILE, JSON_FILE = f"{TABLE}.md", f"{TABLE}.json"
RESULTS = (TABLE_FILE, JSON_FILE, PICTURE_FILE, f"{GROUPS}.md", f"{GROUPS}.json")
ONE_CLASS = (
    "both classes are degraded alike: with one class degraded, the codec or the noise separates"
    " the classes, and the result measures that instead of forgeries"
)
CAPTION = """\
In percent, over videos; fake is the positive class; brackets contain 95 % intervals: of AUC and EER
over videos (bootstrap), of TPR and FPR Wilson's at the fixed threshold. A degradation changes every
face of both classes before it is resized for the network."""


class Stressed(NamedTuple):
    """What was measured.

    Attributes:
        rows: The rows of the table. The first one is without a degradation.
        scores: The scores that each row is of.
        threshold: The threshold of TPR and FPR.
        titles: What each degradation of pixels is, with the unit of its strength, by its name.
    """

    rows: Sequence[Row]
    scores: Sequence[Scores]
    threshold: Threshold
    titles: Mapping[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    labelled.add_arguments(parser)
    parser.add_argument(
        "--kinds",
        type=lambda names: tuple(names.split(",")),
        metavar="KIND,KIND",
        help=f"degradations, of {', '.join(NAMES)}; default: all that the sets allow",
    )
    parser.add_argument(
        "--set-margin",
        type=float,
        metavar="PART",
        help="margin on each side of a face's box that the pictures of the set have, as a fraction"
        f" of the box, from which `crop` cuts; `prepare detect` keeps {MARGIN}",
    )
    parser.add_argument(
        "--classes",
        default="both",
        metavar="both",
        help=f"classes that are degraded; {ONE_CLASS}",
    )
    arguments.add_calibration(parser)
    arguments.add_threshold(
        parser, without="an operating point is that of the same sets without degradation"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the noise; default: 0"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help=f"folder for {TABLE_FILE}, {JSON_FILE} and {PICTURE_FILE}",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        UserError: The model or a set cannot be read, a degradation is not possible, or the output
            cannot be written.
    """
    if args.classes != "both":
        raise ConfigError(f"--classes={args.classes}: {ONE_CLASS}")
    arguments.check_network(args)
    check_calibration(args.calibration)
    if args.threshold is not None:
        number_of(args.threshold)
    labelled.results_folder(args, RESULTS)
    sets = labelled.open_labelled(args)
    kinds = choose_kinds(args.kinds, sets, set_margin=args.set_margin)
    check_frames(args.kinds, sets)
    task = labelled.open_task(args, sets)
    stored = opening.find_calibration(task.detector, args)
    threshold = threshold_before_scoring(
        args.threshold, task.labelled, stored=stored, score_name=task.detector.score_name
    )
    steps = [(kind.degrade, x) for kind in kinds.values() for x in kind.strengths]
    degraded = DegradedFaces(JoinedSets(list(task.labelled.sets.values())), steps, seed=args.seed)
    margins = labelled.make_score(task)(degraded, name=f"{1 + len(steps)} degradations")
    margins = margins.reshape(1 + len(steps), -1)
    if threshold is None:
        threshold = own_threshold(scores_of(task, margins[0], temperature=1.0), name=args.threshold)
    of_step = [scores_of(task, one, temperature=threshold.temperature) for one in margins]
    rows: list[Row] = [{"kind": "none", "strength": "stored"}]
    rows += [
        {"kind": name, "strength": f"{strength:g}"}
        for name, kind in kinds.items()
        for strength in kind.strengths
    ]
    if args.kinds is None or FRAMES in args.kinds:
        for count, scores in fewer_frames(of_step[0]).items():
            rows.append({"kind": FRAMES, "strength": str(count)})
            of_step.append(scores)
    both = progress(zip(rows, of_step, strict=True), total=len(rows), description="intervals")
    rows = [row | measure(scores, threshold.value) for row, scores in both]
    found = Stressed(rows, of_step, threshold, {name: x.title for name, x in kinds.items()})
    _write(args, task, found=found)


def choose_kinds(
    names: tuple[str, ...] | None, sets: LabelledSets, *, set_margin: float | None
) -> dict[str, Kind]:
    """Returns the degradations of pixels by name.

    Args:
        names: The names that the user asks for; None for all that are possible.
        sets: The sets.
        set_margin: Margin of the stored faces, as `--set-margin`.

    Raises:
        ConfigError: A name is unknown, a library is missing, or the sets have no margin to cut.
    """
    for name in names or ():
        if name not in NAMES:
            raise ConfigError(f"--kinds: there is no {name!r}; {nearest(name, NAMES)}")
    rendered = [name for name, one in sets.config.data.test.items() if one.layout == RENDERED]
    if set_margin is not None and not 0 < set_margin <= 10:
        raise ConfigError(f"--set-margin={set_margin:g} is no margin above 0, such as 0.3")
    if names is not None and CROP in names and (rendered or set_margin is None):
        reason = (
            f"{', '.join(rendered)} is rendered without a face's box"
            if rendered
            else "give --set-margin, the margin that its pictures have"
        )
        raise ConfigError(f"--kinds=crop needs a set with a margin to cut from: {reason}")
    kinds = {name: kind for name, kind in KINDS.items() if names is None or name in names}
    if "h264" in kinds:
        check_installed(("av",), extra="prepare")
    if set_margin is not None and not rendered and (names is None or CROP in names):
        kinds[CROP] = crop_kind(1 + 2 * set_margin)
        if not kinds[CROP].strengths:
            raise ConfigError(f"--set-margin={set_margin:g} leaves no smaller crop to cut")
    elif names is None:
        logger.info("crop is left out: --set-margin is not given, or a set is rendered")
    return kinds


def scores_of(
    task: Task, margins: Float64[np.ndarray, " N"], *, temperature: float | int
) -> Scores:
    """Returns the scores of all sets together from the margins of all faces."""
    sets = task.labelled.sets
    ends = np.cumsum([len(faces) for faces in sets.values()])[:-1]
    parts = np.split(margins / temperature, ends)
    return labelled.to_scores(task, dict(zip(sets, parts, strict=True)))


def fewer_frames(scores: Scores) -> dict[int, Scores]:
    """Returns the scores with fewer frames of each video, evenly spaced, by the largest number.

    Args:
        scores: The scores of all frames.
    """
    _, video, counts = np.unique(scores.videos, return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(video, kind="stable"), np.cumsum(counts)[:-1])
    found = {}
    for wanted in (count for count in FRAME_COUNTS if count < counts.max()):
        kept: Int64[np.ndarray, " M"] = np.sort(
            np.concatenate([of_one[spaced(len(of_one), wanted)] for of_one in rows])
        )
        columns = (scores.files, scores.videos, scores.fake, scores.p_fake)
        thinned = [column[kept] for column in columns]
        found[wanted] = Scores(scores.dataset, *thinned, scores.skipped)
    return found


def measure(scores: Scores, threshold: float | int | None) -> Row:
    """Returns AUC, EER, and at a threshold TPR and FPR over videos, with their intervals."""
    names, means, fake = video_means(scores.p_fake, scores.fake, scores.videos)
    row: Row = {}
    for key, metric in (("auc", auc), ("equal_error_rate", equal_error_rate)):
        row[key] = metric(means, fake)
        row[f"{key}_interval"] = bootstrap_interval(metric, means, fake, names, seed=BOOTSTRAP_SEED)
    return row if threshold is None else row | rates_at(means, fake, threshold)


def check_frames(names: tuple[str, ...] | None, sets: LabelledSets) -> None:
    """Checks that a video has several frames, if fewer frames are asked for.

    Args:
        names: The degradations that the user asks for; None for all that are possible.
        sets: The sets.

    Raises:
        ConfigError: Every video has one frame, and fewer are asked for.
    """
    if names is not None and FRAMES not in names:
        return
    if max(Counter(video for video, _ in sets.videos()).values()) == 1:
        if names is not None:
            raise ConfigError(f"--kinds={FRAMES}: every video of the set has one frame")
        logger.info("%s is left out: every video of the set has one frame", FRAMES)


def _write(args: argparse.Namespace, task: Task, *, found: Stressed) -> None:
    """Writes table, picture and groups, and prints the table."""
    rows, threshold = found.rows, found.threshold
    clean = found.scores[0]
    videos = video_means(clean.p_fake, clean.fake, clean.videos)
    fake = int(videos.positive.sum())
    sets = f"{len(videos.videos) - fake:,} real and {fake:,} fake videos of {clean.dataset}"
    titles = {**found.titles, FRAMES: FRAMES_TITLE}
    kinds = {row["kind"]: titles[row["kind"]] for row in rows[1:]}
    value = "not determined" if threshold.value is None else f"{threshold.value:.6f}"
    units = "; ".join(f"{name}: {title}" for name, title in kinds.items())
    model = opening.model_name(args)
    about = "\n".join(
        [
            f"Detector: {markdown_text(model)}, on {markdown_text(sets)},"
            f" {len(clean.files):,} faces; {clean.skipped} skipped. {datetime.now(UTC).date()}.",
            f"Threshold {threshold.name}: {value}, {markdown_text(threshold.origin)}.",
            *([f"{SAME_SET}."] if threshold.is_of_same_set else []),
        ]
    )
    notes = f"Strengths: {markdown_text(units)}. Seed of the noise: {args.seed}."
    files = table_files(TABLE, rows, caption=f"{CAPTION}\n{about}\n{notes}")
    by_kind = {title: [row for row in rows if row["kind"] == name] for name, title in kinds.items()}
    if by_kind:
        title = shown_name(f"{model} on {sets}", most=120)
        figure = stress_picture(rows[0], by_kind, title=title, threshold=threshold.name)
        files[PICTURE_FILE] = encode_picture(figure)
    if task.labelled.groups is not None:
        caption = f"{about}\n{groups_caption(task.labelled.groups)}"
        grouped = _grouped(found, task.labelled.groups)
        files |= table_files(GROUPS, grouped, caption=caption)
    print(plain(rows))
    print(f"\nIn percent; intervals are in {TABLE_FILE}")
    labelled.write_results(args.output, files, names=RESULTS)
    check_output()


def _grouped(found: Stressed, groups: Groups) -> list[Row]:
    """Returns the groups without a degradation and at the strongest one of each kind."""
    rows, threshold = found.rows, found.threshold
    last = {row["kind"]: place for place, row in enumerate(rows)}
    thresholds = {} if threshold.value is None else {threshold.name: threshold.value}
    places = progress(last.values(), total=len(last), description="groups")
    return [
        {"kind": rows[place]["kind"], "strength": rows[place]["strength"]} | of_group
        for place in places
        for of_group in group_rows(found.scores[place], groups, thresholds=thresholds)
    ]
