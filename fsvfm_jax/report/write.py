"""Writes the files of a report: tables, scores and a picture."""

import json
import os
import re
from collections.abc import Sequence
from typing import TypedDict

from etils import epath

from fsvfm_jax.errors import DataError, reason_of
from fsvfm_jax.host.json_files import MAX_JSON_BYTES, parse_json
from fsvfm_jax.host.storage import (
    ELSEWHERE,
    make_own_folder,
    read_bytes,
    replace_bytes,
    written,
)
from fsvfm_jax.report.figure import encode_picture, picture
from fsvfm_jax.report.metrics import video_means
from fsvfm_jax.report.rows import Row
from fsvfm_jax.report.scores import Scores, encode_text, image_csv, video_csv
from fsvfm_jax.report.table import markdown, value_type

MAX_NUMBER = 1e6  # Rates and thresholds are about 1; squares of huge numbers are infinite.


class StoredTable(TypedDict):
    """The part of table.json that is read back."""

    rows: list[dict[str, str | int | float | tuple[float, float] | None]]


def write_report(
    folder: epath.PathLike,
    rows: Sequence[Row],
    scores: Sequence[Scores],
    *,
    caption: str,
    drawn: int | None = None,
) -> None:
    """Writes `table.md`, `table.json`, `roc.png`, `scores/<set>.csv` and `scores/<set>_videos.csv`.

    Args:
        folder: Folder of the report, created if missing. Files of these names in it are replaced.
        rows: Rows of `rows.detection_row` or similar functions.
        scores: Scores to write and draw. A set that was scored twice needs two names. A set without
            images is left out; without any scores there is no picture.
        caption: Text above the table, such as `rows.DETECTION_CAPTION`.
        drawn: Number of the scores, from the first on, in the picture; None draws all.

    Raises:
        DataError: Two sets have the same name, a name has no character for a file name, or a video
            has both classes.
        StorageError: A file cannot be written.
    """
    folder = epath.Path(folder)
    scores = [of_set for of_set in scores if len(of_set.files)]
    stems = file_stems([of_set.dataset for of_set in scores])
    write_table(folder, "table", rows, caption=caption)
    contents = {}
    for of_set in scores:
        contents[f"scores/{stems[of_set.dataset]}.csv"] = image_csv(of_set)
        contents[f"scores/{stems[of_set.dataset]}_videos.csv"] = video_csv(of_set)
    for name, content in contents.items():
        write_file(folder, name, content)
    if scores:
        pictured = scores[:drawn]
        videos = {x.dataset: video_means(x.p_fake, x.fake, x.videos) for x in pictured}
        write_file(folder, "roc.png", encode_picture(picture(videos)))


def write_table(folder: epath.PathLike, name: str, rows: Sequence[Row], *, caption: str) -> None:
    """Writes rows as `<name>.md` and `<name>.json`, with a caption above the table.

    Raises:
        StorageError: A file cannot be written.
    """
    for file, content in table_files(name, rows, caption=caption).items():
        write_file(epath.Path(folder), file, content)


def table_files(name: str, rows: Sequence[Row], *, caption: str) -> dict[str, bytes]:
    """Returns the contents of `<name>.md` and `<name>.json`, as `write_table` writes them."""
    table = {"caption": caption, "rows": list(rows)}
    text = json.dumps(table, indent=1, allow_nan=False) + "\n"
    return {
        f"{name}.md": encode_text(markdown(rows, caption)),
        f"{name}.json": encode_text(text),
    }


def read_rows(path: epath.PathLike) -> list[Row]:
    """Returns the rows of a report's table.json.

    Raises:
        DataError: The file is missing, not a plain file, or does not have that form.
    """
    try:
        content = read_bytes(epath.Path(path), max_bytes=MAX_JSON_BYTES)
        rows = parse_json(content, StoredTable)["rows"]
        for row in rows:
            _check_row(row)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise DataError(
            f"{path} is no table of an evaluation ({reason}): name its table.json"
        ) from error
    return rows


def _check_row(row: Row) -> None:
    """Raises ValueError if a row cannot be shown or averaged."""
    if "images" in row:  # The row is one of a single set.
        missing = [key for key in ("dataset", "selection") if row.get(key) is None]
        if missing or "seed" not in row:
            raise ValueError(f"a row has no {(missing or ['seed'])[0]!r}")
    for key, value in row.items():
        wanted = tuple if "_interval" in key else value_type(key)
        numbers = value if isinstance(value, tuple) else (value,)
        sane = all(abs(x) <= MAX_NUMBER for x in numbers if isinstance(x, float))
        fits = value is None or wanted is None or type(value) is wanted
        if not (sane and fits):
            raise ValueError(f"{key[:80]!r} of a row is {str(value)[:80]!r}")


def file_stems(datasets: Sequence[str]) -> dict[str, str]:
    """Returns the name of each set's files, without their ending.

    Letters, digits and . + - _ are kept, other characters become _, and a leading dot is removed.
    Names that differ only in capitals count as equal, because some file systems treat them so.

    Args:
        datasets: Names of the sets.

    Raises:
        DataError: No character of a name is left, or the files of two sets would have the same
            name.
    """
    stems, taken = {}, {}
    for dataset in datasets:
        stem = re.sub(r"[^\w.+-]+", "_", dataset).strip("._")
        if not stem:
            raise DataError(f"the set {dataset!r} leaves no name for a file: call it by letters")
        for name in (stem, f"{stem}_videos"):
            other = taken.setdefault(name.casefold(), dataset)
            if dataset in stems or other != dataset:
                raise DataError(
                    f"the scores of {other!r} and {dataset!r} would both be in {name}.csv: give"
                    " one of the sets another name"
                )
        stems[dataset] = stem
    return stems


def scores_file(dataset: str, selection: str) -> str:
    """Returns the name of the file of a set's scores in a report's folder.

    Args:
        dataset: Name of the set.
        selection: How the checkpoint was chosen.
    """
    called = f"{dataset} {selection}"
    return f"scores/{file_stems([called])[called]}.csv"


def split_name(text: str) -> tuple[str | None, str]:
    """Splits NAME=PATH of a command line; the name is None if there is none, or if PATH exists.

    Args:
        text: The argument.
    """
    name, equals, path = text.partition("=")
    return (name, path) if equals and not os.path.exists(text) else (None, text)


def write_file(folder: epath.Path, name: str, content: bytes) -> None:
    """Writes a file of a report; replaces a link of that name instead of following it.

    Args:
        folder: The folder of the report, created if missing.
        name: Name of the file, perhaps after the name of a folder.
        content: All bytes of the file.

    Raises:
        StorageError: The file cannot be written.
    """
    path = folder / name
    with written(path, mend=ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        if path.parent != folder:
            make_own_folder(path.parent)
        replace_bytes(path, content)
