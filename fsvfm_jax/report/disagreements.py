"""The videos on which two detectors disagree, as a list and as a picture."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from fsvfm_jax.data.images import decode_image, read_file
from fsvfm_jax.data.labelled.faces import spaced
from fsvfm_jax.data.rand_augment import evaluation_view
from fsvfm_jax.host.pictures import (
    below_each_other,
    caption_strip,
    encode_png,
    image_grid,
    title_strip,
)
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.report.paired import Pair, Verdicts
from fsvfm_jax.report.scores import encode_csv

TILE = 144  # pixels
PER_ROW = 6
MAX_SHOWN = 24  # videos of each kind
MAX_PARTS = 64  # folders of a path


class Disagreement(NamedTuple):
    """A video that only one detector decides right.

    Attributes:
        dataset: Name of its set.
        video: Name of the video.
        fake: Whether it is fake.
        right: Name of the detector that is right.
        scores: Mean p_fake of the video, by each detector.
        file: The frame in the middle of the video.
    """

    dataset: str
    video: str
    fake: bool
    right: str
    scores: tuple[float, float]
    file: str


def disagreements(pair: Pair, found: Verdicts) -> list[Disagreement]:
    """Returns the videos on which two detectors disagree, those that differ most first."""
    files: dict[str, list[str]] = {}
    for video, file in zip(pair.first.videos.tolist(), pair.first.files.tolist(), strict=True):
        files.setdefault(video, []).append(file)
    listed = []
    for row in np.flatnonzero(found.disagree()).tolist():
        video = str(found.videos[row])
        listed.append(
            Disagreement(
                pair.first.dataset,
                video,
                bool(found.fake[row]),
                pair.names[int(found.right[1][row])],
                (float(found.scores[0][row]), float(found.scores[1][row])),
                files[video][len(files[video]) // 2],
            )
        )
    return sorted(listed, key=lambda one: (-abs(one.scores[0] - one.scores[1]), one.video))


def list_csv(names: tuple[str, str], listed: Sequence[Disagreement]) -> bytes:
    """Returns the list as CSV, in the form of the scores of an evaluation."""
    header = ["set", "video", "label", "right", *(f"p_fake of {name}" for name in names), "file"]
    rows = [
        (one.dataset, one.video, "fake" if one.fake else "real", one.right, *one.scores, one.file)
        for one in listed
    ]
    return encode_csv(header, rows)


def sheet(names: tuple[str, str], listed: Sequence[Disagreement], *, root: str) -> bytes:
    """Returns a picture of the videos as PNG: real and fake ones, by the detector that is right.

    Of each kind at most MAX_SHOWN videos are shown, evenly spaced in the list.

    Args:
        names: Names of the detectors.
        listed: At least one video.
        root: The folder with the pictures, which the paths of the frames begin or end in.
    """
    about = f"of each video: p_fake by {names[0]}, p_fake by {names[1]}, the end of its name"
    parts = [caption_strip(printable(about), PER_ROW * (TILE + 2))]
    for right in names:
        for fake in (False, True):
            kind = [one for one in listed if one.right == right and one.fake == fake]
            if not kind:
                continue
            shown = [kind[place] for place in spaced(len(kind), MAX_SHOWN)]
            pictures = [_picture(one.file, root) for one in shown]
            unread = sum(picture is None for picture in pictures)
            label = "fake" if fake else "real"
            text = f"{label} videos that only {printable(right)} decides right: {len(kind):,}, of"
            text += f" which {len(shown)} are shown"
            text += f"; grey: the picture of {unread} cannot be read" if unread else ""
            parts.append(caption_strip(text, PER_ROW * (TILE + 2)))
            parts += _tiles(shown, pictures)
    return encode_png(below_each_other(parts))


def find_frame(file: str, root: str) -> str | None:
    """Returns the file below the root that a path of a report means, or None.

    Args:
        file: A path, perhaps of another machine: its end is looked for.
        root: A folder. No file outside of it is returned, except through links in it.
    """
    parts = [part for part in file.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in file:
        return None
    starts = range(min(len(parts), MAX_PARTS))
    files = (os.path.join(root, *parts[start:]) for start in starts)
    return next(filter(os.path.isfile, files), None)


def _picture(file: str, root: str) -> UInt8[np.ndarray, "S S 3"] | None:
    """Returns the pixels of a tile, or None if there is no readable picture."""
    found = find_frame(file, root)
    if found is None:
        return None
    try:
        return evaluation_view(decode_image(read_file(found)), size=TILE, transform="resize")
    except ValueError:
        return None


def _tiles(
    shown: Sequence[Disagreement], pictures: Sequence[UInt8[np.ndarray, "S S 3"] | None]
) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Returns rows of tiles, each below a line with the scores and the end of the video's name."""
    parts = []
    grey, white = np.full((TILE, TILE, 3), 128, np.uint8), np.full((TILE, TILE, 3), 255, np.uint8)
    for start in range(0, len(shown), PER_ROW):
        row = [grey if x is None else x for x in pictures[start : start + PER_ROW]]
        titles = [
            f"{one.scores[0]:.2f} {one.scores[1]:.2f} {printable(one.video)[-10:]}"
            for one in shown[start : start + PER_ROW]
        ]
        missing = PER_ROW - len(row)
        grid = image_grid([tile[None] for tile in [*row, *[white] * missing]])
        parts += [title_strip([*titles, *[""] * missing], grid.shape[1]), grid]
    return parts
