"""Metrics of groups of a set, such as generators or devices, which a CSV file beside it names.

The file has a column `path` and any others. A path is relative to the root of the set and names a
face, its video, or a folder of faces; the most exact row counts.
"""

import csv
import io
import logging
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fsvfm_jax.data.labelled.videos import owners
from fsvfm_jax.errors import DataError, nearest, quoted, reason_of, short_list
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.plain_files import read_plain
from fsvfm_jax.report.bootstrap import bootstrap_interval
from fsvfm_jax.report.metrics import (
    VideoScores,
    auc,
    rates_at,
    video_means,
)
from fsvfm_jax.report.rows import BOOTSTRAP_SEED, Row
from fsvfm_jax.report.scores import Scores

PATH = "path"
WHOLE = "."  # the row of all faces that have no other
MAX_BYTES = 2**23
MAX_ROWS = 100_000
MAX_GROUPS = 50
MAX_NAME = 200  # characters of a group's name
MAX_SHOWN = 5  # faces without a row, or rows without a face, that are named

logger = logging.getLogger(__name__)

CAPTION = """\
In percent; fake is the positive class; brackets contain 95 % intervals: of AUC over videos
(bootstrap), of rates Wilson's. A video's score is the mean of its faces in the group. TPR is the
share of fake videos with a score of at least the threshold after @, FPR that of real ones. A group
of one class has no rate of the other; its AUC compares with all videos of the other class. The
group with the lowest AUC is first."""


class Groups(NamedTuple):
    """The groups of the faces of one or more sets.

    Attributes:
        column: Name of the column of the CSV file.
        by_file: The group of a face by the face's name in its set.
        without: Names of the faces that have no row in the file.
        unused: Paths of the rows that name no face.
    """

    column: str
    by_file: Mapping[str, str]
    without: tuple[str, ...]
    unused: tuple[str, ...] = ()


def read_groups(file: str, column: str) -> dict[str, str]:
    """Returns the value in a column of a CSV file by the value in the column `path`.

    Args:
        file: A file in UTF-8 with commas and a line of headings.
        column: Heading of the column.

    Raises:
        DataError: The file cannot be read, is larger than MAX_BYTES, is not of that form, has no
            such column, has over MAX_ROWS rows or MAX_GROUPS groups, or has a path twice. The
            message names the line.
    """
    try:
        text = read_plain(file, max_bytes=MAX_BYTES).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({reason_of(error)}): name a CSV file with a column {PATH!r}"
        ) from error
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        headings = next(lines, [])
        place, path_place = (column_place(file, headings, name) for name in (column, PATH))
        found: dict[str, str] = {}
        groups: set[str] = set()
        for values in lines:
            if not values:  # an empty line
                continue
            if len(values) != len(headings):
                raise ValueError(f"{len(values)} values under {len(headings)} headings")
            path, group = os.path.normpath(values[path_place]), values[place]
            if len(group) > MAX_NAME:
                raise ValueError(f"a group's name has {len(group):,} characters, over {MAX_NAME}")
            if not group.strip():
                raise ValueError(f"{column!r} is empty: name a group, or leave out the row")
            if not values[path_place]:
                raise ValueError(f"{PATH!r} is empty: name a file, a video or a folder")
            if path in found:
                raise ValueError(f"the path {path[:MAX_NAME]!r} occurs a second time")
            groups.add(group)
            if len(groups) > MAX_GROUPS:
                raise DataError(
                    f"{file} has over {MAX_GROUPS} different values in the column {column!r}: name"
                    " a column of groups"
                )
            if len(found) == MAX_ROWS:
                raise DataError(
                    f"{file} has over {MAX_ROWS:,} rows: name videos or folders instead of faces"
                )
            found[path] = group
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file}, line {lines.line_num}: {error}; correct the line") from error
    return found


