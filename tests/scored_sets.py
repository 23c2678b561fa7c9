"""Makes scores of a few videos, whose metrics can be computed by hand."""

import csv
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from fsvfm_jax.report.scores import Scores


def scored(name: str, videos: Mapping[str, Sequence[float]], *, skipped: int = 0) -> Scores:
    """Returns a set with the scores of each video's frames; videos named f... are fake."""
    frames = [(video, i, p) for video, of_video in videos.items() for i, p in enumerate(of_video)]
    return Scores(
        name,
        np.array([f"{video}_frame_{i}.png" for video, i, _ in frames], np.str_),
        np.array([video for video, _, _ in frames], np.str_),
        np.array([video.startswith("f") for video, _, _ in frames], np.bool_),
        np.array([p for _, _, p in frames], np.float64),
        skipped,
    )


# The means are f0 .7, f1 .5, f2 .2, r0 .3, r1 .1: 5 of 6 pairs of videos, 19 of 24 of frames.
BY_HAND = {"f0": (0.9, 0.5), "f1": (0.6, 0.4), "f2": (0.2, 0.2), "r0": (0.3, 0.3), "r1": (0.0, 0.2)}

# Names that a CSV file could change.
HOSTILE = (
    "=1+1.png",
    "+x.png",
    "-x.png",
    "@SUM(A1).png",
    'quo"te.png',
    "com,ma.png",
    "new\nline.png",
    "carriage\rreturn.png",
    "both\r\n.png",
    " space .png",
    "1.5",
    "",
    "faces/ü/脸.png",
    os.fsdecode(b"latin-\xe9.png"),
)


def same(one: Scores, other: Scores) -> bool:
    """Returns whether two sets of scores have the same values and dtypes."""
    return all(
        np.array_equal(a, b) and getattr(a, "dtype", None) == getattr(b, "dtype", None)
        for a, b in zip(one, other, strict=True)
    )


def sane(count: int = 400, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores of two classes that overlap."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.4
    return 1 / (1 + np.exp(-rng.normal(positive * 1.2 - 0.6))), positive


def write_given(file, rows, header=("path", "p_fake")):
    """Writes the scores of a detector as CSV, and returns the name of the file."""
    with file.open("w", newline="", errors="surrogateescape") as opened:
        csv.writer(opened).writerows([header, *rows])
    return str(file)


def write_parquet(file, **columns):
    """Writes columns as Parquet, and returns the name of the file."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), file)
    return str(file)
