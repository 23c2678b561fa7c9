"""Faces that are labelled fake or real: the list of a set's faces, and the source of their pixels.

`protocols.py` makes the lists from the files on disk. Data workers import this module, so it does
not import JAX.
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

# The order is that of the logits.
LABELS = ("fake", "real")
FAKE, REAL = range(2)

_REAL_WORDS = {"real", "live", "bonafide", "bona", "genuine"}
_FAKE_WORDS = {"fake", "fakea", "fakeb", "spoof", "attack", "synthesis"}
# The names of methods in sets of forgeries.
_FORGERIES = {"deepfakes", "face2face", "faceswap", "neuraltextures", "faceshifter"}
_FORGERIES |= {"deepfakedetection", "ff-df", "ff-f2f", "ff-fs", "ff-nt", "ff-sh", "ff-fh"}


class FaceList(NamedTuple):
    """One set, or one domain of a protocol, in a fixed order: by video, then by frame number."""

    name: str  # name of the set in tables
    files: Shaped[np.ndarray, " N"]  # bytes, far smaller than str in the workers' copies
    labels: Int8[np.ndarray, " N"]  # index into LABELS
    videos: Shaped[np.ndarray, " N"]  # bytes: the video's path relative to the set's root
    skipped: int  # number of named frames that are missing, and of videos without a named frame
    folders: tuple[str, ...]  # names of the roots, which are the same for all splits of a set
    grouping: str = ""  # text on how pictures were grouped into videos, before thinning frames


class LabelledFace(TypedDict):
    """A face in its stored size, and its index into LABELS."""

    image: UInt8[np.ndarray, "H W 3"]
    label: int


class LabelledFaces:
    """The faces of a list as a random-access source.

    Pixels are used as stored, without applying an EXIF orientation.

    Attributes:
        faces: The list.
        skipped: The list's `skipped`.
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
        """Returns the faces, read one after another."""
        return [self[index] for index in indices]

    def fingerprint(self) -> str:
        """Returns the SHA-256 of labels and relative names, which does not depend on the root."""
        digest = hashlib.sha256()
        faces = self.faces
        for file, video, label in zip(faces.files, faces.videos, faces.labels, strict=True):
            digest.update(b"%d%s\0%s\0" % (label, video, os.path.basename(file)))
        return digest.hexdigest()

    def name(self, index: int) -> str:
        """Returns the path of the face's file."""
        return os.fsdecode(self.faces.files[index])

    def size(self, index: int) -> int:
        """Returns the number of bytes of the face's file; -1 if it cannot be found."""
        try:
            return os.path.getsize(self.faces.files[index])
        except OSError:
            return -1

    def label(self, index: int) -> int:
        """Returns the face's index into LABELS."""
        return int(self.faces.labels[index])

    def video(self, index: int) -> str:
        """Returns the name of the face's video in the list."""
        return os.fsdecode(self.faces.videos[index])

    def stats(self) -> None:
        """Returns None: the statistics are not known."""


def label_of(name: str) -> int | None:
    """Returns the index into LABELS of a class by its name, such as "Spoof", "FF-F2F", "1_fake".

    Returns None if the name fits no label, or both. "0" and "1" fit none, because the order of
    classes differs between sets.
    """
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    is_real, is_fake = not words.isdisjoint(_REAL_WORDS), not words.isdisjoint(_FAKE_WORDS)
    if is_real != is_fake:
        return REAL if is_real else FAKE
    return FAKE if name.lower() in _FORGERIES and not is_real else None


def thin(faces: FaceList, per_video: int, *, per_real_video: int | None = None) -> FaceList:
    """Returns the list with evenly spaced frames of every video, from its first to its last.

    Args:
        faces: The frames of each video in their order.
        per_video: Largest number of frames of a video; 0 keeps all, 1 the first.
        per_real_video: Largest number of frames of a real video, if it differs.
    """
    by_label = {FAKE: per_video, REAL: per_video if per_real_video is None else per_real_video}
    _, video, counts = np.unique(faces.videos, return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(video, kind="stable"), np.cumsum(counts)[:-1])
    kept = [of_one[spaced(len(of_one), by_label[int(faces.labels[of_one[0]])])] for of_one in rows]
    return _keep(faces, np.sort(np.concatenate(kept)))


def overlap(train: FaceList, other: FaceList) -> list[str]:
    """Returns the videos of `other` that are in `train` too, sorted.

    Two videos are the same if one of their files is the same after following links, which is
    certain; or if the folders of their sets and the videos themselves have equal names, which is
    not certain.
    """
    same = np.isin(_real_files(other), _real_files(train))
    if not set(train.folders).isdisjoint(other.folders):
        same |= np.isin(other.videos, train.videos)
    found = other.videos[same]
    return [os.fsdecode(video) for video in np.unique(found)]


def warn_of_overlap(train: FaceList, other: FaceList, *, use: str = "is trained on") -> None:
    """Logs how many videos two lists have in common, and the first of them.

    Args:
        train: The list of which `use` states the use.
        other: The list that metrics are measured on.
        use: The use of `train`, for the message.
    """
    common = overlap(train, other)
    if common:
        logger.warning(
            "%d videos of %s seem to be in %s too, which %s: metrics on them mean little; first %s",
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
    """Returns the files after following links. Folders are resolved once each, which is faster."""
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


def spaced(count: int, wanted: int) -> np.ndarray:
    """Returns the places of at most `wanted` of `count` items, including the first and the last."""
    if wanted == 0 or wanted >= count:
        return np.arange(count)
    return np.arange(wanted) * (count - 1) // max(1, wanted - 1)
