"""The sets of labelled faces that a config names, on disk or rendered. NumPy, no JAX."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from fsvfm_jax.data.labelled import (
    LABELS,
    FaceList,
    LabelledFaces,
    warn_of_overlap,
)
from fsvfm_jax.data.protocols import read_set
from fsvfm_jax.data.rendered_sets import RenderedFaces
from fsvfm_jax.data.sources import FaceSet, JoinedSets
from fsvfm_jax.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


class DetectionSet(FaceSet, Protocol):
    """A set of labelled faces.

    Attributes:
        skipped: Faces that are named but not there, and videos without one.
    """

    skipped: int

    def label(self, index: int) -> int:
        """Index into `LABELS`."""
        ...

    def video(self, index: int) -> str:
        """The video that the face is a frame of."""
        ...


class Chosen:
    """Some rows of a source."""

    def __init__(self, source: FaceSet, rows: Int64[np.ndarray, " N"]):
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        """As the source reads them."""
        return self._source.read([int(self._rows[index]) for index in indices])

    def name(self, index: int) -> str:
        """As the source calls it."""
        return self._source.name(int(self._rows[index]))

    def fingerprint(self) -> str:
        """The source's: the rows follow from it."""
        return self._source.fingerprint()

    def stats(self) -> None:
        """Not known."""


def open_sets(
    sets: ConfigDict, paths: Sequence[str], *, image_size: int
) -> dict[str, DetectionSet]:
    """Opens what `configs.transfer.face_set` describes.

    Args:
        sets: Descriptions by name.
        paths: Roots; a set is read under each of them that has its folder.
        image_size: Of rendered faces, in pixels.

    Raises:
        ConfigError: A layout, an option or a rendered set is unknown.
        DataError: A set is under no root, or not as its layout says.
    """
    return {
        name: _open_set(name, one.to_dict(), paths, image_size=image_size)
        for name, one in sets.items()
    }


def join_for_training(sets: Mapping[str, DetectionSet], *, balanced: bool) -> JoinedSets:
    """All of them as one source, in parts by set, or if `balanced` by set and label.

    Raises:
        DataError: A class is missing, of all sets together or if balanced of one of them.
    """
    rows = {
        name: [np.flatnonzero(labels_of(faces) == label) for label in range(len(LABELS))]
        for name, faces in sets.items()
    }
    for label, word in enumerate(LABELS):
        without = [name for name, of_set in rows.items() if not len(of_set[label])]
        if len(without) == len(rows) or (balanced and without):
            raise DataError(
                f"{', '.join(without)}: no {word} face, and training needs both classes"
                f"{' of every set (config.data.balanced)' if balanced else ''}: add some, or leave"
                " the set out"
            )
    if not balanced:
        return JoinedSets(list(sets.values()))
    return JoinedSets([Chosen(sets[name], of_label) for name in sets for of_label in rows[name]])


def labels_of(faces: DetectionSet) -> Int64[np.ndarray, " N"]:
    """Index into `LABELS` of every face."""
    return np.array([faces.label(index) for index in range(len(faces))], np.int64)


def warn_of_common_videos(
    used: Mapping[str, DetectionSet], others: Mapping[str, DetectionSet], *, use: str
) -> None:
    """Logs which videos of some sets are in others too.

    Args:
        used: The sets that know too much.
        others: The sets that are measured on.
        use: What the first are for, such as "is trained on".
    """
    for other in others.values():
        for one in used.values():
            if isinstance(one, LabelledFaces) and isinstance(other, LabelledFaces):
                warn_of_overlap(one.faces, other.faces, use=use)


def told_of(sets: Mapping[str, DetectionSet]) -> str:
    """All their fingerprints, which must be the same on every host."""
    return " ".join(f"{name} {faces.fingerprint()}" for name, faces in sets.items())


def _open_set(
    name: str, options: dict[str, Any], paths: Sequence[str], *, image_size: int
) -> DetectionSet:
    layout, path = options.pop("layout"), options.pop("path")
    if "labels" in options:
        options["labels"] = dict(options["labels"])
    if layout == "rendered":
        try:
            return RenderedFaces(image_size=image_size, **options)
        except TypeError as error:
            raise ConfigError(f"the rendered set {name}: {error}") from error
    roots = [root for root in paths if os.path.isdir(os.path.join(root, path))]
    if not roots:
        raise DataError(
            f"the set {name} ({layout}) lies under none of config.data.paths ="
            f" {', '.join(paths)}: there is no folder {path or '.'} there"
        )
    lists = [read_set(layout, os.path.join(root, path), **options) for root in roots]
    faces = _merge(name, lists)
    logger.info(
        "set %s: %d images of %d videos, %s; %d skipped",
        name,
        len(faces.files),
        len(np.unique(faces.videos)),
        ", ".join(f"{np.sum(faces.labels == i)} {label}" for i, label in enumerate(LABELS)),
        faces.skipped,
    )
    return LabelledFaces(faces)


def _merge(name: str, lists: list[FaceList]) -> FaceList:
    """Lists from several roots as one; the same name under two roots is not the same video."""
    for number in range(1, len(lists)):
        videos = lists[number].videos
        seen = np.isin(videos, np.concatenate([one.videos for one in lists[:number]]))
        told_apart = [v + b"@%d" % number if s else v for v, s in zip(videos, seen, strict=True)]
        lists[number] = lists[number]._replace(videos=np.array(told_apart))
    return FaceList(
        name,
        *(np.concatenate(of_all) for of_all in zip(*(one[1:4] for one in lists), strict=True)),
        skipped=sum(one.skipped for one in lists),
    )
