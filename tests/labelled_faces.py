"""Writes a tiny detector, and labelled faces with groups, for the verbs that judge a detector."""

from pathlib import Path

import numpy as np
import random_weights
from PIL import Image

from fsvfm_jax.convert.folder import write_folder


def write_detector(folder: Path) -> Path:
    """Writes a detector with random weights, and returns its folder."""
    measures = random_weights.TINY | {"pool": "mean"}
    description = random_weights.describe(measures, labels=("real", "fake"))
    write_folder(folder, random_weights.detector_params(measures), description)
    return folder


def write_faces(root: Path, *, videos: int = 24, frames: int = 3) -> Path:
    """Writes `test/{real,fake}/<video>/<frame>.png` and groups.csv, and returns the root."""
    rng = np.random.default_rng(0)
    lines = ["path,light"]
    for number in range(videos):
        label = ("real", "fake")[number % 2]
        folder = root / "test" / label / f"v{number:02d}"
        folder.mkdir(parents=True)
        colour = rng.integers(40, 200, 3)
        for frame in range(frames):
            image = colour + rng.integers(0, 40, (40, 36, 3))
            Image.fromarray(np.uint8(image)).save(folder / f"{frame}.png")
        if number < videos - 1:  # The last video has no row.
            lines.append(f"test/{label}/v{number:02d},{('day', 'night')[number // 2 % 2]}")
    (root / "groups.csv").write_text("\n".join(lines) + "\n")
    return root
