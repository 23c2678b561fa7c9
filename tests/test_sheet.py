"""Tests that a sheet is a whole picture, or a page that loads nothing and runs no foreign text."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsvfm_jax.errors import ConfigError, StorageError
from fsvfm_jax.host.pictures import LINE_HEIGHT
from fsvfm_jax.visualize import sheet
from fsvfm_jax.visualize.sheet import Sheet, Table

EVIL = '"><script>alert(1)</script>\x1b[31m&amp;{title}'
PICTURE = np.random.default_rng(0).integers(0, 256, (50, 600, 3), dtype=np.uint8)


def evil_sheet() -> Sheet:
    table = Table(EVIL, (EVIL, EVIL), [[EVIL, "1.0"]])
    return Sheet(EVIL, [EVIL], PICTURE, [table])


def test_a_png_is_the_picture_below_its_text():
    with Image.open(io.BytesIO(sheet.as_png(Sheet("Title", ["A note."], PICTURE, [])))) as image:
        pixels = np.asarray(image)
    top = sheet.MARGIN + 2 * LINE_HEIGHT
    np.testing.assert_array_equal(pixels[top : top + 50, 8:608], PICTURE)
    assert pixels.shape == (top + 50 + 8, 616, 3)


def test_a_narrow_picture_has_room_for_its_text():
    narrow = Sheet("Title", ["A note " * 30], PICTURE[:, :40], [])
    with Image.open(io.BytesIO(sheet.as_png(narrow))) as image:
        assert image.size[0] == sheet.MIN_WIDTH + 16


class Page(HTMLParser):
    """Collects the tags, attributes and the text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_a_page_contains_the_picture_and_shows_foreign_text_as_text():
    page = Page(sheet.as_html(evil_sheet()))
    assert "script" not in page.tags and page.text.count("<script>alert(1)</script>") == 7
    assert "\x1b" not in page.text and "{title}" in page.text
    attributes = dict(page.attributes)
    assert attributes["content"] and not {name for name in attributes if name.startswith("on")}
    addresses = [value for name, value in page.attributes if name in ("src", "href")]
    (address,) = addresses
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(np.asarray(image), PICTURE)
    assert not re.search(r"https?://", sheet.as_html(evil_sheet()))


@pytest.mark.parametrize("suffix", [".png", ".html"])
def test_a_file_is_written_and_its_tables_are_printed(tmp_path, capsys, suffix):
    file = tmp_path / f"a{suffix}"
    sheet.write_sheet(evil_sheet(), file)
    sheet.write_sheet(evil_sheet(), file)  # It replaces the first.
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    printed = capsys.readouterr().out
    assert "| --- | ---: |" in printed and "\x1b" not in printed


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("a.jpg", ConfigError, "does not end in .png or .html"),
        ("nowhere/a.png", StorageError, "its folder does not exist"),
        ("folder.png", StorageError, "it is a folder"),
    ],
)
def test_a_wrong_name_is_found_before_the_work(tmp_path: Path, name, error, words):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(error, match=words):
        sheet.check_output_file(tmp_path / name)
