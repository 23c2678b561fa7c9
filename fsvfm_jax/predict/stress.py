"""The verb `stress`: the same detector on labelled faces that are degraded, real and fake alike."""

import argparse
import logging
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from etils import epath
from jaxtyping import Float64, Int64

from fsvfm_jax.cli import check_output
from fsvfm_jax.data.labelled.faces import spaced
from fsvfm_jax.data.labelled.set_options import RENDERED
from fsvfm_jax.data.sources import JoinedSets
from fsvfm_jax.errors import ConfigError, nearest
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.progress import progress
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.predict import arguments, labelled
from fsvfm_jax.predict.calibration import (
    calibration_of,
)
from fsvfm_jax.predict.degrade import CROP, KINDS, DegradedFaces, Kind, crop_kind
from fsvfm_jax.predict.labelled import LabelledSets, Task
from fsvfm_jax.predict.stress_threshold import Threshold, early_threshold, own_threshold
from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.report.figure import encode_picture, shown_name
from fsvfm_jax.report.groups import Groups, group_rows
from fsvfm_jax.report.groups import caption as groups_caption
from fsvfm_jax.report.metrics import (
    auc,
    bootstrap_interval,
    equal_error_rate,
    rates_at,
    video_means,
)
from fsvfm_jax.report.rows import BOOTSTRAP_SEED, Row
from fsvfm_jax.report.scores import Scores
from fsvfm_jax.report.stress_figure import stress_picture
from fsvfm_jax.report.table import plain
from fsvfm_jax.report.write import write_file, write_table

logger = logging.getLogger(__name__)

