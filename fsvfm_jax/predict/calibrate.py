"""The verb `calibrate`: how far the scores of a detector can be trusted on labelled faces.

It writes `calibration.json` beside the model, from which `score` takes the temperature and the
thresholds, and a table and a picture for people.
"""

import argparse
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsvfm_jax.cli import check_output
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.predict import arguments, labelled, opening
from fsvfm_jax.predict.calibration import (
    CALIBRATION_FILE,
    MAX_TEXT,
    Calibration,
    calibrate,
    encode_calibration,
    joined_titles,
)
from fsvfm_jax.predict.decision import MAX_FPR
from fsvfm_jax.predict.labelled import Task
from fsvfm_jax.predict.points import OperatingPoint
from fsvfm_jax.report.figure import encode_picture, shown_name
from fsvfm_jax.report.groups import caption, group_rows
from fsvfm_jax.report.metrics import Interval, probability
from fsvfm_jax.report.reliability import BINS, ScoredFaces, held_out_probability
from fsvfm_jax.report.reliability_figure import Panel, reliability_picture
from fsvfm_jax.report.rows import Row
from fsvfm_jax.report.scores import encode_text
from fsvfm_jax.report.table import markdown
from fsvfm_jax.report.write import table_files

logger = logging.getLogger(__name__)

TABLE_FILE = "calibration.md"
PICTURE_FILE = "reliability.png"
GROUPS = "calibration_groups"
RESULTS = (CALIBRATION_FILE, TABLE_FILE, PICTURE_FILE, f"{GROUPS}.md", f"{GROUPS}.json")


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
    arguments.check_network(args)
    folder = labelled.results_folder(args, RESULTS)
    task = labelled.open_task(args, labelled.open_labelled(args))
    sets, groups = task.labelled.sets, task.labelled.groups
    score = labelled.make_score(task)
    margins = {name: score(faces, name=name) for name, faces in sets.items()}
    faces = labelled.to_faces(task, margins)
    found = calibrate(faces, about=_about(task))
    score_name, model = task.detector.score_name, opening.model_name(args)
    text = describe(found, model=model, score_name=score_name)
    files = {
        TABLE_FILE: encode_text(text),
        PICTURE_FILE: _picture(faces, found, score_name=score_name),
    }
    if groups is not None:
        scaled = {name: of_set / found.temperature for name, of_set in margins.items()}
        thresholds = {
            name: point.threshold
            for name, point in found.points.items()
            if point.threshold is not None
        }
        rows = group_rows(labelled.to_scores(task, scaled), groups, thresholds=thresholds)
        about = f"{_title(found, model)}\n{caption(groups)}"
        files |= table_files(GROUPS, rows, caption=about)
    # Other commands read this file alone, and therefore it is the last one to change.
    files[CALIBRATION_FILE] = encode_calibration(found)
    print(printable(text, keep="\n"))
    labelled.write_results(folder, files, names=RESULTS)
    check_output()


def _about(task: Task) -> dict[str, Any]:
    """Returns the fields of a `Calibration` that name the detector and the sets."""
    detector = task.detector
    return {
        "weights_sha256": detector.sha256,
        "step": detector.facts.get("step"),
        "view": detector.view,
        "face_detector": detector.facts.get("face_detector"),
        "crop_margin": detector.facts.get("crop_margin"),
        "sets": [title[:MAX_TEXT] for title in task.labelled.titles],
        "fingerprint": task.labelled.fingerprint(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _title(found: Calibration, model: str) -> str:
    """Returns the line that names detector, sets, date and numbers, in Markdown."""
    return (
        f"Calibration of {markdown_text(model)} on {markdown_text(found.measured_on)}:"
        f" {found.faces:,} faces."
    )


def describe(found: Calibration, *, model: str, score_name: str) -> str:
    """Returns the calibration as Markdown.

    Args:
        found: The calibration.
        model: Name of the detector.
        score_name: Name of its scores, such as "p_fake".
    """
    unit = f"{found.unit}s"
    temperature = f"Temperature: {found.temperature:.3f}."
    if found.temperature_note:
        temperature = f"Temperature: 1; {found.temperature_note}."
    lines = [
        _title(found, model),
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
        " fake. FPR and TPR were measured on the set that chose the threshold, so on new faces they"
        " are likely worse. Brackets contain 95 % intervals: of FPR and TPR Wilson's at this"
        " threshold, of the others by bootstrap over videos.",
        _default(found),
    ]
    rows = [_row(name, point) for name, point in found.points.items()]
    return markdown(rows, "\n".join(lines))


def _default(found: Calibration) -> str:
    """Returns the sentence that names the threshold which `score` takes by default."""
    name = found.default_point
    point = found.points[name]
    text = f"`score` takes {name} unless --threshold names another."
    if point.fpr is None or point.fpr <= MAX_FPR:
        return text
    return (
        f"{text} This threshold has many false alarms: about {100 * point.fpr:.2g} of 100 real"
        f" {found.unit}s are taken for fake. A stricter threshold needs more real ones here."
    )


def _row(name: str, point: OperatingPoint) -> Row:
    if point.threshold is None:
        return {"point": name, "note": f"not determined: {point.note}"}
    row = {"point": name} | asdict(point)
    if point.tpr_interval is None:  # A file from elsewhere may have the threshold alone.
        return row
    low, high = point.tpr_interval
    return row | {"note": f"the interval of the TPR is {100 * (high - low):.1f} points wide"}


def _rate(value: float, interval: Interval | tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * value:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


def _picture(faces: ScoredFaces, found: Calibration, *, score_name: str) -> bytes:
    """Returns the reliability picture before and after the temperature as PNG."""
    panels = {
        "before (T = 1)": Panel(probability(faces.margins), faces.fake),
        "after (T from the other half)": Panel(held_out_probability(faces), faces.fake),
    }
    sets = shown_name(joined_titles(found.sets), most=60)
    title = f"Reliability of {score_name} on {sets}, {found.faces:,} faces"
    figure = reliability_picture(panels, title=title, score_name=score_name)
    return encode_picture(figure)
