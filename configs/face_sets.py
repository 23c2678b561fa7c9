"""Describes sets of labelled faces, on disk or rendered, for the configs that name such sets."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def face_set(layout: str, path: str = "", *, split: str = "", **options: Any) -> ConfigDict:
    """Where faces are and which of them are meant.

    Args:
        layout: "folder", "folders", "list", "lists", "deepfakebench", "ffpp", "celebdf", "dfdc",
            "fas", "diff", or "rendered" (synthetic faces and forgeries; no files). See
            fsvfm_jax/data/labelled/layouts.py.
        path: Under the config's `data.paths`.
        split: Such as "train".
        options: Of the layout.
    """
    if layout != "rendered":
        # Options of every set on disk, then options of some layouts. Empty is their default.
        options = {
            "labels": (),
            "exclude": (),
            "frames": 0,
            "real_frames": placeholder(int),
            "videos": "",
            "list_file": "",
            "strip_prefix": "",
            "compression": "",
            "frames_folder": "",
            "methods": (),
            "real": (),
            "fake": (),
            "subset": "",
        } | options
    return ConfigDict({"layout": layout, "path": path, "split": split, **options})


def rendered_set(name: str, split: str, *, videos: int, frames: int = 4) -> ConfigDict:
    """A set of data/rendered/rendered_sets.py, of which half of the videos are fake."""
    return face_set("rendered", split=split, name=name, videos=videos, frames=frames, seed=0)