FRAMES = "frames"
FRAME_COUNTS = (32, 16, 8, 4, 2, 1)
FRAMES_TITLE = "frames per video"
NAMES = (*KINDS, CROP, FRAMES)
TABLE, GROUPS, PICTURE_FILE = "stress", "stress_groups", "stress.png"
RESULTS = (f"{TABLE}.md", f"{TABLE}.json", PICTURE_FILE, f"{GROUPS}.md", f"{GROUPS}.json")
ONE_CLASS = (
    "both classes are degraded alike: with one class degraded, the codec or the noise separates"
    " the classes, and the result measures that instead of forgeries"
)
CAPTION = """\
In percent, over videos; fake is the positive class; brackets contain 95 % intervals: of AUC and EER
over videos (bootstrap), of TPR and FPR Wilson's at the fixed threshold. A degradation changes every
face of both classes before it is resized for the network."""


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
        " of the box, from which `crop` cuts; `prepare detect` keeps 0.15",
    )
    parser.add_argument(
        "--classes",
        default="both",
        metavar="both",
        help=f"classes that are degraded; {ONE_CLASS}",
    )
    parser.add_argument(
        "--threshold",
        metavar="P",
        help="score from which a video is decided to be fake: a number, or an operating point of"
        " the calibration, or, without one, of the same sets without degradation; default: fpr_1,"
        " fpr_5 or eer, the first that the calibration determines; 0.5 without a calibration",
    )
    arguments.add_calibration(parser)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the noise; default: 0"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for stress.md, stress.json and stress.png",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        UserError: The model or a set cannot be read, a degradation is not possible, or the output
            cannot be written.
    """
    if args.classes != "both":
        raise ConfigError(f"--classes={args.classes}: {ONE_CLASS}")
    labelled.check_results(args.output, RESULTS, overwrite=args.overwrite)
    sets = labelled.open_labelled(args)
    kinds = choose_kinds(args.kinds, sets, set_margin=args.set_margin)
    check_frames(args.kinds, sets)
    task = labelled.open_task(args, sets)
    stored = calibration_of(
        task.detector, args.model, file=args.calibration, facts=task.detector.facts
    )
    score_name = task.detector.score_name
    threshold = early_threshold(args.threshold, sets, stored, score_name=score_name)
    steps = [(kind.degrade, x) for kind in kinds.values() for x in kind.strengths]
    degraded = DegradedFaces(JoinedSets(list(task.sets.values())), steps, seed=args.seed)
    margins = labelled.make_score(task)(degraded, name=f"{1 + len(steps)} degradations")
    margins = margins.reshape(1 + len(steps), -1)
    if threshold is None:
        threshold = own_threshold(scores_of(task, margins[0], 1.0), name=args.threshold)
    of_step = [scores_of(task, one, threshold.temperature) for one in margins]
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
    _write(args, task, rows, of_step, threshold, {name: x.title for name, x in kinds.items()})


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


def scores_of(task: Task, margins: Float64[np.ndarray, " N"], temperature: float | int) -> Scores:
    """Returns the scores of all sets together from the margins of all faces."""
    ends = np.cumsum([len(faces) for faces in task.sets.values()])[:-1]
    parts = np.split(margins / temperature, ends)
    return labelled.to_scores(task, dict(zip(task.sets, parts, strict=True)))


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
    if max(Counter(video for video, _ in sets.videos()).values()) == 1:
        if names is not None and FRAMES in names:
            raise ConfigError(f"--kinds={FRAMES}: every video of the set has one frame")
        logger.info("%s is left out: every video of the set has one frame", FRAMES)


def _write(
    args: argparse.Namespace,
    task: Task,
    rows: list[Row],
    of_step: list[Scores],
    threshold: Threshold,
    titles: Mapping[str, str],
) -> None:
    """Writes table, picture and groups, and prints the table."""
    clean = of_step[0]
    videos = video_means(clean.p_fake, clean.fake, clean.videos)
    fake = int(videos.positive.sum())
    sets = f"{len(videos.videos) - fake:,} real and {fake:,} fake videos of {clean.dataset}"
    kinds = titles | {FRAMES: FRAMES_TITLE}
    value = "not determined" if threshold.value is None else f"{threshold.value:.6f}"
    units = "; ".join(f"{name}: {title}" for name, title in kinds.items())
    about = "\n".join(
        [
            f"Detector: {markdown_text(args.model)}, on {markdown_text(sets)},"
            f" {len(clean.files):,} faces; {clean.skipped} skipped. {datetime.now(UTC).date()}.",
            f"Threshold {threshold.name}: {value}, {markdown_text(threshold.origin)}.",
        ]
    )
    notes = f"Strengths: {markdown_text(units)}. Seed of the noise: {args.seed}."
    labelled.remove_results(args.output, RESULTS)
    write_table(args.output, TABLE, rows, caption=f"{CAPTION}\n{about}\n{notes}")
    by_kind = {
        title: [row for row in rows if row["kind"] == name]
        for name, title in kinds.items()
        if any(row["kind"] == name for row in rows)
    }
    title = f"{Path(args.model).name} on {sets}"
    if by_kind:
        title = shown_name(title, most=120)
        figure = stress_picture(rows[0], by_kind, title=title, threshold=threshold.name)
        write_file(epath.Path(args.output), PICTURE_FILE, encode_picture(figure))
    if task.groups is not None:
        caption = f"{about}\n{groups_caption(task.groups)}"
        grouped = _grouped(rows, of_step, task.groups, threshold)
        write_table(args.output, GROUPS, grouped, caption=caption)
    print(plain(rows))
    print(f"\nIn percent; intervals: {printable(str(args.output / 'stress.md'))}")
    check_output()


def _grouped(
    rows: list[Row], of_step: list[Scores], groups: Groups, threshold: Threshold
) -> list[Row]:
    """Returns the groups without a degradation and at the strongest one of each kind."""
    last = {row["kind"]: place for place, row in enumerate(rows)}
    thresholds = {} if threshold.value is None else {threshold.name: threshold.value}
    places = progress(last.values(), total=len(last), description="groups")
    return [
        {"kind": rows[place]["kind"], "strength": rows[place]["strength"]} | of_group
        for place in places
        for of_group in group_rows(of_step[place], groups, thresholds=thresholds)
    ]
