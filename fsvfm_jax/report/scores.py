"""The scores of one set, and the CSV files that contain them."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Float64, Shaped

from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.errors import DataError, in_one_line
from fsvfm_jax.host.storage import read_bytes
from fsvfm_jax.report.metrics import video_means

IMAGE_HEADER = ("file", "video", "label", "p_fake")
VIDEO_HEADER = ("video", "label", "frames", "p_fake")
MAX_SCORES_BYTES = 2**30  # some 10,000,000 faces
_IS_FAKE = {label: label == "fake" for label in LABELS}
# Text in quotes, numbers without: so the reader knows them apart, and no name needs escaping.
_FORM: dict[str, Any] = {"quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\n"}


class Scores(NamedTuple):
    """What one network says of one set.

    Attributes:
        dataset: The set, as a table calls it.
        files: Path of each image, as `os.fsdecode` gives it.
        videos: The video each is of.
        fake: Whether it is fake.
        p_fake: The network's probability of that.
        skipped: How many images or videos of the set were not there or not readable.
    """

    dataset: str
    files: Shaped[np.ndarray, " N"]
    videos: Shaped[np.ndarray, " N"]
    fake: Bool[np.ndarray, " N"]
    p_fake: Float64[np.ndarray, " N"]
    skipped: int


def joined(parts: Sequence[Scores], *, dataset: str) -> Scores:
    """Returns the scores of several sets as those of one, called `dataset`.

    Videos of the same name in two sets stay two videos.
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
    """Returns file, video, label and p_fake of every image, which `read_scores` reads back.

    Text is in quotes, numbers are not and have all their digits. Names are kept byte by byte, those
    too that begin as a spreadsheet's formula (=, +, -, @): open the file there as text.
    """
    labels = np.where(scores.fake, "fake", "real")
    columns = (scores.files, scores.videos, labels, scores.p_fake)
    return _csv(IMAGE_HEADER, zip(*(column.tolist() for column in columns), strict=True))


def video_csv(scores: Scores) -> bytes:
    """Returns in the same form video, label, frames and p_fake, the mean, of every video.

    Raises:
        DataError: A video of both classes, or no images.
    """
    names, means, fake = video_means(scores.p_fake, scores.fake, scores.videos)
    _, frames = np.unique(scores.videos, return_counts=True)
    columns = (names, np.where(fake, "fake", "real"), frames, means)
    return _csv(VIDEO_HEADER, zip(*(column.tolist() for column in columns), strict=True))


def read_scores(path: epath.PathLike, *, dataset: str, skipped: int = 0) -> Scores:
    """Returns the scores of a report's file; the set's name and what was skipped are not in it.

    Raises:
        DataError: The file is missing or not of that form.
    """
    path = epath.Path(path)
    try:
        content = read_bytes(path, max_bytes=MAX_SCORES_BYTES)
        text = content.decode("utf-8", "surrogateescape")
        lines = list(csv.reader(io.StringIO(text), **_FORM))
        if tuple(lines[0]) != IMAGE_HEADER:
            raise ValueError(f"its first line is {lines[0]}")
        columns = list(zip(*lines[1:], strict=True)) or [()] * len(IMAGE_HEADER)
        files, videos, labels, p_fake = columns
        fake = [_IS_FAKE[label] for label in labels]
        numbers = np.array(p_fake, np.float64)
    except (OSError, ValueError, LookupError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as scores ({in_one_line(error)}): give a CSV with the columns"
            f" {', '.join(IMAGE_HEADER)}, text in quotes and the labels {', '.join(LABELS)}"
        ) from error
    names = (np.array(files, np.str_), np.array(videos, np.str_))
    return Scores(dataset, *names, np.array(fake, np.bool_), numbers, skipped)


def _csv(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, **_FORM)
    writer.writerow(header)
    writer.writerows(lines)
    return encode_text(text.getvalue())


def encode_text(text: str) -> bytes:
    """Returns UTF-8; of a path that is not UTF-8, its bytes."""
    return text.encode("utf-8", "surrogateescape")
