"""Writes a picture of each scored file: boxes and scores of a photograph, curves of a video."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from fsvfm_jax.errors import StorageError
from fsvfm_jax.host.pictures import caption_strip, encode_png
from fsvfm_jax.host.storage import ELSEWHERE, replace_bytes, written
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.predict.records import Record
from fsvfm_jax.predict.shown import Shown

MAX_STEM = 80  # characters
MAX_TITLE = 200  # characters
MIN_CAPTIONED = 400  # pixels; a narrower picture gets a margin, so that its caption can be read
TEXT_HEIGHT = 20  # pixels
_ORANGE = (255, 140, 0)


def make_folder(folder: Path) -> None:
    """Makes the folder for the pictures, before the work: a wrong name must not cost minutes.

    Raises:
        StorageError: It is a link or a file, has files in it, or cannot be written.
    """
    if os.path.islink(folder) or (os.path.lexists(folder) and not os.path.isdir(folder)):
        raise StorageError(f"--plots={folder} is a link or a file: name a new folder")
    with written(folder, mend="name a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StorageError(f"--plots={folder} has files in it already: name a new folder")
        probe = folder / ".writable"  # Only a file that is written shows this to be possible.
        probe.write_bytes(b"")
        probe.unlink()


def write_plot(
    folder: Path, place: int, record: Record, *, shown: Shown | None, score_name: str
) -> None:
    """Writes the picture of a file; does nothing for one that could not be read.

    Args:
        folder: The folder.
        place: Number of the file among the inputs, from 0, with which the picture's name begins.
        record: The record of the file.
        shown: The picture of the file, or of a frame of it; None if it could not be read.
        score_name: "p_fake" or "p_spoof".

    Raises:
        StorageError: The picture cannot be written.
    """
    if shown is None:
        return
    content = (
        _curves(record, score_name=score_name)
        if shown.frame is not None and record["faces"]
        else encode_png(_captioned(record, shown, score_name=score_name))
    )
    stem = re.sub(r"[^A-Za-z0-9.+-]+", "_", Path(record["path"]).name)[:MAX_STEM]
    path = epath.Path(folder) / f"{place:04}-{stem}.png"
    with written(path, mend=ELSEWHERE):
        replace_bytes(path, content)


def with_boxes(
    shown: Shown, boxes: Sequence[Sequence[int]], texts: Sequence[str]
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the picture with boxes and a text at each.

    Args:
        shown: The picture.
        boxes: Edges of each box, in pixels of the photograph or frame.
        texts: The text of each box.
    """
    picture = Image.fromarray(shown.pixels)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for box, text in zip(boxes, texts, strict=True):
        left, top, right, bottom = (shown.scale * edge for edge in box)
        edges = left, top, max(right - 1, left), max(bottom - 1, top)
        draw.rectangle(edges, outline=_ORANGE, width=3)
        # The text is above the box, so that it hides no face, unless that is outside the picture.
        place = left + 2, top - TEXT_HEIGHT if top >= TEXT_HEIGHT else top + 4
        draw.rectangle(draw.textbbox(place, text, font=font), fill="black")
        draw.text(place, text, fill="white", font=font)
    return np.array(picture)


def _captioned(record: Record, shown: Shown, *, score_name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the picture with the boxes of its faces, below a title and a legend."""
    faces = record["faces"]
    texts = [f"{face['track']}: {face[score_name]:.4f}" for face in faces]
    picture = with_boxes(shown, [face["box"] for face in faces], texts)
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
        lines.append(f"At each box: number of the face, and its {score_name}")
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
        title=f"{record['path']}: {score_name} {record[score_name]:.3f}, {record['decision']}",
        score_name=score_name,
        threshold=record["threshold"]["value"],
        in_seconds=in_seconds,
    )
    return encode_picture(figure)
