"""Makes labelled sets of tiny pictures on disk, in the layouts that users have."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fsvfm_jax.data.labelled.faces import LABELS, FaceList
from fsvfm_jax.data.labelled.protocols import read_set
from fsvfm_jax.errors import DataError


def write_pictures(root: Path, names: str | Iterable[str]) -> None:
    """Writes a picture for each path; a single text contains paths separated by white space."""
    for name in names.split() if isinstance(names, str) else names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(file)


def write_json(file: Path, content: Any) -> str:
    """Writes a JSON file and returns its name."""
    file.write_text(json.dumps(content))
    return str(file)


def contents(root: Path, faces: FaceList) -> list[tuple[str, str, str]]:
    """Returns (file relative to the root, label, video) for every face of a set."""
    rows = zip(faces.files, faces.labels, faces.videos, strict=True)
    return [
        (str(Path(file.decode()).relative_to(root)), LABELS[label], video.decode())
        for file, label, video in rows
    ]


def read(root: Path, layout: str, split: str = "test", **options: Any) -> list[tuple]:
    """Reads a set and returns its `contents`."""
    return contents(root, read_set(layout, str(root), split=split, **options))


def refused(root: Path, layout: str, split: str = "test", **options: Any) -> str:
    """Returns the error message of a set that is refused."""
    with pytest.raises(DataError) as error:
        read_set(layout, str(root), split=split, **options)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(root), "ROOT")
