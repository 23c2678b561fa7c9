"""Encoders of timm, MAE and Hugging Face as ours, for warm starts and comparisons."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fsvfm_jax.convert import huggingface, timm
from fsvfm_jax.convert.folder import MODEL_FILE
from fsvfm_jax.convert.measures import TIMM_HEADS, measures, network
from fsvfm_jax.convert.safetensors import load_safetensors
from fsvfm_jax.convert.source_files import read_json
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.layers import LAYER_NORM_EPSILON

LOG = logging.getLogger(__name__)

# The exact GELU, as both libraries call it.
GELU = (None, "gelu")
HUGGING_FACE_EPSILON = 1e-12


class Encoder(NamedTuple):
    """Parameters of an encoder, float32, and its measures, as `ViT` takes them."""

    params: dict[str, Any]
    model: dict[str, Any]


def read_encoder(path: Path, **told: Any) -> Encoder:
    """Reads a folder with model.safetensors and config.json, or a safetensors file.

    Args:
        path: The folder, or the file, of which a config.json beside it is taken to be.
        told: Measures, such as `num_heads`, needed where config.json does not tell them.

    Raises:
        DataError: A file is damaged, or the network is no plain vision transformer.
        ConfigError: The number of heads is not told, or told otherwise by config.json.
    """
    weights = path / MODEL_FILE if path.is_dir() else path
    beside = weights.with_name("config.json")
    config = None
    if path.is_dir() or beside.exists():
        config = read_json(beside, dict[str, Any], what="that of timm or Hugging Face")
    return to_encoder(load_safetensors(weights), config=config, **told)


def to_encoder(
    state_dict: Mapping[str, np.ndarray],
    *,
    config: Mapping[str, Any] | None = None,
    **told: Any,
) -> Encoder:
    """Turns a state dict into our encoder; which library it is of, its keys say.

    Args:
        state_dict: Of timm, of MAE (a `.pth` has timm's keys) or of Hugging Face.
        config: The config.json that came with it, if one did.
        told: Measures, such as `num_heads`, needed where `config` does not tell them.

    Raises:
        DataError: The network is no plain vision transformer with class token and final norm.
        ConfigError: The number of heads is not told, or told otherwise by `config`.
    """
    is_huggingface = any(key.endswith("embeddings.cls_token") for key in state_dict)
    # Hugging Face writes no field that has its default.
    default_epsilon = LAYER_NORM_EPSILON if config is None else HUGGING_FACE_EPSILON
    config = config or {}
    if is_huggingface:
        params = huggingface.to_encoder(state_dict)
        activation, known_heads = config.get("hidden_act"), config.get("num_attention_heads")
        epsilon = config.get("layer_norm_eps", default_epsilon)
        if epsilon != LAYER_NORM_EPSILON:
            LOG.warning(
                "config.json has layer_norm_eps %g; our encoder adds %g, which changes outputs a"
                " little where tokens vary little",
                epsilon,
                LAYER_NORM_EPSILON,
            )
    else:
        params = timm.to_encoder(state_dict)
        name, args = str(config.get("architecture")), config.get("model_args") or {}
        activation = "quick_gelu" if "quickgelu" in name else args.get("act_layer")
        size = re.match(r"vit_[a-z]+(?=_patch)", name)
        # Where config.json gives a name only.
        known_heads = args.get("num_heads") or TIMM_HEADS.get(size[0] if size else "")
    if activation not in GELU:
        raise DataError(f"the network's activation is {activation!r}, ours the exact GELU")
    if known_heads is not None and told.setdefault("num_heads", known_heads) != known_heads:
        raise ConfigError(
            f"config.json says {known_heads} attention heads, not {told['num_heads']} as told"
        )
    network(params, **told)
    return Encoder(params, measures(params, **told))
