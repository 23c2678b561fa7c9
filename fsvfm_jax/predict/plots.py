"""Writes a picture of each scored file: boxes and scores of a photograph, curves of a video."""

import io
import logging
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from fsvfm_jax.errors import StorageError
from fsvfm_jax.host.pictures import (
    below_each_other,
    caption_strip,
    encode_png,
    image_grid,
    padded,
    title_strip,
)
from fsvfm_jax.host.storage import ELSEWHERE, check_folder, whole_file, written
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.predict.faces import Face, FileFaces
from fsvfm_jax.predict.records import Record
from fsvfm_jax.predict.shown import Shown

logger = logging.getLogger(__name__)

MAX_STEM = 80  # characters
MAX_TITLE = 200  # characters
MIN_CAPTIONED = 400  # pixels; a narrower picture gets a margin, so that its caption can be read
TEXT_HEIGHT = 20  # pixels
PORTRAIT, MAX_PORTRAITS = 96, 12  # pixels, and number of people that are shown by a face
_ORANGE = (255, 140, 0)


def make_folder(folder: Path) -> None:
    """Makes the folder for the pictures, before the work: a wrong name must not cost minutes.

    Raises:
        StorageError: It is no folder, has files in it, or cannot be written.
    """
    check_folder(folder, flag=f"--plots={folder}")
    with written(folder, mend="name a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StorageError(f"--plots={folder} has files in it already: name a new folder")


class Plots:
    """Writes the picture of each file. A picture that cannot be written does not end the scoring.

    Args:
        folder: The folder.
        score_name: "p_fake" or "p_spoof".
    """

    def __init__(self, folder: Path, *, score_name: str):
        self._folder, self._score_name = folder, score_name
        self._written = self._failed = 0

    def add(self, place: int, record: Record, found: FileFaces) -> None:
        """Writes a picture as `write_plot` does; only the first error is logged."""
        name = self._score_name
        try:
            self._written += write_plot(
                self._folder, record, place=place, found=found, score_name=name
            )
        except StorageError as error:
            self._failed += 1
            if self._failed == 1:
                logger.warning("%s", error)

    def check(self) -> None:
        """Says what is written; raises StorageError if a picture could not be written."""
        logger.info("written: %s (%s pictures)", self._folder, f"{self._written:,}")
        if self._failed:
            raise StorageError(
                f"{self._failed} pictures could not be written into {self._folder}, and all records"
                " are written: free space, or choose another folder"
            )


def write_plot(
    folder: Path, record: Record, *, place: int, found: FileFaces, score_name: str
) -> bool:
    """Writes the picture of a file, and returns whether it has one: not if it could not be read.

    Args:
        folder: The folder.
        record: The record of the file.
        place: Number of the file among the inputs, from 0, with which the picture's name begins.
        found: The faces of the file. Of a video with faces the curves are drawn, and otherwise
            the picture that was kept of the file.
        score_name: "p_fake" or "p_spoof".

    Raises:
        StorageError: The picture cannot be written, or is there already.
    """
    if record["faces"] and record["faces"][0]["frame"] is not None:
        curves = _curves(record, score_name=score_name)
        content = encode_png(below_each_other([curves, _portraits(found.faces)]))
    elif found.shown is not None:
        content = encode_png(_captioned(record, found.shown, score_name=score_name))
    else:
        return False
    stem = re.sub(r"[^A-Za-z0-9.+-]+", "_", Path(record["path"]).name)[:MAX_STEM]
    path = folder / f"{place:04}-{stem}.png"
    with written(path, mend=ELSEWHERE), whole_file(path, is_new=True) as file:
        file.write(content)
    return True


def with_boxes(
    shown: Shown, faces: Sequence[Mapping[str, Any]], *, score_name: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the picture with the box of each face, the number of its person and its score.

    Args:
        shown: The picture.
        faces: The faces of the photograph or frame, as a record has them.
        score_name: "p_fake" or "p_spoof".
    """
    picture = Image.fromarray(shown.pixels)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for face in faces:
        text = f"{face['track']}: {face[score_name]:.4f}"
        left, top, right, bottom = (shown.scale * edge for edge in face["box"])
        edges = left, top, max(right - 1, left), max(bottom - 1, top)
        draw.rectangle(edges, outline=_ORANGE, width=3)
        # The text is above the box, so that it hides no face, unless that is outside the picture.
        # For the same reason it begins further left if it would be cut off at the right edge.
        latest = picture.width - 1 - math.ceil(draw.textbbox((0, 0), text, font=font)[2])
        start = max(min(left + 2, latest), 0)
        place = start, top - TEXT_HEIGHT if top >= TEXT_HEIGHT else top + 4
        draw.rectangle(draw.textbbox(place, text, font=font), fill="black")
        draw.text(place, text, fill="white", font=font)
    return np.array(picture)


def _captioned(record: Record, shown: Shown, *, score_name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the picture with the boxes of its faces, below a title and a legend."""
    picture = with_boxes(shown, record["faces"], score_name=score_name)
    picture = padded(picture, MIN_CAPTIONED)
    threshold = record["threshold"]
    path = printable(record["path"])
    lines = [path if len(path) <= MAX_TITLE else f"..{path[2 - MAX_TITLE :]}"]
    if record[score_name] is not None:
        lines.append(
            f"{score_name} {record[score_name]:.4f}: {record['decision']}, at the threshold"
            f" {threshold['value']:.4g} ({threshold['name']})"
        )
        lines.append(f"At each box: number of the person, and its {score_name}")
    lines += [printable(record["note"])] if record["note"] else []
    captions = [caption_strip(line, picture.shape[1]) for line in lines]
    return np.concatenate([*captions, picture])


def first_faces(faces: Sequence[Face], *, most: int) -> list[Face]:
    """Returns the first face of each person.

    Args:
        faces: The faces of a file.
        most: Largest number of people; those with the lowest numbers are taken.
    """
    first = {face.track: face for face in reversed(faces)}
    return [first[track] for track in sorted(first)][:most]


def _portraits(faces: Sequence[Face]) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the first face of each person in a row, with the number of the person above it."""
    first = first_faces(faces, most=MAX_PORTRAITS)
    size = PORTRAIT, PORTRAIT
    tiles = [np.array(Image.fromarray(face.pixels).resize(size))[None] for face in first]
    row = image_grid(tiles)
    titles = title_strip([f"person {face.track}" for face in first], row.shape[1])
    return np.concatenate([titles, row])


def _curves(record: Record, *, score_name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the picture of a video's scores over time."""
    # These import matplotlib, which takes half a second.
    from fsvfm_jax.report.curve import Curve, curve_picture
    from fsvfm_jax.report.figure import encode_picture

    faces = record["faces"]
    in_seconds = all(face["time"] is not None for face in faces)
    key = "time" if in_seconds else "frame"
    curves = []
    for person in record["people"]:
        own = [face for face in faces if face["track"] == person["track"]]
        places = [float(face[key]) for face in own]
        scores = [face[score_name] for face in own]
        curves.append(Curve(f"person {person['track']}", places, scores, person[score_name]))
    figure = curve_picture(
        curves,
        title=f"{record['path']}: {score_name} {record[score_name]:.4f}, {record['decision']}",
        score_name=score_name,
        threshold=record["threshold"]["value"],
        threshold_name=record["threshold"]["name"],
        note=record["note"],
        in_seconds=in_seconds,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A name may have characters that the font lacks.
        content = encode_picture(figure)
    with Image.open(io.BytesIO(content)) as picture:
        return np.array(picture.convert("RGB"))
