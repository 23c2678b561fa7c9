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
_BAR = 160  # pixels of a colour scale

Picture = UInt8[np.ndarray, "H W 3"]
AnyPicture = UInt8[np.ndarray, "_ _ 3"]  # Several in one function may have different sizes.


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
    """Returns a strip with each title above its column of an `image_grid`.

    The strip has as many lines of LINE_HEIGHT pixels as the title with the most words needs.

    Args:
        titles: One title per column.
        width: Width of the grid in pixels.
    """
    wrapped = [_wrapped(title, width // len(titles), break_words=False) for title in titles]
    strip, draw = _blank(max(map(len, wrapped)), width)
    for column, lines in enumerate(wrapped):
        for number, line in enumerate(lines):
            left = column * (width + _GAP) // len(titles) + 2
            _write(draw, (left, number * LINE_HEIGHT), line)
    return np.array(strip)


def caption_strip(text: str, width: int) -> Picture:
    """Returns the text in as many lines as it needs at this width in pixels."""
    lines = _wrapped(text, width, break_words=True)
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


def scale_strip(
    colours: UInt8[np.ndarray, "n 3"], *, title: str, ends: tuple[str, str], width: int
) -> Picture:
    """Returns a bar of the colours of a scale, with its title on the left and a number at each end.

    The bar is in a line of its own if it does not fit beside the title.

    Args:
        colours: RGB colours from the lowest value to the highest.
        title: What the colours show, with the unit.
        ends: The lowest and the highest value.
        width: Width of the strip in pixels; at least 300.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    lowest = int(font.getlength(ends[0])) + 6
    needed = lowest + _BAR + int(font.getlength(ends[1])) + 10
    titles = _wrapped(title, width, break_words=True)
    left = int(font.getlength(titles[-1])) + 12
    is_beside = left + needed <= width
    strip, draw = _blank(len(titles) + (not is_beside), width)
    for number, line in enumerate(titles):
        _write(draw, (2, number * LINE_HEIGHT), line)
    left, top = left if is_beside else 2, strip.height - LINE_HEIGHT
    _write(draw, (left, top), ends[0])
    _write(draw, (left + lowest + _BAR + 6, top), ends[1])
    picture = np.array(strip)
    bar = colours[np.arange(_BAR) * len(colours) // _BAR]
    picture[top + 4 : top + 16, left + lowest : left + lowest + _BAR] = bar
    return picture


def bars(
    values: Mapping[str, Sequence[float]],
    *,
    colours: Sequence[UInt8[np.ndarray, " 3"]],
    form: str,
    width: int,
) -> Picture:
    """Returns a line for each value: its name, a bar from zero, and the number.

    Bars of negative values go to the left.

    Args:
        values: For each name one value per colour; NaN is shown as "-".
        colours: The colours of the bars of a name, from above.
        form: Format of a number, such as "{:.1f} %".
        width: Width of the picture in pixels.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    finite = [value for row in values.values() for value in row if np.isfinite(value)]
    lowest, highest = min([0.0, *finite]), max([0.0, *finite])
    texts = max([int(font.getlength(form.format(value))) for value in finite], default=10) + 12
    names = max(int(font.getlength(name)) for name in values) + 12
    sides = texts * (1 + (lowest < 0))
    scale = (width - names - sides) / max(highest - lowest, 1e-12)
    zero = names + texts * (lowest < 0) - lowest * scale
    strip, draw = _blank(sum(map(len, values.values())), width)
    top = 0
    for name, row in values.items():
        _write(draw, (2, top), name)
        for value, colour in zip(row, colours, strict=True):
            if not np.isfinite(value):
                _write(draw, (int(zero) + 4, top), "-")
            else:
                end = zero + value * scale
                box = (min(zero, end), top + 4, max(zero, end), top + 15)
                draw.rectangle(box, fill=tuple(colour.tolist()))
                text = form.format(value)
                place = end + 4 if value >= 0 else end - 4 - font.getlength(text)
                _write(draw, (int(place), top), text)
            top += LINE_HEIGHT
    draw.line((zero, 0, zero, top), fill="black")
    return np.array(strip)


def padded(picture: AnyPicture, width: int) -> AnyPicture:
    """Returns the picture with white on its right, so that it has at least this width."""
    missing = max(width - picture.shape[1], 0)
    return np.pad(picture, ((0, 0), (0, missing), (0, 0)), constant_values=255)


def below_each_other(pictures: Sequence[AnyPicture]) -> AnyPicture:
    """Returns the pictures as one, from top to bottom, with white on the right of narrow ones."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([padded(picture, width) for picture in pictures])


def encode_png(picture: Picture, *, level: int = 1) -> bytes:
    """Returns the picture as a PNG file.

    Args:
        picture: The picture.
        level: 1 compresses fast, 9 well.
    """
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=level)
    return file.getvalue()


def _wrapped(text: str, width: int, *, break_words: bool) -> list[str]:
    """Returns the lines of a text at a width in pixels; at least one line."""
    font = ImageFont.load_default(_FONT_SIZE)
    if font.getlength(text) <= width - 4:
        return [text]
    per_line = int(width / max(font.getlength(text) / max(len(text), 1), 1) * 0.9)
    lines = textwrap.wrap(text, max(per_line, 1), break_long_words=break_words)
    return lines or [""]


def _blank(lines: int, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    strip = Image.new("RGB", (width, lines * LINE_HEIGHT), "white")
    return strip, ImageDraw.Draw(strip)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    draw.text(place, text, fill="black", font=ImageFont.load_default(_FONT_SIZE))
