"""Writes a picture with its title, notes and tables: as PNG, or as one page of HTML."""

import argparse
import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.pictures import below_each_other, caption_strip, encode_png, padded
from fsvfm_jax.host.storage import check_folder, whole_file, written
from fsvfm_jax.host.terminal import printable

SUFFIXES = (".png", ".html")
MIN_WIDTH = 480  # pixels, so that text has room
MARGIN = 8  # pixels around a picture
ELSEWHERE = "choose a file in a writable folder"
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="content-security-policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; margin: 2em; color: #111; background: #fff }}
img {{ max-width: 100%; height: auto }}
table {{ border-collapse: collapse; margin: 1em 0; min-width: 36em }}
caption {{ text-align: left; font-weight: bold; padding: .3em 0 }}
th, td {{ padding: .2em .8em; border-bottom: 1px solid #ccc; text-align: right }}
th:first-child, td:first-child {{ text-align: left }}
p {{ max-width: 60em }}
</style>
</head>
<body>
<h1>{title}</h1>
{notes}
<div><img alt="{title}" src="data:image/png;base64,{picture}"></div>
{tables}
</body>
</html>
"""


class Table(NamedTuple):
    """A table of a sheet; the first column has names, the others have numbers.

    Attributes:
        title: What the table shows, with the unit.
        header: The titles of the columns.
        rows: The cells of each row.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Sheet(NamedTuple):
    """What a verb writes.

    Attributes:
        title: What the picture shows, of which network.
        notes: Sentences below the title, which say how to read the picture.
        picture: The picture, with the titles of its columns and its legend.
        tables: The numbers of the picture.
    """

    title: str
    notes: Sequence[str]
    picture: UInt8[np.ndarray, "H W 3"]
    tables: Sequence[Table]


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that names the file to write."""
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE.png|html",
        help="the picture, or a page with the picture and its tables, to write",
    )


def check_output_file(file: Path) -> None:
    """Checks the name of the file before the work.

    Raises:
        ConfigError: It has another suffix.
        StorageError: Its folder does not exist, or is not writable.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output={file} does not end in {' or '.join(SUFFIXES)}")
    with written(file, mend=ELSEWHERE):
        if not file.parent.is_dir():
            raise FileNotFoundError(2, "its folder does not exist")
        if file.is_dir():
            raise IsADirectoryError(21, "it is a folder")
    check_folder(file.parent, flag=f"--output={file}")


def write_sheet(sheet: Sheet, file: Path) -> None:
    """Writes the sheet, and prints its tables as Markdown.

    Raises:
        StorageError: The file cannot be written.
    """
    content = as_html(sheet).encode() if file.suffix.lower() == ".html" else as_png(sheet)
    with written(file, mend=ELSEWHERE), whole_file(file) as opened:
        opened.write(content)
    for table in sheet.tables:
        print(f"{markdown_text(table.title)}\n\n{as_markdown(table)}\n")
    for note in sheet.notes:
        print(printable(note))
    print(printable(f"{file}: written"))


def as_png(sheet: Sheet) -> bytes:
    """Returns the title, the notes and the picture as one PNG file."""
    picture = padded(sheet.picture, MIN_WIDTH)
    captions = [caption_strip(text, picture.shape[1]) for text in (sheet.title, *sheet.notes)]
    whole = below_each_other([*captions, picture])
    space = ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    return encode_png(np.pad(whole, space, constant_values=255), level=9)


def as_html(sheet: Sheet) -> str:
    """Returns a page that contains the picture and loads nothing; all text is escaped."""
    return _PAGE.format(
        title=_escaped(sheet.title),
        notes="\n".join(f"<p>{_escaped(note)}</p>" for note in sheet.notes),
        picture=base64.b64encode(encode_png(sheet.picture, level=9)).decode(),
        tables="\n".join(map(_html_table, sheet.tables)),
    )


def as_markdown(table: Table) -> str:
    """Returns the table in Markdown, without its title."""
    lines = [[*table.header], ["---", *["---:"] * (len(table.header) - 1)], *table.rows]
    return "\n".join(f"| {' | '.join(map(markdown_text, cells))} |" for cells in lines)


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{_escaped(cell)}</{kind}>" for cell in cells) + "</tr>"

    rows = [row(table.header, "th"), *(row(cells, "td") for cells in table.rows)]
    return f"<table><caption>{_escaped(table.title)}</caption>\n" + "\n".join(rows) + "\n</table>"


def _escaped(text: str) -> str:
    return html.escape(printable(text))
