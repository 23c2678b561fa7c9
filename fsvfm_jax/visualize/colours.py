"""Turns numbers into colours, with the borders of the facial regions, and draws rows of faces."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, Integer, Shaped, UInt8

from fsvfm_jax.host.pictures import (
    below_each_other,
    caption_strip,
    image_grid,
    scale_strip,
    title_strip,
)

MIN_SIDE = 224  # pixels; smaller faces are drawn larger
HEAT = "magma"  # from black over red to light yellow: values from 0 up
SIGNED = "RdBu_r"  # blue below 0, white at 0, red above
STEPS = 256
LINE = (150, 200, 255)  # colour of the borders of regions on a map of HEAT
COLUMNS = 8  # of a row; more would be too wide to read

Images = UInt8[np.ndarray, "B S S 3"]
Picture = UInt8[np.ndarray, "H W 3"]


def scale_of(size: int) -> int:
    """Returns the factor by which faces of this side are enlarged: a pixel becomes a square."""
    return max(1, math.ceil(MIN_SIDE / size))


def enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Returns arrays [B, H, W, ...] with every pixel repeated `scale` times in both directions."""
    return pixels.repeat(scale, axis=1).repeat(scale, axis=2)


def per_pixel(patches: Shaped[np.ndarray, "B N"], size: int) -> Shaped[np.ndarray, "B S S"]:
    """Returns one value per patch as one value per pixel, [B, size, size]."""
    side = math.isqrt(patches.shape[1])
    return enlarged(patches.reshape(-1, side, side), size // side)


def coloured(
    values: Float[np.ndarray, "*batch H W"], ends: tuple[float, float], name: str
) -> UInt8[np.ndarray, "*batch H W 3"]:
    """Returns the colour of each value.

    Args:
        values: The values; those beyond the ends get the colours of the ends.
        ends: Lowest and highest value of the scale.
        name: HEAT or SIGNED.
    """
    share = (values - ends[0]) / max(ends[1] - ends[0], 1e-12)
    steps = np.uint8((share.clip(0, 1) * (STEPS - 1)).round())
    return colours_of(name)[steps]


def colours_of(name: str) -> UInt8[np.ndarray, "256 3"]:
    """Returns the colours of a scale from its lowest to its highest value."""
    return np.uint8(matplotlib.colormaps[name](np.arange(STEPS))[:, :3] * 255)


def with_borders(
    images: Images, regions: Integer[np.ndarray, "B S S"], colour: tuple[int, int, int]
) -> Images:
    """Returns the images with a line of one pixel between different regions.

    Args:
        images: The images.
        regions: The region of each pixel.
        colour: RGB colour of the line.
    """
    border = np.zeros(regions.shape, bool)
    border[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    border[:, :, :-1] |= regions[:, :, :-1] != regions[:, :, 1:]
    return np.where(border[..., None], np.array(colour, np.uint8), images)


def legend_of(
    name: str, ends: tuple[float, float], *, title: str, form: str, width: int
) -> Picture:
    """Returns the bar of a scale with its title and the values at its ends.

    Args:
        name: HEAT or SIGNED.
        ends: Lowest and highest value.
        title: What the colours show, with the unit.
        form: Format of a value, such as "{:.1f} %".
        width: Width in pixels.
    """
    texts = tuple(form.format(end) for end in ends)
    return scale_strip(colours_of(name), title=title, ends=texts, width=width)


def face_rows(
    columns: Mapping[str, Images],
    captions: Sequence[str],
    *,
    below: Mapping[str, Sequence[str]] | None = None,
) -> Picture:
    """Returns rows of images for each face below its caption, and the titles of the columns.

    If there are more than COLUMNS columns, each face has several rows, and each row its titles.

    Args:
        columns: Title of each column and its images.
        captions: The text above the images of each face.
        below: For some columns the text below each image.
    """
    titles = [*columns]
    chunks = [titles[start : start + COLUMNS] for start in range(0, len(titles), COLUMNS)]
    width = image_grid([columns[title][:1] for title in chunks[0]]).shape[1]
    parts = [title_strip(titles, width)] if len(chunks) == 1 else []
    for row, caption in enumerate(captions):
        parts.append(caption_strip(caption, width))
        for chunk in chunks:
            grid = image_grid([columns[title][[row]] for title in chunk])
            if len(chunks) > 1:
                parts.append(title_strip(chunk, grid.shape[1]))
            parts.append(grid)
            if below:
                texts = [below[title][row] if title in below else "" for title in chunk]
                parts.append(title_strip(texts, grid.shape[1]))
    return below_each_other(parts)


def signed_maps(maps: Float[np.ndarray, "B S S"]) -> tuple[Images, list[str]]:
    """Returns maps in the colours of SIGNED, and the values of full red and full blue of each.

    Each map has a scale of its own, because the values of one face may hide those of another.

    Args:
        maps: The maps of the faces.
    """
    most = np.abs(maps).max(axis=(1, 2))
    shown = [coloured(one, (-end, end), SIGNED) for one, end in zip(maps, most, strict=True)]
    return np.stack(shown), [f"full colour: ±{end:.2g}" for end in most]


def signed_legend(width: int) -> Picture:
    """Returns the bar of the colours of `signed_maps`.

    Args:
        width: Width in pixels.
    """
    title = "part of the margin; the value of the full colours is below each map"
    return scale_strip(colours_of(SIGNED), title=title, ends=("real", "fake"), width=width)
