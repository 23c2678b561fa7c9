"""Writes the picture of a scored video: a curve over time for each person."""

import re
from pathlib import Path

from etils import epath

from fsvfm_jax.predict.records import Record
from fsvfm_jax.report.curve import Curve, curve_picture
from fsvfm_jax.report.figure import encode_picture
from fsvfm_jax.report.write import write_file

MAX_STEM = 80  # characters


def write_curve(folder: Path, place: int, record: Record, *, score_name: str) -> None:
    """Writes the picture of a video with faces; does nothing for other files.

    Args:
        folder: The folder, created if missing.
        place: Number of the file among the inputs, with which the picture's name begins.
        record: The record of the file.
        score_name: "p_fake" or "p_spoof".

    Raises:
        StorageError: The picture cannot be written.
    """
    faces = record["faces"]
    if not faces or faces[0]["frame"] is None:
        return
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
    stem = re.sub(r"[^A-Za-z0-9.+-]+", "_", Path(record["path"]).name)[:MAX_STEM]
    write_file(epath.Path(folder), f"{place:04}-{stem}.png", encode_picture(figure))
