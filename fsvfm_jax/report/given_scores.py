"""Reads the scores of any detector, from CSV or Parquet, and matches them to the faces of a set.

The file has the columns `path` and `p_fake`, and any others. It may come from anyone: it is opened
only as a plain file of limited size, and its values are checked.
"""

import csv
import io
import logging
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from fsvfm_jax.data.labelled.faces import LabelledFaces
from fsvfm_jax.errors import DataError, in_one_line, quoted, reason_of, shortened
from fsvfm_jax.host.plain_files import open_plain, read_plain
from fsvfm_jax.report.groups import PATH, column_place, first_names
from fsvfm_jax.report.scores import Scores, scores_of

P_FAKE = "p_fake"
PARQUET = ".parquet"
MAX_BYTES = 2**28  # 2,000,000 rows of 128 bytes
MAX_ROWS = 2_000_000  # `read_scores` reads back about 2,500,000
MAX_PATH = 4096  # characters, as in Linux
_ROWS_AT_ONCE = 4096

logger = logging.getLogger(__name__)


class GivenScores(NamedTuple):
    """The scores in a file.

    Attributes:
        file: The file, for messages.
        paths: Path of each face, as the file has it.
        p_fake: Probability of fake of each face; all are from 0 to 1.
    """

    file: str
    paths: Sequence[str]
    p_fake: Float64[np.ndarray, " N"]


class Matched(NamedTuple):
    """The scores of the faces of a set.

    Attributes:
        scores: The scores.
        unused: Paths of the rows that name no face of the set.
    """

    scores: Scores
    unused: Sequence[str]


def read_given(file: str) -> GivenScores:
    """Returns the paths and scores in a file; a name that ends in .parquet means Parquet.

    Args:
        file: CSV in UTF-8 with commas and a line of headings, or Parquet.

    Raises:
        DataError: The file cannot be read, is larger than MAX_BYTES, has over MAX_ROWS rows, lacks
            a column, or has a score that is not a number from 0 to 1.
    """
    is_parquet = file.lower().endswith(PARQUET)
    try:
        paths, values = _read_parquet(file) if is_parquet else _read_csv(file)
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({reason_of(error)}): name a CSV or Parquet file with the"
            f" columns {PATH} and {P_FAKE}"
        ) from error
    if not paths:
        raise DataError(f"{file} has no rows: write one for each face")
    numbers = np.array([_number(value) for value in values], np.float64)
    _refuse(
        file,
        paths,
        ~((numbers >= 0) & (numbers <= 1)),
        lambda row: f"scores are no numbers from 0 to 1, the first {values[row]!r} of",
        mend=f"{P_FAKE} is the probability of fake: apply a softmax or a sigmoid to logits",
    )
    return GivenScores(file, paths, numbers)


def match_given(
    given: GivenScores, faces: LabelledFaces, *, root: str, dataset: str, allow_missing: bool
) -> Matched:
    """Returns the scores of the faces of a set, in the set's order.

    Args:
        given: The scores.
        faces: The set.
        root: The folder that the paths of the scores are relative to. An absolute path must be
            below this folder.
        dataset: Name of the set in tables.
        allow_missing: Whether faces without a score are left out and count as skipped.

    Raises:
        DataError: A path is not below the root or occurs twice, no path is that of a face, or a
            face has no score and `allow_missing` is not set.
    """
    row_by_path = _rows_by_path(given, root)
    top = os.path.abspath(root)
    files = (os.path.abspath(faces.name(index)) for index in range(len(faces)))
    paths = [os.path.relpath(file, top) for file in files]
    found = np.array([row_by_path.get(path, -1) for path in paths], np.int64)
    kept = np.flatnonzero(found >= 0)
    if not len(kept):
        raise DataError(
            f"{given.file} names none of the {len(paths):,} faces of {dataset}: its paths, such as"
            f" {quoted(given.paths[:1])}, must be relative to {root}, such as {quoted(paths[:1])}"
        )
    if missing := [path for path, row in zip(paths, found, strict=True) if row < 0]:
        text = (
            f"{given.file}: {len(missing):,} of {len(paths):,} faces of {dataset} have no score:"
            f" {first_names(missing)}"
        )
        if not allow_missing:
            raise DataError(f"{text}; score all faces, or leave these out with --allow-missing")
        logger.warning("%s; they are left out and counted as skipped", text)
    used = set(found[kept].tolist())
    unused = [path for row, path in enumerate(given.paths) if row not in used]
    if unused:
        logger.warning(
            "%s: %d of %d rows are not used: they name no face of %s, or a frame that --frames"
            " leaves out: %s",
            given.file,
            len(unused),
            len(given.paths),
            dataset,
            first_names(unused),
        )
    return Matched(scores_of(faces, kept, given.p_fake[found[kept]], dataset=dataset), unused)


def _rows_by_path(given: GivenScores, root: str) -> dict[str, int]:
    """Returns the row of each path relative to the root."""
    relative = [_relative(path, root) for path in given.paths]
    outside = [os.path.isabs(path) or path.split("/")[0] in (".", "..") for path in relative]
    _refuse(
        given.file,
        given.paths,
        np.array(outside, np.bool_),
        lambda row: "paths are not those of a file below the root, the first",
        mend=f"paths are relative to {root}",
    )
    row_by_path: dict[str, int] = {}
    again = [row_by_path.setdefault(path, row) != row for row, path in enumerate(relative)]
    _refuse(
        given.file,
        given.paths,
        np.array(again, np.bool_),
        lambda row: "rows have the path of an earlier row, the first",
        mend="a face has one score",
    )
    return row_by_path


