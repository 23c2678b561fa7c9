"""Faces that are labelled fake or real: which there are, and their pixels.

NumPy, no JAX: data workers import it. `protocols.py` makes the lists from what is on disk.
"""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Int8, Shaped, UInt8

from fsvfm_jax.data.images import decode_image, read_file
from fsvfm_jax.errors import DataError

logger = logging.getLogger(__name__)

# In the order of the logits.
LABELS = ("fake", "real")
FAKE, REAL = range(2)

_REAL_WORDS = {"real", "live", "bonafide", "bona", "genuine"}
_FAKE_WORDS = {"fake", "fakea", "fakeb", "spoof", "attack", "synthesis"}
# What sets of forgeries call their methods.
_FORGERIES = {"deepfakes", "face2face", "faceswap", "neuraltextures", "faceshifter"}
_FORGERIES |= {"deepfakedetection", "ff-df", "ff-f2f", "ff-fs", "ff-nt", "ff-sh", "ff-fh"}


class FaceList(NamedTuple):
    """One set, or one domain of a protocol, in a fixed order: by video, then by frame number."""

    name: str  # as a table calls it
    files: Shaped[np.ndarray, " N"]  # bytes: far smaller than str where workers get a copy
    labels: Int8[np.ndarray, " N"]  # index into LABELS
    videos: Shaped[np.ndarray, " N"]  # bytes: the video's path relative to the set's root
    skipped: int  # frames that are named but not there, and videos no frame is named of
    folders: tuple[str, ...]  # what the sets' roots are called: splits of one set have the same
    grouping: str = ""  # in words: what counts as a video, before frames are left out


class LabelledFace(TypedDict):
    """A face in the size it is stored in, and its index into LABELS."""

    image: UInt8[np.ndarray, "H W 3"]
    label: int


class LabelledFaces:
    """The faces of a list as a random-access source.

    Pixels are taken as stored, whatever an EXIF tag asks for.

    Attributes:
        faces: The list.
        skipped: As the list says.
    """

    def __init__(self, faces: FaceList):
        self.faces = faces
        self.skipped = faces.skipped

    def __len__(self) -> int:
        return len(self.faces.files)

    def __getitem__(self, index: int) -> LabelledFace:
        file = self.name(index)
        try:
            image = decode_image(read_file(file))
        except ValueError as error:
            raise DataError(
                f"image {file} cannot be read ({error}); replace it, or remove it from the set"
            ) from error
        return {"image": image, "label": self.label(index)}

    def read(self, indices: Sequence[int]) -> list[LabelledFace]:
        """One after another."""
        return [self[index] for index in indices]

    def fingerprint(self) -> str:
        """SHA-256 of labels and names relative to the root: where that lies is left out."""
        digest = hashlib.sha256()
        faces = self.faces
        for file, video, label in zip(faces.files, faces.videos, faces.labels, strict=True):
            digest.update(b"%d%s\0%s\0" % (label, video, os.path.basename(file)))
        return digest.hexdigest()

    def name(self, index: int) -> str:
        """Its file."""
        return os.fsdecode(self.faces.files[index])

    def label(self, index: int) -> int:
        """Its index into LABELS."""
        return int(self.faces.labels[index])

    def video(self, index: int) -> str:
        """The video it is of, as its list calls it."""
        return os.fsdecode(self.faces.videos[index])

    def stats(self) -> None:
        """Mean and deviation of the pixels are not known."""


def label_of(name: str) -> int | None:
    """The index into LABELS of what a set calls a class, such as "Spoof", "FF-F2F", "1_fake".

    Names decide, never an order: "0" and "1" say nothing. None where the name says nothing, or
    both.
    """
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    is_real, is_fake = not words.isdisjoint(_REAL_WORDS), not words.isdisjoint(_FAKE_WORDS)
    if is_real != is_fake:
        return REAL if is_real else FAKE
    return FAKE if name.lower() in _FORGERIES and not is_real else None


def thin(faces: FaceList, per_video: int, *, per_real_video: int | None = None) -> FaceList:
    """Keeps evenly spaced frames of every video, from its first to its last.

    Args:
        faces: The frames of each video in their order.
        per_video: How many at most, at least 0; 0 keeps all, 1 the first.
        per_real_video: The same for real videos, where that differs.
    """
    by_label = {FAKE: per_video, REAL: per_video if per_real_video is None else per_real_video}
    _, video, counts = np.unique(faces.videos, return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(video, kind="stable"), np.cumsum(counts)[:-1])
    kept = [of_one[_spaced(len(of_one), by_label[int(faces.labels[of_one[0]])])] for of_one in rows]
    return _keep(faces, np.sort(np.concatenate(kept)))


def overlap(train: FaceList, other: FaceList) -> list[str]:
    """Returns which videos of `other` are in `train` too, sorted.

    One of their files is the same one in the end, links followed; or they are of one set, by what
    its folder is called, and are called the same there. Only the first is certain.
    """
    same = np.isin(_real_files(other), _real_files(train))
    if not set(train.folders).isdisjoint(other.folders):
        same |= np.isin(other.videos, train.videos)
    found = other.videos[same]
    return [os.fsdecode(video) for video in np.unique(found)]


def warn_of_overlap(train: FaceList, other: FaceList, *, use: str = "is trained on") -> None:
    """Logs how many videos two lists have in common, and the first of them."""
    common = overlap(train, other)
    if common:
        logger.warning(
            "%d videos of %s seem to be in %s too, which %s: what is measured on them says little;"
            " first %s",
            len(common),
            other.name,
            train.name,
            use,
            ", ".join(common[:3]),
        )


def _keep(faces: FaceList, rows: Shaped[np.ndarray, " _M"]) -> FaceList:
    return faces._replace(
        files=faces.files[rows], labels=faces.labels[rows], videos=faces.videos[rows]
    )


def _real_files(faces: FaceList) -> np.ndarray:
    """Its files, links followed; whole folders at once, as every step of a path costs a call."""
    folders = {
        folder: os.path.realpath(folder) for folder in set(map(os.path.dirname, faces.files))
    }
    return np.array(
        [
            os.path.realpath(file)
            if os.path.islink(file)
            else os.path.join(folders[os.path.dirname(file)], os.path.basename(file))
            for file in faces.files
        ]
    )


def _spaced(count: int, wanted: int) -> np.ndarray:
    """Places of at most `wanted` of `count`, the first and the last among them."""
    if wanted == 0 or wanted >= count:
        return np.arange(count)
    return np.arange(wanted) * (count - 1) // max(1, wanted - 1)
