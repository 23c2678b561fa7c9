"""Networks: `build` and its siblings make one from the name of a size or from attributes."""

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import jax
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from fsvfm_jax.errors import ConfigError, nearest
from fsvfm_jax.models.activations import ACTIVATIONS
from fsvfm_jax.models.adapter import POOLS, Detector
from fsvfm_jax.models.fsvfm import FSVFM
from fsvfm_jax.models.layers import ATTENTIONS, REMATS
from fsvfm_jax.models.positions import POSITIONS
from fsvfm_jax.models.vit import SIZES, ViT
from fsvfm_jax.train_state import Params

Network = TypeVar("Network", bound=ViT)
# The angles of all patches of an image are computed at once.
MAX_ROTATED_SIDE = 128
CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "attention": ATTENTIONS,
    "remat": tuple(REMATS),
    "rep_pos": ("sincos", "zeros"),
    "pool": POOLS,
    "positions": POSITIONS,
    "activation": tuple(ACTIVATIONS),
}


def build(size_or_dict: str | Mapping[str, Any] | ConfigDict) -> FSVFM:
    """Builds the pretraining network.

    Args:
        size_or_dict: A name of `vit.SIZES` (224 pixels, float32), or the attributes of `FSVFM` by
            name. Attributes that are not given, or None, keep their defaults.

    Returns:
        The network, without parameters.

    Raises:
        ConfigError: A name or an attribute is unknown, or one size is not divisible by another.
    """
    model = _make(FSVFM, size_or_dict)
    if not model.class_token:
        raise ConfigError(
            "model.class_token = False: the decoders of pretraining need a class token"
        )
    return model


def build_detector(size_or_dict: str | Mapping[str, Any] | ConfigDict) -> Detector:
    """Builds a downstream network: an encoder with a head, an adapter, or both.

    Args:
        size_or_dict: A name of `vit.SIZES` (mean pool and a linear head), or the attributes of
            `Detector` by name. Attributes that are not given, or None, keep their defaults.

    Returns:
        The network, without parameters.

    Raises:
        ConfigError: A name or an attribute is unknown, or the attributes do not fit together.
    """
    model = _make(Detector, size_or_dict)
    if model.fas and model.pool != "mean":
        raise ConfigError(
            f"model.pool = {model.pool!r} has no anti-spoofing head: use model.pool='mean', or"
            " model.fas=False"
        )
    if model.pool == "token" and not model.class_token:
        raise ConfigError(
            "model.pool = 'token' has no token to pool, since model.class_token = False: use"
            " model.pool='mean'"
        )
    if model.pool == "attention" and not model.pool_heads:
        raise ConfigError(
            "model.pool = 'attention' needs an encoder with an attention pool, and model.pool_heads"
            " = 0: use model.pool='mean'"
        )
    if model.adapter_reduction and model.width % model.adapter_reduction:
        raise ConfigError(
            f"model.width = {model.width} is not divisible by model.adapter_reduction ="
            f" {model.adapter_reduction}"
        )
    if not 0 <= model.drop_path < 1:
        raise ConfigError(f"model.drop_path = {model.drop_path} is not from 0 to below 1")
    return model


def build_encoder(attributes: Mapping[str, Any]) -> ViT:
    """Builds an encoder without head or decoders.

    Args:
        attributes: The attributes of `ViT` by name.

    Raises:
        ConfigError: An attribute is unknown, or the attributes do not fit together.
    """
    return _make(ViT, attributes)


@functools.partial(jax.jit, static_argnums=0)
def initial_params(model: ViT, key: PRNGKeyArray) -> Params:
    """Returns `model.init_params(key)`; models with equal attributes are traced once in a process.

    Args:
        model: Any network of `build`, `build_detector` or `build_encoder`.
        key: Random key.
    """
    return model.init_params(key)


def _make(network: type[Network], size_or_dict: str | Mapping[str, Any] | ConfigDict) -> Network:
    if isinstance(size_or_dict, str):
        if size_or_dict not in SIZES:
            raise ConfigError(
                f"no model is called {size_or_dict!r}; {nearest(size_or_dict, SIZES)}"
            )
        size_or_dict = SIZES[size_or_dict]
    attributes = [f.name for f in fields(network) if f.name not in ("parent", "name")]
    for name in size_or_dict:
        if name not in attributes:
            raise ConfigError(f"a model has no attribute {name!r}; {nearest(name, attributes)}")
    model = network(**{name: x for name, x in size_or_dict.items() if x is not None})
    _check_measures(model)
    _check_positions(model)
    return model


def _check_measures(model: ViT) -> None:
    if model.image_size % model.patch_size:
        raise ConfigError(
            f"image size {model.image_size} is not divisible by patch size {model.patch_size}:"
            " change model.image_size or model.patch_size"
        )
    for width, heads in (
        ("width", "num_heads"),
        ("decoder_width", "decoder_num_heads"),
        ("width", "rep_decoder_num_heads"),
    ):
        if not hasattr(model, heads):
            continue
        if getattr(model, width) % getattr(model, heads):
            raise ConfigError(
                f"model.{width} = {getattr(model, width)} is not divisible by"
                f" model.{heads} = {getattr(model, heads)}"
            )
        if getattr(model, width) % 4:
            raise ConfigError(
                f"model.{width} = {getattr(model, width)} is not divisible by 4, as sine and cosine"
                " of rows and columns need"
            )
    if model.pool_heads and model.width % model.pool_heads:
        raise ConfigError(
            f"model.width = {model.width} is not divisible by model.pool_heads = {model.pool_heads}"
        )
    for name, choices in CHOICES.items():
        value = getattr(model, name, choices[0])
        if value not in choices and (name, value) != ("attention", None):
            raise ConfigError(
                f"model.{name} = {value!r} is unknown; {nearest(str(value), choices)}"
            )
    if model.attention == "cudnn" and model.dtype == "float32":
        raise ConfigError(
            "model.attention = 'cudnn' has no float32: use model.attention='xla', or"
            " model.dtype='bfloat16'"
        )


def _check_positions(model: ViT) -> None:
    rows = model.prefix_positions
    if model.positions != "rope" and not 0 <= rows <= model.num_prefix:
        raise ConfigError(
            f"model.prefix_positions = {rows} is not from 0 to {model.num_prefix}, the number of"
            " tokens before the patches (model.class_token, model.registers)"
        )
    if model.positions == "rope" and rows != ViT.prefix_positions:
        raise ConfigError(
            f"model.prefix_positions = {rows} is of a position table, and a network with"
            " model.positions = 'rope' has none: leave it out"
        )
    side = model.image_size // model.patch_size
    if model.positions != "table" and side > MAX_ROTATED_SIDE:
        raise ConfigError(
            f"model.image_size = {model.image_size} makes {side} patches along a side, and with"
            f" rotations there may be {MAX_ROTATED_SIDE}"
        )
    channels = model.width // model.num_heads
    if model.positions != "table" and channels % 4:
        raise ConfigError(
            f"model.positions = {model.positions!r} needs heads of a multiple of 4 channels, not"
            f" {channels}: change model.num_heads"
        )
