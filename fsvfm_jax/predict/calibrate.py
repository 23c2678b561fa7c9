"""The verb `calibrate`: how far the scores of a detector can be trusted on labelled faces.

It writes `calibration.json` beside the model, from which `score` takes the temperature and the
thresholds, and a table and a picture for people.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from etils import epath

from fsvfm_jax.cli import check_output
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.predict import labelled
from fsvfm_jax.predict.calibration import (
    CALIBRATION_FILE,
    Calibration,
    OperatingPoint,
    calibrate,
    write_calibration,
)
from fsvfm_jax.report.figure import encode_picture
from fsvfm_jax.report.groups import caption, group_rows
from fsvfm_jax.report.metrics import Interval, probability
from fsvfm_jax.report.reliability import BINS, ScoredFaces, held_out_probability
from fsvfm_jax.report.reliability_figure import Panel, reliability_picture
from fsvfm_jax.report.scores import encode_text
from fsvfm_jax.report.write import write_file, write_table

logger = logging.getLogger(__name__)

TABLE_FILE = "calibration.md"
PICTURE_FILE = "reliability.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    labelled.add_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"folder for {CALIBRATION_FILE}, {TABLE_FILE} and {PICTURE_FILE}; default: the model's"
        " folder",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        UserError: The model or a set cannot be read, a class is missing, or the output cannot be
            written.
    """
    folder = labelled.output_folder(args)
    task = labelled.open_task(args)
    margins = {name: labelled.score(task, faces, name=name) for name, faces in task.sets.items()}
    faces = labelled.to_faces(task, margins)
    detector = task.detector
    found = calibrate(
        faces, weights_sha256=detector.sha256, sets=list(task.sets), view=detector.view
    )
    write_calibration(folder, found)
    lines = describe(found, model=args.model, score_name=detector.score_name)
    output = epath.Path(folder)
    write_file(output, TABLE_FILE, encode_text("\n".join(lines) + "\n"))
    write_file(output, PICTURE_FILE, _picture(faces, found, score_name=detector.score_name))
    if task.groups is not None:
        scaled = {name: of_set / found.temperature for name, of_set in margins.items()}
        thresholds = {
            name: point.threshold
            for name, point in found.points.items()
            if point.threshold is not None
        }
        rows = group_rows(labelled.to_scores(task, scaled), task.groups, thresholds=thresholds)
        write_table(folder, "calibration_groups", rows, caption=caption(task.groups))
    print(printable("\n".join(lines), keep="\n"))
    print(f"\nwritten: {printable(str(folder / CALIBRATION_FILE))}, {TABLE_FILE}, {PICTURE_FILE}")
    check_output()


def describe(found: Calibration, *, model: str, score_name: str) -> list[str]:
    """Returns the calibration as lines of Markdown.

    Args:
        found: The calibration.
        model: Name of the detector.
        score_name: Name of its scores, such as "p_fake".
    """
    unit = f"{found.unit}s"
    temperature = f"Temperature: {found.temperature:.3f}."
    if found.temperature_note:
        temperature = f"Temperature: 1, because {found.temperature_note}."
    return [
        f"Calibration of {markdown_text(model)} on {markdown_text(', '.join(found.sets))}:"
        f" {found.real:,} real and {found.fake:,} fake {unit}, {found.faces:,} faces.",
        "",
        f"{temperature} {score_name} of a face is 1 / (1 + exp(-margin / temperature)); a video's"
        " score is the mean of its faces.",
        f"Expected calibration error of faces ({BINS} bins of equal width):"
        f" {_rate(found.error_before, found.error_before_interval)} before,"
        f" {_rate(found.error_after, found.error_after_interval)} after (each half of the {unit}"
        " with the temperature of the other half). It holds for this share of fake faces.",
        f"EER: {_rate(found.equal_error_rate, found.equal_error_rate_interval)}.",
        "",
        f"Operating points over {unit}, in percent: a score of at least the threshold is taken for"
        " fake. Brackets contain 95 % intervals: of FPR and TPR Wilson's at this threshold, of the"
        " others by bootstrap over videos.",
        "",
        *_table(
            [
                ("name", "threshold", "FPR", "TPR", "width of the TPR interval", "note"),
                *(_cells(name, point) for name, point in found.points.items()),
            ]
        ),
    ]


def _cells(name: str, point: OperatingPoint) -> Sequence[str]:
    if point.threshold is None:
        return name, "not determined", "", "", "", point.note
    low, high = point.tpr_interval
    rates = (_rate(point.fpr, point.fpr_interval), _rate(point.tpr, point.tpr_interval))
    return name, f"{point.threshold:.6f}", *rates, f"{100 * (high - low):.1f} points", ""


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns rows, the first of them headings, as aligned lines of a table in Markdown."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return [
        f"| {' | '.join(x.ljust(width) for x, width in zip(row, widths, strict=True))} |"
        for row in rows
    ]


def _rate(value: float, interval: Interval | tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * value:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def _picture(faces: ScoredFaces, found: Calibration, *, score_name: str) -> bytes:
    """Returns the reliability picture before and after the temperature as PNG."""
    panels = {
        "before (T = 1)": Panel(probability(faces.margins), faces.fake),
        f"after (T = {found.temperature:.2f}, from the other half)": Panel(
            held_out_probability(faces), faces.fake
        ),
    }
    sets = ", ".join(found.sets)
    title = f"Reliability of {score_name} on {printable(sets)[:60]}, {np.size(faces.fake):,} faces"
    figure = reliability_picture(panels, title=title.replace("$", r"\$"), score_name=score_name)
    return encode_picture(figure)
