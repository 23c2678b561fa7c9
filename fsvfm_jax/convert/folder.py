"""Writes one folder that timm, Hugging Face and plain PyTorch load; `read_folder` reads it back.

`model.safetensors` contains the encoder, and a linear head, under timm's names. Layers that timm
does not have (FS-Adapter, anti-spoofing head) are in a file of their own, with a loader for
PyTorch. Without its encoder, a folder contains what fine-tuning made (`tuned.py`). `config.json` is
that of timm and Hugging Face, with the `Description` under `fsvfm_jax`.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fsvfm_jax.convert import reference
from fsvfm_jax.convert.architectures import from_timm, to_timm
from fsvfm_jax.convert.card import (
    Description,
    model_card,
    preprocess,
    timm_config,
)
from fsvfm_jax.convert.finite import check_finite
from fsvfm_jax.convert.folder_config import (
    CONFIG_FILE,
    STEPS_FILE,
    check_steps,
    check_timm,
    read_config,
)
from fsvfm_jax.convert.licenses import LICENSES, is_license
from fsvfm_jax.convert.measures import network
from fsvfm_jax.convert.safetensors import load_safetensors, save_safetensors
from fsvfm_jax.convert.source_files import file_sha256
from fsvfm_jax.convert.tuned import StateDict, Tuned, add_factors, small_file
from fsvfm_jax.data.stats import make_stats
from fsvfm_jax.errors import ConfigError, DataError, StorageError, reason_of, short_list
from fsvfm_jax.models.adapter import POOLS
from fsvfm_jax.models.layers import LAYER_NORM_EPSILON
from fsvfm_jax.train_state import Params

MODEL_FILE = "model.safetensors"
ADAPTER_FILE = "adapter.safetensors"
FAS_FILE = "head.safetensors"
TUNED_FILE = "tuned.safetensors"
LOADER = Path(__file__).with_name("load_fsvfm.py")
# Layers that the loader adds to timm's network. It adds `head` too if one of these is present.
OUTSIDE_TIMM = ("adapter.", "projector.", "embedder.", "classifier.")


class Exported(NamedTuple):
    """The content of a folder: our parameters, float32, and their description."""

    params: Params
    description: Description


def write_folder(
    folder: Path,
    params: Mapping[str, Any],
    description: Description,
    *,
    with_encoder: bool = True,
    tuned: Tuned | None = None,
    allow_not_finite: bool = False,
) -> None:
    """Writes an encoder or a detector as a folder.

    Args:
        folder: The folder to make; if it exists it must be empty.
        params: Encoder's or detector's tree.
        description: Description of these parameters.
        with_encoder: False writes only what fine-tuning made, usually a few MB. The folder is
            loaded together with the folder of the encoder that was fine-tuned.
        tuned: The detector and its way of training, if it is known and does not train all.
        allow_not_finite: Whether to write weights that are infinite or not a number.

    Raises:
        ConfigError: The description or `with_encoder` does not fit the parameters, or the licence
            is not an identifier.
        DataError: Some weights are not finite.
        StorageError: The folder is not empty or cannot be written.
    """
    num_classes = _check_description(params, description)
    if not is_license(description.license):
        raise ConfigError(f"the licence is {description.license!r}: {LICENSES}")
    if not allow_not_finite:
        check_finite(params, what=description.source)
    model, outside = split(timm_names(params, description.model))
    head_file = ADAPTER_FILE if "adapter" in params else FAS_FILE
    if not with_encoder and "adapter" not in params:
        (outside, model), head_file = (
            small_file(tuned, partial(timm_names, model=description.model)),
            TUNED_FILE,
        )
    # timm has no head for a network with an adapter or an anti-spoofing head.
    config = timm_config(params, description, num_classes=0 if outside else num_classes)
    files = {MODEL_FILE: model} if with_encoder else {}
    if outside:
        files[head_file] = outside
        config["fsvfm_jax"] |= {"head_file": head_file, "encoder_sha256": encoder_sha256(model)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StorageError(f"{folder} is not empty; name a new folder")
        for name, arrays in files.items():
            # For the Hub and transformers, "pt" means that the arrays have PyTorch's layout.
            save_safetensors(folder / name, arrays, metadata={"format": "pt"})
        config["fsvfm_jax"]["sha256"] = {name: file_sha256(folder / name) for name in files}
        _write_json(folder / CONFIG_FILE, config)
        _write_json(folder / STEPS_FILE, preprocess(description))
        (folder / "README.md").write_text(model_card(folder.name, config), encoding="utf-8")
        if outside:
            shutil.copyfile(LOADER, folder / LOADER.name)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({reason_of(error)})") from error


def read_folder(folder: Path, *, encoder: Path | None = None) -> Exported:
    """Reads a folder that `write_folder` wrote.

    Args:
        folder: Folder of an encoder or a detector.
        encoder: Folder of the encoder, if `folder` does not contain it.

    Returns:
        Parameters and description.

    Raises:
        DataError: A file is missing, damaged or does not match config.json, or preprocess.json
            differs from config.json, or the encoder is not the encoder that was fine-tuned.
    """
    config = read_config(folder)
    stored = config["fsvfm_jax"]
    hashes = stored.pop("sha256")
    encoder_hash = stored.pop("encoder_sha256", None)
    epsilon = stored["model"].get("layer_norm_epsilon", LAYER_NORM_EPSILON)
    if stored.pop("layer_norm_epsilon", epsilon) != epsilon:
        raise DataError(f"{folder / CONFIG_FILE} has two values of layer_norm_epsilon")
    try:
        given = stored | {
            "stats": make_stats(**stored["stats"]),
            "label_names": tuple(stored["label_names"]),
        }
        description = Description(**given)
    except (ConfigError, ValueError) as error:
        raise DataError(f"{folder / CONFIG_FILE} cannot be that of our weights: {error}") from error
    state_dict: StateDict = {}
    for name, sha256 in hashes.items():
        if name not in (MODEL_FILE, ADAPTER_FILE, FAS_FILE, TUNED_FILE):
            raise DataError(f"{folder / CONFIG_FILE} names {name!r}, which is no file of ours")
        state_dict |= load_safetensors(folder / name, sha256=sha256)
    if MODEL_FILE not in hashes:
        pool = stored["model"]["pool"]
        state_dict |= _encoder_for(folder, encoder, state_dict, encoder_hash, pool=pool)
    if TUNED_FILE in hashes:
        state_dict = add_factors(state_dict)
    params = reference.to_params(from_timm(state_dict, stored["model"]))
    try:
        _check_description(params, description)
        of_timm = timm_config(params, description, num_classes=0)
    except (ConfigError, TypeError, ValueError, ArithmeticError) as error:
        raise DataError(
            f"{folder / CONFIG_FILE} and the weights beside it differ: {error}"
        ) from error
    check_timm(folder, config, of_timm)
    check_steps(folder, description)
    return Exported(params, description)


def timm_names(
    params: Mapping[str, Any], model: Mapping[str, Any] = MappingProxyType({})
) -> StateDict:
    """Returns the parameters under timm's names, or the reference's names where timm has none.

    Args:
        params: Encoder's or detector's tree.
        model: Its measures; without options (`vit.OPTIONS`) the papers' network.
    """
    state_dict = {
        name.removeprefix(reference.FAS_PREFIX): array
        for name, array in reference.to_state_dict(params).items()
        if name not in reference.FAS_COPIES
    }
    return to_timm(state_dict, model)


def split(state_dict: StateDict) -> tuple[StateDict, StateDict]:
    """Splits a state dict into timm's network and the layers on top of it.

    The norm of pooled features is in both parts: it belongs to timm's network, but not to an
    encoder that is read from another folder.
    """
    outside = {name: x for name, x in state_dict.items() if name.startswith(OUTSIDE_TIMM)}
    if not outside:
        return state_dict, {}
    heads = {name: x for name, x in state_dict.items() if name.startswith("head.")}
    norm = {name: x for name, x in state_dict.items() if name.startswith("fc_norm.")}
    model = {name: x for name, x in state_dict.items() if name not in outside | heads}
    return model, outside | heads | norm


def encoder_sha256(state_dict: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of an encoder's arrays in the order of their names, like the loader."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        if not name.startswith(("fc_norm.", "head.")):
            digest.update(np.ascontiguousarray(state_dict[name], np.float32).tobytes())
    return digest.hexdigest()


def _check_description(params: Mapping[str, Any], description: Description) -> int:
    """Returns the number of classes; raises ConfigError if description and arrays differ."""
    measures = dict(description.model)
    if measures.get("pool") not in POOLS or "num_heads" not in measures:
        raise ConfigError(f"a description's model has pool ({' or '.join(POOLS)}) and num_heads")
    kind = reference.kind(params)
    if kind not in ("encoder", "detector"):
        raise ConfigError(f"a {kind} has no place in a folder: give its encoder_subset")
    is_detector = kind == "detector"
    if measures["pool"] == "token" and not measures.get("class_token", True):
        raise ConfigError("the network has no class token: its pool cannot be 'token'")
    has_pool = "attn_pool" in params
    if {has_pool} != {measures["pool"] == "attention", bool(measures.get("pool_heads"))}:
        described = f"pool = {measures['pool']!r}, pool_heads = {measures.get('pool_heads', 0)}"
        has = "an" if has_pool else "no"
        raise ConfigError(f"the network has {has} attention pool, and its description {described}")
    if not is_detector:
        del measures["pool"]  # The pooling is a recommendation and not a part of the network.
    network(params, **measures)
    num_classes = len(params.get("classifier", params.get("head"))["bias"]) if is_detector else 0
    names = description.label_names
    if len(names) != num_classes or len(set(names)) != num_classes:
        shown = short_list([repr(name) for name in names])
        raise ConfigError(f"{num_classes} classes need as many different names, not [{shown}]")
    return num_classes


def _encoder_for(
    folder: Path, encoder: Path | None, detector: StateDict, sha256: str | None, *, pool: str
) -> StateDict:
    """Reads the arrays of the encoder that the detector uses and that are not in `detector`."""
    if encoder is None:
        raise DataError(
            f"{folder} does not contain its encoder: name the encoder's folder too (--encoder,"
            " or config.init.encoder in an evaluation)"
        )
    dropped = ("fc_norm.", "head.")
    if "fc_norm.weight" in detector:
        dropped += ("norm.",)
    if pool != "attention":
        dropped += ("attn_pool.",)
    arrays = {
        name: array
        for name, array in load_safetensors(encoder / MODEL_FILE).items()
        if not name.startswith(dropped) and name not in detector
    }
    if encoder_sha256(arrays) != sha256:
        raise DataError(
            f"{encoder} holds another encoder than the one that {folder} belongs to; an encoder of"
            " another library must be exported first: python -m fsvfm_jax.convert to folder"
        )
    return arrays


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