def _relative(path: str, root: str) -> str:
    """Returns a path relative to the root, in its shortest form; an absolute one may name it.

    A path with backslashes only is one of Windows.
    """
    if "/" not in path:
        path = path.replace("\\", "/")
    if os.path.isabs(path):
        path = path.removeprefix(os.path.join(os.path.abspath(root), ""))
    return os.path.normpath(path)


def _refuse(
    file: str, paths: Sequence[str], wrong: Bool[np.ndarray, " N"], what: Any, *, mend: str
) -> None:
    """Raises DataError if a row is wrong; the message counts such rows and names the first."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        first = int(rows[0])
        raise DataError(
            f"{file}: {len(rows):,} of {len(wrong):,} {what(first)} {shortened(repr(paths[first]))}"
            f" (row {first + 1:,}); {mend}"
        )


def _number(value: Any) -> float:
    """Returns a number, or NaN for anything else, such as 1_000 and digits that are not ASCII."""
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        return np.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _read_csv(file: str) -> tuple[list[str], list[str]]:
    text = read_plain(file, max_bytes=MAX_BYTES).decode("utf-8-sig", "surrogateescape")
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    paths, values = [], []
    try:
        headings = next(lines, [])
        if not {PATH, P_FAKE} <= set(headings):
            shown = shortened(repr(",".join(headings)))
            raise DataError(
                f"{file} has no columns {PATH} and {P_FAKE} in its first line {shown}: write CSV in"
                f" UTF-8 with commas, or Parquet with a name that ends in {PARQUET}"
            )
        path_place, place = (column_place(file, headings, name) for name in (PATH, P_FAKE))
        for cells in lines:
            if not cells:  # an empty line
                continue
            if len(cells) != len(headings):
                raise ValueError(f"{len(cells)} values under {len(headings)} headings")
            _check_row(len(paths), cells[path_place])
            paths.append(cells[path_place])
            values.append(cells[place])
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file}, line {lines.line_num}: {error}; correct the line") from error
    return paths, values


def _read_parquet(file: str) -> tuple[list[str], list[Any]]:
    with open_plain(file, max_bytes=MAX_BYTES) as opened:
        try:
            return _parquet_columns(file, opened)
        except DataError:
            raise
        except Exception as error:  # Damaged bytes make the library raise almost anything.
            raise DataError(
                f"{file} cannot be read as Parquet ({in_one_line(error)[:300]}): write it again"
            ) from error


def _parquet_columns(file: str, opened: BinaryIO) -> tuple[list[str], list[Any]]:
    import pyarrow
    from pyarrow import compute, parquet

    # A short file can repeat a long path millions of times: as a dictionary it stays short.
    table = parquet.ParquetFile(opened, read_dictionary=[PATH])
    _check_schema(file, table)
    paths, values, characters = [], [], 0
    for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[PATH, P_FAKE]):
        different = batch[PATH].dictionary
        longest = compute.max(compute.binary_length(different.cast(pyarrow.large_string()))).as_py()
        if (longest or 0) > 4 * MAX_PATH:
            raise ValueError(f"a path has {longest:,} bytes, over {4 * MAX_PATH:,}")
        for path, value in zip(*(batch[name].to_pylist() for name in (PATH, P_FAKE)), strict=True):
            _check_row(len(paths), path)
            characters += len(path)
            if characters > MAX_BYTES:
                raise ValueError(f"all paths together have over {MAX_BYTES:,} characters")
            paths.append(path)
            values.append(value)
    return paths, values


def _check_schema(file: str, table: Any) -> None:
    """Raises DataError unless a Parquet file has both columns, of the right types, and fits."""
    from pyarrow import types

    schema, about = table.schema_arrow, table.metadata
    for name in (PATH, P_FAKE):
        column_place(file, schema.names, name)
    of_path, of_score = schema.field(PATH).type, schema.field(P_FAKE).type
    if types.is_dictionary(of_path):
        of_path = of_path.value_type
    if not (types.is_string(of_path) or types.is_large_string(of_path)):
        raise DataError(f"{file}: the column {PATH} is {of_path}: write text")
    if not (types.is_floating(of_score) or types.is_integer(of_score)):
        raise DataError(f"{file}: the column {P_FAKE} is {str(of_score)[:99]}: write numbers")
    stored = sum(about.row_group(place).total_byte_size for place in range(about.num_row_groups))
    if about.num_rows > MAX_ROWS or stored > 4 * MAX_BYTES:
        raise DataError(
            f"{file} has {about.num_rows:,} rows of {stored:,} bytes; {MAX_ROWS:,} rows and"
            f" {4 * MAX_BYTES:,} bytes are the most"
        )


def _check_row(rows: int, path: str | None) -> None:
    """Raises ValueError for a path that no file has, and for one row too many."""
    if not path:
        raise ValueError(f"row {rows + 1:,}: {PATH!r} is empty: name a file")
    if len(path) > MAX_PATH:
        raise ValueError(f"row {rows + 1:,}: a path has {len(path):,} characters, over {MAX_PATH}")
    if rows == MAX_ROWS:
        raise ValueError(f"there are over {MAX_ROWS:,} rows: give the rows of one set")
