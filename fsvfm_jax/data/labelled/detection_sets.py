"""Opens the sets of labelled faces that a config names, on disk or rendered, without JAX."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from fsvfm_jax.data.labelled.faces import (
    LABELS,
    FaceList,
    LabelledFaces,
    warn_of_overlap,
)
from fsvfm_jax.data.labelled.protocols import read_set
from fsvfm_jax.data.labelled.set_options import RENDERED, check_options, given
from fsvfm_jax.data.rendered.rendered_sets import RenderedFaces
from fsvfm_jax.data.sources import FaceSet, JoinedSets
from fsvfm_jax.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


class DetectionSet(FaceSet, Protocol):
    """A set of labelled faces.

    Attributes:
        skipped: Number of faces that are named but missing, and of videos without a face.
    """

    skipped: int

    def label(self, index: int) -> int:
        """Returns the face's index into `LABELS`."""
        ...

    def video(self, index: int) -> str:
        """Returns the name of the video that the face is a frame of."""
        ...


class Chosen:
    """Some rows of a source.

    Args:
        source: The source.
        rows: Indices of the rows to choose.

    Attributes:
        source: The whole source.
    """

    def __init__(self, source: FaceSet, rows: Int64[np.ndarray, " N"]):
        self.source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        """Returns the rows as the source reads them."""
        return self.source.read([int(self._rows[index]) for index in indices])

    def name(self, index: int) -> str:
        """Returns the name that the face has in the source."""
        return self.source.name(int(self._rows[index]))

    def fingerprint(self) -> str:
        """Returns the fingerprint of the source, which determines the rows."""
        return self.source.fingerprint()

    def stats(self) -> None:
        """Returns None: the statistics are not known."""


def open_sets(
    sets: ConfigDict, paths: Sequence[str], *, image_size: int, field: str = "config.data"
) -> dict[str, DetectionSet]:
    """Opens the sets that `configs.transfer.face_set` describes.

    Args:
        sets: Descriptions of the sets by name.
        paths: Root folders. A set is read from every root that contains its folder.
        image_size: Side of rendered faces in pixels.
        field: Name of the config's field that contains `sets`, for messages.

    Raises:
        ConfigError: A layout, an option or a rendered set is unknown.
        DataError: A set is in none of the roots, or does not match its layout.
    """
    return {
        name: _open_set(name, one.to_dict(), paths, image_size=image_size, field=field)
        for name, one in sets.items()
    }


def join_for_training(sets: Mapping[str, DetectionSet], *, balanced: bool) -> JoinedSets:
    """Returns all sets as one source.

    Args:
        sets: The sets by name.
        balanced: Whether the parts of the source are sets and labels; otherwise they are sets.

    Raises:
        DataError: A class is missing in all sets together, or in one set if `balanced` is set.
    """
    check_classes(sets, purpose="training", of_each=balanced)
    if not balanced:
        return JoinedSets(list(sets.values()))
    return JoinedSets(
        [
            Chosen(faces, np.flatnonzero(labels_of(faces) == label))
            for faces in sets.values()
            for label in range(len(LABELS))
        ]
    )


def check_classes(
    sets: Mapping[str, DetectionSet], *, purpose: str, where: str = "", of_each: bool = False
) -> None:
    """Checks that no class is missing.

    Args:
        sets: The sets by name.
        purpose: The use that needs both classes, such as "training".
        where: Text that follows the sets' names in the message.
        of_each: Whether every set must have both classes; otherwise all sets together must.

    Raises:
        DataError: A class is missing.
    """
    found = {name: labels_of(faces) for name, faces in sets.items()}
    for label, word in enumerate(LABELS):
        without = [name for name, labels in found.items() if label not in labels]
        if len(without) == len(found) or (of_each and without):
            raise DataError(
                f"{', '.join(without)}{where}: no {word} face, and {purpose} needs both classes"
                f"{' of every set (config.data.balanced)' if of_each else ''}: add some, or leave"
                " the set out"
            )


def labels_of(faces: DetectionSet) -> Int64[np.ndarray, " N"]:
    """Returns the index into `LABELS` of every face."""
    return np.array([faces.label(index) for index in range(len(faces))], np.int64)


