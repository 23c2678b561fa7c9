"""Reads and checks the JSON files of an exported folder; see `folder.py`.

Two files of a folder contain the same facts for different readers. A folder in which they differ is
refused, because its users would get different networks or different inputs.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from fsvfm_jax.convert.architectures import StoredOptions
from fsvfm_jax.convert.card import Description, Interpolation, Text, preprocess
from fsvfm_jax.convert.source_files import read_source_json
from fsvfm_jax.data.stats import StoredStats
from fsvfm_jax.errors import DataError, brief

CONFIG_FILE, STEPS_FILE = "config.json", "preprocess.json"
# Fields of pretrained_cfg that change what timm computes.
READ_BY_TIMM = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")


class StoredMeasures(StoredOptions):
    """Measures of the network in a folder's config.json."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: Annotated[int, Meta(ge=1)]
    pool: str
    num_classes: NotRequired[int]
    adapter_reduction: NotRequired[int]
    fas: NotRequired[bool]


class StoredDescription(TypedDict):
    """A `Description` in a folder's config.json, with values that describe the files beside it."""

    model: StoredMeasures
    stats: StoredStats
    label_names: list[Text]
    license: Text
    source: Text
    source_sha256: Text
    recipe: Text | None
    step: Annotated[int, Meta(ge=0)] | None
    dataset_fingerprint: Text | None
    interpolation: Interpolation
    crop_pct: float
    face_detector: Text | None
    crop_margin: float | None
    layer_norm_epsilon: NotRequired[float]
    sha256: Annotated[dict[Text, str], Meta(min_length=1)]
    encoder_sha256: NotRequired[Text]


class FolderConfig(TypedDict):
    """The part of a folder's config.json that is read back."""

    fsvfm_jax: StoredDescription
    # What timm and transformers read; older folders may lack a field.
    label_names: NotRequired[list[Text]]
    model_args: NotRequired[dict[Text, Any]]
    pretrained_cfg: NotRequired[dict[Text, Any]]


class StoredSteps(TypedDict):
    """The part of a folder's preprocess.json that must be that of its config.json."""

    face_detector: NotRequired[Text | None]
    crop_margin: NotRequired[float | None]
    resize_shorter_side: NotRequired[int]
    interpolation: NotRequired[Text]
    center_crop: NotRequired[int]
    mean: NotRequired[tuple[float, float, float]]
    std: NotRequired[tuple[float, float, float]]
    channels: NotRequired[Text]
    rescale: NotRequired[float]


def read_description(folder: Path) -> StoredDescription:
    """Returns the description in a folder's config.json.

    Raises:
        DataError: The file cannot be read, or was not written by `write_folder`.
    """
    return read_config(folder)["fsvfm_jax"]


def read_config(folder: Path) -> FolderConfig:
    """Returns the part of a folder's config.json that is read back.

    Raises:
        DataError: As for `read_description`.
    """
    what = "that of a folder written by fsvfm_jax"
    return read_source_json(folder / CONFIG_FILE, FolderConfig, what=what)


def check_timm(folder: Path, stored: FolderConfig, ours: Mapping[str, Any]) -> None:
    """Raises DataError unless timm reads the same network from config.json as this project.

    Args:
        folder: The folder.
        stored: What `read_config` returned.
        ours: What `timm_config` makes of its field `fsvfm_jax`.
    """
    labels = list(ours["fsvfm_jax"]["label_names"])
    pairs = {"label_names": (stored.get("label_names", labels), labels)}
    for part, names in (("model_args", ours["model_args"]), ("pretrained_cfg", READ_BY_TIMM)):
        theirs = ours[part] | stored.get(part, {})
        pairs |= {f"{part}.{name}": (theirs[name], ours[part][name]) for name in names}
    heads, stored_args = "attn_pool_num_heads", stored.get("model_args", {})
    # timm has a number of its own if this field is missing.
    pairs[f"model_args.{heads}"] = (stored_args.get(heads), ours["model_args"].get(heads))
    for name, (theirs, expected) in pairs.items():
        if theirs != expected:
            raise DataError(
                f"{folder / CONFIG_FILE} has {name} = {brief(theirs)}, and fsvfm_jax in it has"
                f" {brief(expected)}: undo the change, or write a new folder with `convert to"
                " folder`"
            )


def check_steps(folder: Path, description: Description) -> None:
    """Raises DataError unless preprocess.json has the steps of config.json; it may be missing.

    Args:
        folder: The folder.
        description: The description in its config.json.
    """
    file = folder / STEPS_FILE
    if not os.path.lexists(file):
        return
    stored = read_source_json(file, StoredSteps, what="the steps to a network's input")
    for name, ours in preprocess(description).items():
        if name in stored and stored[name] != (tuple(ours) if isinstance(ours, list) else ours):
            raise DataError(
                f"{file} has {name} = {brief(stored[name])}, and {CONFIG_FILE} beside it"
                f" {brief(ours)}: undo the change, or write a new folder with `convert to folder`"
            )
