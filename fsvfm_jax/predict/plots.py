"""Writes a picture of each scored file: boxes and scores of a photograph, curves of a video."""

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
from fsvfm_jax.host.pictures import caption_strip, encode_png
from fsvfm_jax.host.storage import ELSEWHERE, check_folder, whole_file, written
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.predict.records import Record
from fsvfm_jax.predict.shown import Shown

logger = logging.getLogger(__name__)

MAX_STEM = 80  # characters
MAX_TITLE = 200  # characters
MIN_CAPTIONED = 400  # pixels; a narrower picture gets a margin, so that its caption can be read
TEXT_HEIGHT = 20  # pixels
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

    def add(self, place: int, record: Record, shown: Shown | None) -> None:
        """Writes a picture as `write_plot` does; only the first error is logged."""
        name = self._score_name
        try:
            self._written += write_plot(
                self._folder, record, place=place, shown=shown, score_name=name
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
    folder: Path, record: Record, *, place: int, shown: Shown | None, score_name: str
) -> bool:
    """Writes the picture of a file, and returns whether it has one: not if it could not be read.

    Args:
        folder: The folder.
        record: The record of the file.
        place: Number of the file among the inputs, from 0, with which the picture's name begins.
        shown: The picture of the file, or of a frame of it; None for a video with faces, whose
            curves are drawn, and for a file that could not be read.
        score_name: "p_fake" or "p_spoof".

    Raises:
        StorageError: The picture cannot be written, or is there already.
    """
    if record["faces"] and record["faces"][0]["frame"] is not None:
        content = _curves(record, score_name=score_name)
    elif shown is not None:
        content = encode_png(_captioned(record, shown, score_name=score_name))
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
    height, width, _ = picture.shape
    if width < MIN_CAPTIONED:
        margin = np.full((height, MIN_CAPTIONED - width, 3), 255, np.uint8)
        picture = np.concatenate([picture, margin], axis=1)
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


def _curves(record: Record, *, score_name: str) -> bytes:
    """Returns the picture of a video's scores over time, as PNG."""
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
        return encode_picture(figure)
