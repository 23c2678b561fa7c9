"""Makes the report of an evaluation from the scores of any detector: `report scores --help`."""

import argparse
import logging
import os
from pathlib import Path

from etils import epath

from fsvfm_jax.data.labelled.detection_sets import check_classes, log_faces
from fsvfm_jax.data.labelled.faces import FaceList, LabelledFaces
from fsvfm_jax.data.labelled.layouts import LAYOUTS
from fsvfm_jax.data.labelled.protocols import read_set
from fsvfm_jax.data.labelled.set_options import given, options_of
from fsvfm_jax.errors import ConfigError, DataError, nearest
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.storage import check_folder
from fsvfm_jax.report.class_formats import check_formats
from fsvfm_jax.report.given_scores import Matched, match_given, read_given
from fsvfm_jax.report.groups import Groups, first_names, match_groups, read_groups
from fsvfm_jax.report.published import MODELS
from fsvfm_jax.report.results import CAPTIONS, OF_RUN, set_line, set_row, write_results

logger = logging.getLogger(__name__)

SELECTION = "given"  # The user has chosen the checkpoint, so there is one row.
# The options of the layouts whose values are several words; the others are one text each.
SEVERAL = ("methods", "real", "fake")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the file of scores, and the flags that describe the set and the table."""
    parser.add_argument(
        "file", metavar="FILE", help="scores: CSV or Parquet with the columns path and p_fake"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the report")
    about = parser.add_argument_group("the set, as a config describes it (docs/transfer.md)")
    about.add_argument("--layout", required=True, choices=LAYOUTS, help="layout of the set")
    about.add_argument(
        "--root", required=True, metavar="DIR", help="folder of the set; paths are relative to it"
    )
    about.add_argument("--split", default="", help="split of the layout, such as test")
    about.add_argument("--name", help="name of the set in tables; by default the folder's name")
    about.add_argument(
        "--frames", type=int, default=0, help="frames of each video that count; 0: all"
    )
    about.add_argument("--real-frames", type=int, help="the same for real videos, if it differs")
    about.add_argument(
        "--labels", nargs="+", default=[], metavar="CLASS=LABEL", help="such as 0=fake 1=real"
    )
    about.add_argument(
        "--exclude", nargs="+", default=[], metavar="NAME", help="classes and folders to leave out"
    )
    for name in layout_options():
        several = {"nargs": "+"} if name in SEVERAL else {}
        of = ", ".join(layout for layout in LAYOUTS if name in options_of(layout))
        about.add_argument(f"--{name.replace('_', '-')}", **several, help=f"option of {of}")
    table = parser.add_argument_group("the table")
    table.add_argument(
        "--report", choices=CAPTIONS, default="detection", help="AUC, AP, EER; or HTER"
    )
    table.add_argument("--compare", default="", metavar="MODEL", help="model of the papers")
    table.add_argument("--seed", type=int, help="seed of the detector's training")
    table.add_argument("--groups", default="", metavar="CSV", help="file with a column path")
    table.add_argument("--group", default="", metavar="COLUMN", help="column of that file")
    table.add_argument(
        "--allow-missing", action="store_true", help="count faces without a score as skipped"
    )


def layout_options() -> list[str]:
    """Returns the names of the options that some layouts on disk have."""
    return list(dict.fromkeys(name for layout in LAYOUTS for name in options_of(layout)))


def run(args: argparse.Namespace) -> None:
    """Writes the report of the scores in a file.

    Args:
        args: The parsed flags of `add_arguments`.

    Raises:
        UserError: The set, the scores or the groups cannot be read or do not belong together.
    """
    _check(args)
    given_scores = read_given(args.file)
    faces = _open_set(args)
    name = faces.faces.name
    check_classes({name: faces}, purpose="every metric", where=f" (--root={args.root})")
    formats = check_formats({name: faces})
    groups = _open_groups(args, faces)
    matched = match_given(
        given_scores, faces, root=args.root, dataset=name, allow_missing=args.allow_missing
    )
    row = set_row(
        args.report,
        matched.scores,
        thresholds={},
        selection=SELECTION,
        step=None,
        seed=args.seed,
        candidates=1,
        of_run=dict.fromkeys(OF_RUN),
        model=args.compare or None,
        alone=True,
    )
    write_results(
        epath.Path(args.output),
        [row],
        [matched.scores._replace(dataset=f"{name} {SELECTION}")],
        report=args.report,
        protocol=_protocol(args, faces.faces, matched),
        formats=formats,
        groups=groups,
        drawn=1,
    )


def _check(args: argparse.Namespace) -> None:
    """Raises errors of the flags alone, before any file is read."""
    if args.compare and args.compare not in MODELS:
        raise ConfigError(f"--compare={args.compare} is unknown; {nearest(args.compare, MODELS)}")
    if bool(args.groups) != bool(args.group):
        raise ConfigError(f"give --groups and --group together: {args.groups!r}, {args.group!r}")
    for pair in args.labels:
        if "=" not in pair:
            raise ConfigError(f"--labels {pair!r}: give a class and its label, such as 0=fake")
    check_folder(Path(args.output), flag=f"--output={args.output}")
    if os.path.realpath(args.output) == os.path.realpath(args.root):
        raise ConfigError(f"--output={args.output} is the folder of the set: name another folder")


def _set_options(args: argparse.Namespace) -> dict[str, object]:
    """Returns the options of the set that are given, by the names that a config has for them."""
    options = {name: getattr(args, name) for name in ("frames", "real_frames", *layout_options())}
    labels = dict(pair.rsplit("=", 1) for pair in args.labels)
    return given(options | {"exclude": tuple(args.exclude)}) | (
        {"labels": labels} if labels else {}
    )


def _open_set(args: argparse.Namespace) -> LabelledFaces:
    if not os.path.isdir(args.root):
        raise DataError(f"--root={args.root} is no folder: name the folder of the set")
    faces = read_set(
        args.layout, args.root, split=args.split, name=args.name or "", **_set_options(args)
    )
    log_faces(faces)
    return LabelledFaces(faces)


def _open_groups(args: argparse.Namespace, faces: LabelledFaces) -> Groups | None:
    if not args.groups:
        return None
    root = os.path.join(args.root, "")
    files = [faces.name(index) for index in range(len(faces))]
    return match_groups(
        read_groups(args.groups, args.group),
        {file: file.removeprefix(root) for file in files},
        column=args.group,
        what=args.groups,
    )


def _protocol(args: argparse.Namespace, faces: FaceList, matched: Matched) -> list[str]:
    """Returns the lines of the caption on the scores and on the set."""
    options = _set_options(args) | {"split": args.split, "path": args.root}
    if "labels" in options:
        options["labels"] = tuple(options["labels"].items())
    lines = [
        f"Detector: scores in {markdown_text(args.file)}.",
        set_line(faces.name, args.layout, options, grouping=faces.grouping),
    ]
    if matched.unused:
        lines.append(
            f"{len(matched.unused):,} rows of the file name no face of the set:"
            f" {markdown_text(first_names(matched.unused))}."
        )
    return lines