def match_groups(
    table: Mapping[str, str], files: Mapping[str, str], *, column: str, what: str
) -> Groups:
    """Returns the group of each face, and logs faces without a row and rows without a face.

    Args:
        table: The result of `read_groups`.
        files: The path relative to the set's root, by the face's name.
        column: Name of the column, for messages.
        what: The CSV file, for messages.

    Raises:
        DataError: No face has a row.
    """
    by_file, without, used = {}, [], set()
    for name, path in files.items():
        path = os.path.normpath(path)
        row = next((one for one in (path, *owners(path), WHOLE) if one in table), None)
        if row is None:
            without.append(name)
        else:
            used.add(row)
            by_file[name] = table[row]
    if not by_file:
        first = next(iter(files.values()), "")
        raise DataError(
            f"{what} names none of the {len(files):,} faces: its paths, such as"
            f" {quoted(list(table)[:1])}, must be relative to the set's root, such as"
            f" {quoted([first])}"
        )
    if without:
        logger.warning(
            "%s: %d of %d faces have no row and are in no group: %s",
            what,
            len(without),
            len(files),
            first_names(without),
        )
    if unused := [path for path in table if path not in used]:
        logger.warning(
            "%s: %d of %d rows name no face of the set: %s",
            what,
            len(unused),
            len(table),
            first_names(unused),
        )
    return Groups(column, by_file, tuple(without), tuple(unused))


def group_rows(scores: Scores, groups: Groups, *, thresholds: Mapping[str, float]) -> list[Row]:
    """Returns a row of the table that `caption` describes for each group, the worst first.

    Args:
        scores: Scores of the faces.
        groups: Their groups.
        thresholds: Thresholds of p_fake by name.
    """
    of_face = np.array([groups.by_file.get(name, "") for name in scores.files.tolist()], np.str_)
    has_group = np.array([name in groups.by_file for name in scores.files.tolist()], bool)
    everything = video_means(scores.p_fake, scores.fake, scores.videos)
    rows = []
    for group in np.unique(of_face[has_group]).tolist():
        chosen = has_group & (of_face == group)
        columns = (scores.p_fake[chosen], scores.fake[chosen], scores.videos[chosen])
        row = {"group": group, "faces": int(chosen.sum())}
        rows.append(row | _measures(video_means(*columns), everything, thresholds))
    return sorted(rows, key=lambda row: (row["auc"] is None, row["auc"], row["group"]))


def caption(groups: Groups) -> str:
    """Returns the text above the table of groups, which names what the file leaves over."""
    text = f"Groups by {markdown_text(groups.column)}. {CAPTION}"
    for names, what in (
        (groups.without, "faces have no row and are in no group"),
        (groups.unused, "rows of the file name no face"),
    ):
        if names:
            shown = short_list([markdown_text(name[:MAX_NAME]) for name in names[:MAX_SHOWN]])
            more = f" and {len(names) - MAX_SHOWN:,} more" if len(names) > MAX_SHOWN else ""
            text += f"\n{len(names):,} {what}: {shown}{more}."
    return text


def column_place(file: str, headings: Sequence[str], name: str) -> int:
    """Returns the place of a column among the headings of a table.

    Args:
        file: Name of the file, for messages.
        headings: The headings.
        name: The heading of the column.

    Raises:
        DataError: There is no such column, or more than one.
    """
    count = list(headings).count(name)
    if count == 0:
        known = [heading[:MAX_NAME] for heading in headings]
        hint = nearest(name, known) if known else "the file is empty"
        raise DataError(f"{file} has no column {name!r} in its first line; {hint}")
    if count > 1:
        raise DataError(f"{file} has {count} columns {name!r} in its first line; rename one")
    return list(headings).index(name)


def first_names(names: Sequence[str]) -> str:
    """Returns the first names for a message, each of them cut."""
    return short_list([name[:MAX_NAME] for name in names], most=MAX_SHOWN)


def _measures(videos: VideoScores, everything: VideoScores, thresholds: Mapping[str, float]) -> Row:
    """Returns the numbers and metrics of a group's videos."""
    counts = {"real": int((~videos.positive).sum()), "fake": int(videos.positive.sum())}
    row: Row = dict(counts)
    compared = videos
    if missing := [label for label, count in counts.items() if not count]:
        others = everything.positive == (missing == ["fake"])
        compared = VideoScores(
            np.concatenate([videos.videos, everything.videos[others]]),
            np.concatenate([videos.scores, everything.scores[others]]),
            np.concatenate([videos.positive, everything.positive[others]]),
        )
        row["note"] = f"AUC against all {missing[0]} videos"
    both = 0 < compared.positive.sum() < len(compared.positive)
    row["auc"] = auc(compared.scores, compared.positive) if both else None
    if both:
        columns = (compared.scores, compared.positive, compared.videos)
        row["auc_interval"] = list(bootstrap_interval(auc, *columns, seed=BOOTSTRAP_SEED))
    for name, threshold in thresholds.items():
        rates = rates_at(videos.scores, videos.positive, threshold)
        row |= {f"{key}@{name}": value for key, value in rates.items()}
    return row