def sets_of(source: JoinedSets) -> list[FaceSet]:
    """Returns the sets that `join_for_training` has joined."""
    parts = [part.source if isinstance(part, Chosen) else part for part in source.sets]
    return list(dict.fromkeys(parts))


def warn_of_common_videos(used: Iterable[FaceSet], others: Iterable[FaceSet], *, use: str) -> None:
    """Logs the videos that occur both in `used` and in `others`.

    Args:
        used: Sets that the network or its settings were fitted to.
        others: Sets that metrics are measured on.
        use: The use of the first sets, such as "is trained on".
    """
    used = list(used)
    for other in others:
        for one in used:
            if isinstance(one, LabelledFaces) and isinstance(other, LabelledFaces):
                warn_of_overlap(one.faces, other.faces, use=use)


def fingerprints_of(sets: Mapping[str, DetectionSet]) -> str:
    """Returns the fingerprints of all sets, which must be the same on every host."""
    return " ".join(f"{name} {faces.fingerprint()}" for name, faces in sets.items())


def log_faces(faces: FaceList) -> None:
    """Logs the numbers of images and videos of a set."""
    logger.info(
        "set %s: %d images of %d videos, %s; %d skipped; on disk: %s",
        faces.name,
        len(faces.files),
        len(np.unique(faces.videos)),
        ", ".join(f"{np.sum(faces.labels == i)} {label}" for i, label in enumerate(LABELS)),
        faces.skipped,
        faces.grouping,
    )


def _open_set(
    name: str, options: dict[str, Any], paths: Sequence[str], *, image_size: int, field: str
) -> DetectionSet:
    layout, path, split = (options.pop(key) for key in ("layout", "path", "split"))
    options = given(options)
    if "labels" in options:
        options["labels"] = _labels(options["labels"], field=f"{field}.{name}.labels")
    if isinstance(options.get("exclude"), str):
        raise ConfigError(
            f"{field}.{name}.exclude = {options['exclude']!r} is no tuple of names: give"
            f" ({options['exclude']!r},)"
        )
    if layout == RENDERED:
        check_options(layout, options, field=f"{field}.{name}")
        try:
            return RenderedFaces(image_size=image_size, split=split, **options)
        except TypeError as error:
            raise ConfigError(f"the rendered set {name}: {error}") from error
    roots = [root for root in paths if os.path.isdir(os.path.join(root, path))]
    if not roots:
        raise DataError(
            f"the set {name} ({layout}) lies under none of {_section(field)}.paths ="
            f" {', '.join(paths)}: there is no folder {path or '.'} there"
        )
    options = {"name": name, "roots": paths, "field": f"{field}.{name}"} | options
    lists = [read_set(layout, os.path.join(root, path), split=split, **options) for root in roots]
    faces = _merge(name, lists)
    log_faces(faces)
    return LabelledFaces(faces)


def _section(field: str) -> str:
    """Returns the section of a field: config.data for both config.data and config.data.train."""
    return ".".join(field.split(".")[:2])


def _labels(pairs: Any, *, field: str) -> dict[str, str]:
    try:
        return dict(pairs)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{field} = {pairs!r}: give pairs of a class's name and 'fake' or 'real', such as"
            " (('0', 'fake'), ('1', 'real'))"
        ) from error


def _merge(name: str, lists: list[FaceList]) -> FaceList:
    """Joins lists from several roots; the same name under two roots is not the same video."""
    for number in range(1, len(lists)):
        videos = lists[number].videos
        seen = np.isin(videos, np.concatenate([one.videos for one in lists[:number]]))
        told_apart = [v + b"@%d" % number if s else v for v, s in zip(videos, seen, strict=True)]
        lists[number] = lists[number]._replace(videos=np.array(told_apart))
    return FaceList(
        name,
        *(np.concatenate(of_all) for of_all in zip(*(one[1:4] for one in lists), strict=True)),
        skipped=sum(one.skipped for one in lists),
        folders=tuple(folder for one in lists for folder in one.folders),
        grouping="; ".join(one.grouping for one in lists),
    )
