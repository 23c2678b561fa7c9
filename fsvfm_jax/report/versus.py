"""Compares the reports of two detectors on the same videos: `report compare --help`."""

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from etils import epath

from fsvfm_jax.errors import ConfigError, DataError, quoted
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.storage import check_folder, written
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.report.disagreements import Disagreement, disagreements, find_frame, list_csv, sheet
from fsvfm_jax.report.paired import (
    CAPTION,
    VERDICT_CAPTION,
    Pair,
    check_same,
    difference_rows,
    verdict_row,
    verdicts,
)
from fsvfm_jax.report.rows import Row, of_single_sets
from fsvfm_jax.report.scores import Scores, read_scores
from fsvfm_jax.report.table import plain
from fsvfm_jax.report.write import read_rows, scores_file, split_name, write_file, write_table

logger = logging.getLogger(__name__)

TABLE, VERDICTS, LIST, SHEET = "differences", "verdicts", "disagreements.csv", "disagreements.png"


class Report(NamedTuple):
    """The report of a detector.

    Attributes:
        name: Name of the detector.
        folder: The folder of the report.
        rows: The row of each set with both classes.
    """

    name: str
    folder: str
    rows: Mapping[str, Row]

    def scores(self, dataset: str) -> Scores:
        """Returns the scores of a set."""
        file = scores_file(dataset, self.rows[dataset]["selection"])
        return read_scores(os.path.join(self.folder, file), dataset=dataset)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the two reports and the other flags."""
    parser.add_argument(
        "reports",
        nargs=2,
        metavar="[NAME=]REPORT",
        help="folder of an evaluation or of `report scores`; NAME= before it names the detector",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the comparison")
    parser.add_argument(
        "--select",
        metavar="WAY",
        help="which rows, if a report has several ways to choose",
    )
    parser.add_argument(
        "--root", metavar="DIR", help="folder with the pictures, for a picture of the disagreements"
    )


def run(args: argparse.Namespace) -> None:
    """Writes the comparison of two reports.

    Args:
        args: The parsed flags of `add_arguments`.

    Raises:
        UserError: A report cannot be read, or the reports are not of the same faces.
    """
    check_folder(Path(args.output), flag=f"--output={args.output}")
    if args.root is not None and not os.path.isdir(args.root):
        raise DataError(f"--root={args.root} is no folder: name the folder with the pictures")
    named = zip(args.reports, "AB", strict=True)
    first, second = (open_report(text, name, select=args.select) for text, name in named)
    if first.name == second.name:
        raise ConfigError(f"both reports are called {first.name!r}: give NAME=REPORT")
    _check_selection(args.select, (first, second))
    for one in (first, second):
        if os.path.realpath(one.folder) == os.path.realpath(args.output):
            raise ConfigError(f"--output={args.output} is one of the reports: name another folder")
    names = (first.name, second.name)
    differences, decided, listed = [], [], []
    for dataset in _common(first, second):
        logger.info("comparing %s", dataset)
        pair = Pair(names, first.scores(dataset), second.scores(dataset))
        check_same(pair)
        differences += difference_rows(pair)
        found = verdicts(pair)
        decided.append(verdict_row(pair, found))
        listed += disagreements(pair, found)
    about = [f"{markdown_text(one.name)}: {markdown_text(one.folder)}." for one in (first, second)]
    about += _only_in_one(first, second)
    folder = epath.Path(args.output)
    _write(folder, names, differences, decided, listed, about=about, root=args.root)


def open_report(text: str, name: str, *, select: str | None) -> Report:
    """Reads the table of a report.

    Args:
        text: The folder, perhaps after a name and =.
        name: Name of the detector if the text has none.
        select: How the checkpoint was chosen, if the report has several rows of a set.

    Raises:
        DataError: There is no such table.
        ConfigError: The report has several rows of a set, and `select` is none of them.
    """
    given, folder = split_name(text)
    if os.path.basename(folder) == "table.json":
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise DataError(f"{folder} is no folder: name the folder of a report")
    rows = [row for row in of_single_sets(read_rows(f"{folder}/table.json")) if "note" not in row]
    ways = list(dict.fromkeys(row["selection"] for row in rows))
    if len(ways) > 1 and select not in ways:
        raise ConfigError(f"{folder} has rows of {quoted(ways)}: name one of them with --select")
    chosen = [row for row in rows if len(ways) == 1 or row["selection"] == select]
    return Report(given or name, folder, {row["dataset"]: row for row in chosen})


def _check_selection(select: str | None, reports: Sequence[Report]) -> None:
    """Raises ConfigError if the checkpoints of neither report are chosen as asked for."""
    ways = {row["selection"] for report in reports for row in report.rows.values()}
    if select is not None and select not in ways:
        raise ConfigError(
            f"--select={select} is in neither report; they have {quoted(sorted(ways))}"
        )


def _common(first: Report, second: Report) -> list[str]:
    """Returns the names of the sets of both reports."""
    common = [name for name in first.rows if name in second.rows]
    if not common:
        raise DataError(
            f"{first.folder} has {quoted(list(first.rows))}, and {second.folder} has"
            f" {quoted(list(second.rows))}: no set with both classes is in both; give the set the"
            " same name in both reports"
        )
    return common


def _only_in_one(first: Report, second: Report) -> list[str]:
    """Returns a sentence on the sets of each report that are not compared, and logs it."""
    sentences = []
    for one, other in ((first, second), (second, first)):
        if only := [name for name in one.rows if name not in other.rows]:
            logger.warning("%d sets are only in %s: %s", len(only), one.folder, quoted(only))
            sentences.append(f"{len(only)} sets are only in {one.name}: {quoted(only)}.")
    return [markdown_text(text) for text in sentences]


def _write(
    folder: epath.Path,
    names: tuple[str, str],
    differences: list[Row],
    decided: list[Row],
    listed: list[Disagreement],
    *,
    about: list[str],
    root: str | None,
) -> None:
    shown = dict(zip(("first", "second"), map(markdown_text, names), strict=True))
    text = "\n".join([CAPTION.format(**shown), "", *about])
    write_table(folder, TABLE, differences, caption=text)
    write_table(folder, VERDICTS, decided, caption="\n".join([VERDICT_CAPTION, "", *about]))
    write_file(folder, LIST, list_csv(names, listed))
    if root is not None and listed and not any(find_frame(one.file, root) for one in listed):
        logger.warning("--root=%s has none of the pictures, so none are drawn", root)
        root = None
    if root is not None and listed:
        write_file(folder, SHEET, sheet(names, listed, root=root))
    else:  # Of an earlier comparison.
        with written(folder / SHEET, mend="remove it, or choose another folder"):
            (folder / SHEET).unlink(missing_ok=True)
    print(f"\nIn percent; all files are in {printable(str(folder))}\n")
    print(plain(differences, also=("difference",)))
    print(f"\n{plain(decided)}")
