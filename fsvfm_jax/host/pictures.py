"""Draws pictures from arrays: images in rows and columns, with a caption, titles and a legend."""

import io
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

LINE_HEIGHT = 20  # pixels per line of text
_FONT_SIZE = 14
_GAP = 2  # pixels
_SWATCH = 12  # pixels

Picture = UInt8[np.ndarray, "H W 3"]


def image_grid(columns: Sequence[UInt8[np.ndarray, "B S S 3"]]) -> Picture:
    """Returns one picture with a row per sample, its columns side by side, and thin white gaps.

    Args:
        columns: C arrays of B images each, such as image, masked image, reconstruction.

    Returns:
        A picture of H = B * S + 2 * (B - 1) by W = C * S + 2 * (C - 1) pixels.
    """
    cells = np.stack(columns, axis=1)  # [B, C, S, S, 3]
    gap = (0, _GAP)
    cells = np.pad(cells, ((0, 0), (0, 0), gap, gap, (0, 0)), constant_values=255)
    rows, count, height, width, _ = cells.shape
    grid = cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, count * width, 3)
    return grid[:-_GAP, :-_GAP]


def titled_grid(
    columns: Mapping[str, UInt8[np.ndarray, "B S S 3"]], *, caption: str, scale: int
) -> Picture:
    """Returns an `image_grid` of enlarged images below a caption and a title per column.

    Args:
        columns: Title of each column and its images.
        caption: Text at the top, broken into lines that fit.
        scale: Factor of enlargement: a pixel of an image becomes a square with this side.
    """
    larger = [images.repeat(scale, axis=1).repeat(scale, axis=2) for images in columns.values()]
    grid = image_grid(larger)
    width = grid.shape[1]
    return np.concatenate([caption_strip(caption, width), title_strip([*columns], width), grid])


def title_strip(titles: Sequence[str], width: int) -> Picture:
    """Returns a strip of LINE_HEIGHT pixels with each title above its column of an `image_grid`.

    Args:
        titles: One title per column.
        width: Width of the grid in pixels.
    """
    strip, draw = _blank(1, width)
    for column, title in enumerate(titles):
        _write(draw, (column * (width + _GAP) // len(titles) + 2, 0), title)
    return np.array(strip)


def caption_strip(text: str, width: int) -> Picture:
    """Returns the text in as many lines as it needs at this width in pixels."""
    font = ImageFont.load_default(_FONT_SIZE)
    per_line = int(width / max(font.getlength(text) / max(len(text), 1), 1) * 0.9)
    lines = textwrap.wrap(text, max(per_line, 1)) or [""]
    strip, draw = _blank(len(lines), width)
    for number, line in enumerate(lines):
        _write(draw, (2, number * LINE_HEIGHT), line)
    return np.array(strip)


def legend_strip(colours: Mapping[str, UInt8[np.ndarray, " 3"]], width: int) -> Picture:
    """Returns a square of each colour with its name beside it, in as many lines as they need.

    Args:
        colours: Name and RGB colour.
        width: Width of the strip in pixels.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    places, left, line = [], 0, 0
    for name in colours:
        needed = _SWATCH + 4 + int(font.getlength(name)) + 14
        if left and left + needed > width:
            left, line = 0, line + 1
        places.append((left + 2, line * LINE_HEIGHT))
        left += needed
    strip, draw = _blank(line + 1, width)
    for (name, colour), (x, y) in zip(colours.items(), places, strict=True):
        square = (x, y + 4, x + _SWATCH - 1, y + _SWATCH + 3)
        draw.rectangle(square, fill=tuple(colour.tolist()))
        _write(draw, (x + _SWATCH + 4, y), name)
    return np.array(strip)


def encode_png(picture: Picture) -> bytes:
    """Returns the picture as a PNG file, compressed fast rather than well."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _blank(lines: int, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    strip = Image.new("RGB", (width, lines * LINE_HEIGHT), "white")
    return strip, ImageDraw.Draw(strip)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    draw.text(place, text, fill="black", font=ImageFont.load_default(_FONT_SIZE))
