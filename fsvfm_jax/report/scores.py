"""The scores of one set, and the CSV files that contain them."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Float64, Int64, Shaped

from fsvfm_jax.data.labelled.detection_sets import DetectionSet
from fsvfm_jax.data.labelled.faces import FAKE, LABELS
from fsvfm_jax.errors import DataError, reason_of, shortened
from fsvfm_jax.host.storage import read_bytes
from fsvfm_jax.report.metrics import video_means

IMAGE_HEADER = ("file", "video", "label", "p_fake")
VIDEO_HEADER = ("video", "label", "frames", "p_fake")
MAX_SCORES_BYTES = 2**28  # about 2,500,000 faces
_IS_FAKE = {label: label == "fake" for label in LABELS}
# Text is in quotes and numbers are not, so the reader can distinguish them, and no name needs
# escaping.
_FORM: dict[str, Any] = {"quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\n"}


class Scores(NamedTuple):
    """The scores of one network for one set.

    Attributes:
        dataset: Name of the set in tables.
        files: Path of each image, as `os.fsdecode` returns it.
        videos: Name of the video of each image.
        fake: Whether each image is fake.
        p_fake: Probability of fake by the network.
        skipped: Number of images or videos of the set that were missing or unreadable.
    """

    dataset: str
    files: Shaped[np.ndarray, " N"]
    videos: Shaped[np.ndarray, " N"]
    fake: Bool[np.ndarray, " N"]
    p_fake: Float64[np.ndarray, " N"]
    skipped: int


def scores_of(
    faces: DetectionSet,
    rows: Int64[np.ndarray, " N"],
    p_fake: Float64[np.ndarray, " N"],
    *,
    dataset: str,
) -> Scores:
    """Returns the scores of some faces of a set; the others count as skipped.

    Args:
        faces: The set.
        rows: Index of each face.
        p_fake: Probability of fake of each of these faces.
        dataset: Name of the set in tables.
    """
    return Scores(
        dataset=dataset,
        files=np.array([faces.name(int(i)) for i in rows], np.str_),
        videos=np.array([faces.video(int(i)) for i in rows], np.str_),
        fake=np.array([faces.label(int(i)) == FAKE for i in rows], bool),
        p_fake=p_fake,
        skipped=faces.skipped + len(faces) - len(rows),
    )


def joined(parts: Sequence[Scores], *, dataset: str) -> Scores:
    """Returns the scores of several sets as the scores of one set.

    Videos of the same name in two sets remain two videos.

    Args:
        parts: Scores of each set.
        dataset: Name of the joined set.
    """
    return Scores(
        dataset=dataset,
        files=np.concatenate([one.files for one in parts]),
        videos=np.concatenate([[f"{one.dataset}/{v}" for v in one.videos] for one in parts]),
        fake=np.concatenate([one.fake for one in parts]),
        p_fake=np.concatenate([one.p_fake for one in parts]),
        skipped=sum(one.skipped for one in parts),
    )


def image_csv(scores: Scores) -> bytes:
    """Returns file, video, label and p_fake of every image as CSV, which `read_scores` reads.

    Text is in quotes; numbers are not, and have all their digits. Names are kept byte by byte, even
    if they begin like a formula of a spreadsheet (=, +, -, @): import the columns there as text.
    """
    labels = np.where(scores.fake, "fake", "real")
    columns = (scores.files, scores.videos, labels, scores.p_fake)
    return encode_csv(IMAGE_HEADER, zip(*(column.tolist() for column in columns), strict=True))


def video_csv(scores: Scores) -> bytes:
    """Returns video, label, number of frames and mean p_fake of every video, in the same form.

    Raises:
        DataError: A video has both classes, or there are no images.
    """
    names, means, fake = video_means(scores.p_fake, scores.fake, scores.videos)
    _, frames = np.unique(scores.videos, return_counts=True)
    columns = (names, np.where(fake, "fake", "real"), frames, means)
    return encode_csv(VIDEO_HEADER, zip(*(column.tolist() for column in columns), strict=True))


def read_scores(path: epath.PathLike, *, dataset: str, skipped: int = 0) -> Scores:
    """Returns the scores in a CSV file of a report.

    Args:
        path: The file.
        dataset: Name of the set, which the file does not contain.
        skipped: Number of skipped images or videos, which the file does not contain.

    Raises:
        DataError: The file is missing or does not have that form.
    """
    path = epath.Path(path)
    try:
        content = read_bytes(path, max_bytes=MAX_SCORES_BYTES)
        text = content.decode("utf-8", "surrogateescape")
        lines = list(csv.reader(io.StringIO(text), **_FORM))
        if not lines or tuple(lines[0]) != IMAGE_HEADER:
            raise ValueError(f"its first line is {shortened(repr(lines[:1]))}")
        columns = list(zip(*lines[1:], strict=True)) or [()] * len(IMAGE_HEADER)
        files, videos, labels, p_fake = columns
        if not set(labels) <= _IS_FAKE.keys():
            raise ValueError("there are other labels")
        fake = [_IS_FAKE[label] for label in labels]
        numbers = np.array(p_fake, np.float64)
        if not ((numbers >= 0) & (numbers <= 1)).all():
            raise ValueError("a score is not from 0 to 1")
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as scores ({reason_of(error)}): give a CSV with the columns"
            f" {', '.join(IMAGE_HEADER)}, text in quotes and the labels {', '.join(LABELS)}"
        ) from error
    names = (np.array(files, np.str_), np.array(videos, np.str_))
    return Scores(dataset, *names, np.array(fake, np.bool_), numbers, skipped)


def encode_csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> bytes:
    """Returns CSV with text in quotes and numbers without, in UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, **_FORM)
    writer.writerow(header)
    writer.writerows(lines)
    return encode_text(text.getvalue())


def encode_text(text: str) -> bytes:
    """Returns the text in UTF-8; bytes of a path that are not UTF-8 are returned unchanged."""
    return text.encode("utf-8", "surrogateescape")
