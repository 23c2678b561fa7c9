"""timm's architectures for our encoders: their names, arguments and arrays.

timm's `VisionTransformer` has a position table; its `Eva` has rotations, and other names for the
scales of the branches and the biases of queries and values.
"""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from msgspec import Meta

from fsvfm_jax.convert import names
from fsvfm_jax.errors import ConfigError, DataError, brief
from fsvfm_jax.models.vit import OPTIONS, ViT

LOG = logging.getLogger(__name__)

StateDict = Mapping[str, np.ndarray]

# timm's names by width. All measures are stored beside the name, so networks of other widths use
# any name.
BY_WIDTH = {
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
    1280: "vit_huge_patch14_224",
}
# Architectures whose norms have the epsilon 1e-5.
WITH_EPSILON_5 = "vit_base_patch16_clip_224"
EVA = {"rope": "vit_base_patch16_dinov3", "table_and_rope": "vit_pe_core_base_patch16_224"}
EPSILON, EPSILON_5 = 1e-6, 1e-5
POOL_QKV, POOL_Q, POOL_KV = "attn_pool.qkv", "attn_pool.q", "attn_pool.kv"
PATCH_BIAS, QKV_BIAS = "patch_embed.proj.bias", "attn.qkv.bias"


class StoredOptions(TypedDict):
    """Options of the encoder in a folder's config.json that are not the papers'."""

    class_token: NotRequired[bool]
    registers: NotRequired[Annotated[int, Meta(ge=0, le=2**10)]]
    positions: NotRequired[str]
    prefix_positions: NotRequired[Annotated[int, Meta(ge=0, le=2**10)]]
    pre_norm: NotRequired[bool]
    layer_scale: NotRequired[bool]
    activation: NotRequired[str]
    layer_norm_epsilon: NotRequired[Annotated[float, Meta(ge=0, le=1)]]
    patch_bias: NotRequired[bool]
    key_bias: NotRequired[bool]
    pool_heads: NotRequired[Annotated[int, Meta(ge=0, le=2**16)]]


class Architecture(NamedTuple):
    """A network of timm: the name of its architecture, and the arguments that differ from it."""

    name: str
    arguments: dict[str, Any]


def architecture(model: Mapping[str, Any]) -> Architecture:
    """Returns timm's architecture of an encoder, without its measures and its pooling.

    Args:
        model: Measures and options.

    Raises:
        ConfigError: timm has no such network.
    """
    options = _options(model)
    rotates = options["positions"] != "table"
    if options["pre_norm"] and options["patch_bias"]:
        raise ConfigError("timm has no bias of the patches in a network with a norm before blocks")
    if rotates and options["activation"] != "gelu":
        raise ConfigError(f"timm has no rotations with the activation {options['activation']!r}")
    if options["positions"] == "rope" and options["key_bias"]:
        raise ConfigError("timm has no bias of the keys in a network with DINOv3's rotations")
    epsilon = options["layer_norm_epsilon"]
    if epsilon not in (EPSILON, EPSILON_5) or (rotates and epsilon != EPSILON_5):
        LOG.warning(
            "timm's network has another epsilon of its norms than %g, which changes its outputs"
            " slightly if tokens vary little",
            epsilon,
        )
    if options["pool_heads"] and not rotates:
        if options["pool_heads"] != model["num_heads"]:
            raise ConfigError(
                f"timm's attention pool has as many heads as the blocks, {model['num_heads']}, and"
                f" not {options['pool_heads']}, in a network without rotations; for"
                " an encoder, --pool=mean leaves the pool out"
            )
        if _prefix(options):
            raise ConfigError(
                "timm's attention pool does not attend to class token and registers in a network"
                " without rotations, and the pool here does; for an encoder, --pool=mean leaves the"
                " pool out"
            )
    if rotates:
        return Architecture(EVA[options["positions"]], _eva_arguments(model, options))
    close = epsilon != EPSILON_5
    name = BY_WIDTH.get(model["width"], BY_WIDTH[768]) if close else WITH_EPSILON_5
    arguments = {"class_token": options["class_token"]}
    if options["registers"]:
        arguments["reg_tokens"] = options["registers"]
    if _prefix(options) and not options["prefix_positions"]:
        arguments["no_embed_class"] = True
    if options["pre_norm"] or not close:
        arguments["pre_norm"] = options["pre_norm"]
    if options["layer_scale"]:
        arguments["init_values"] = 1.0
    if options["activation"] != "gelu":
        arguments["act_layer"] = options["activation"]
    return Architecture(name, arguments)


def to_timm(arrays: StateDict, model: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts our names of files to those of timm's network, and leaves out what it does not have.

    Args:
        arrays: Arrays of an encoder or a detector under our names of files.
        model: Measures and options.
    """
    options, found = _options(model), dict(arrays)
    if options["pre_norm"]:
        found.pop(PATCH_BIAS, None)
    rows, prefix = options["prefix_positions"], _prefix(options)
    if "pos_embed" in found and 0 < rows < prefix:
        table = found["pos_embed"]
        zeros = np.zeros((1, prefix - rows, table.shape[2]), table.dtype)
        found["pos_embed"] = np.concatenate([table[:, :rows], zeros, table[:, rows:]], axis=1)
    for kind in ("weight", "bias"):
        if (joined := found.pop(f"{POOL_QKV}.{kind}", None)) is not None:
            query, *others = np.split(joined, 3)
            found |= {f"{POOL_Q}.{kind}": query, f"{POOL_KV}.{kind}": np.concatenate(others)}
    if options["positions"] == "table":
        return found
    renamed = {_gamma(name): array for name, array in found.items()}
    if options["positions"] == "table_and_rope":
        return renamed
    for name in [name for name in renamed if name.endswith(QKV_BIAS)]:
        query, _, value = np.split(renamed.pop(name), 3)
        start = name.removesuffix("qkv.bias")
        renamed |= {f"{start}q_bias": query, f"{start}v_bias": value}
    return renamed


def from_timm(arrays: StateDict, model: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts arrays as `to_timm` returns them back to our names of files.

    Args:
        arrays: The arrays.
        model: Measures and options.

    Raises:
        DataError: The position table has another number of rows.
    """
    options = _options(model)
    if options["positions"] == "table_and_rope":
        arrays = {_gamma(name, back=True): array for name, array in arrays.items()}
    if options["positions"] == "rope" or options["pre_norm"] or names.LATENT in arrays:
        of = names.EVA if options["positions"] == "rope" else names.TIMM
        arrays = names.rename(arrays, of._replace(others="")).state_dict
    rows, prefix = options["prefix_positions"], _prefix(options)
    if "pos_embed" not in arrays or not 0 < rows < prefix:
        return dict(arrays)
    table = arrays["pos_embed"]
    if table.ndim != 3 or table[:, rows:prefix].any():
        raise DataError(
            f"'pos_embed' has positions of register tokens, and config.json says"
            f" {brief(rows)} rows before the patches"
        )
    without = np.concatenate([table[:, :rows], table[:, prefix:]], axis=1)
    return dict(arrays) | {"pos_embed": without}


def _eva_arguments(model: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    side = model["image_size"] // model["patch_size"]
    arguments = {
        "class_token": options["class_token"],
        "num_reg_tokens": options["registers"],
        "use_pre_transformer_norm": options["pre_norm"],
        "init_values": 1.0 if options["layer_scale"] else None,
    }
    if options["pool_heads"]:
        arguments["attn_pool_num_heads"] = options["pool_heads"]
    if options["positions"] == "rope":
        return arguments | {"qkv_bias": True}
    no_rows = bool(_prefix(options)) and not options["prefix_positions"]
    return arguments | {"no_embed_class": no_rows, "ref_feat_shape": [side, side]}


def _options(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all options of an encoder with these measures."""
    from_model = {name: model[name] for name in OPTIONS if name in model}
    return {name: getattr(ViT, name) for name in OPTIONS} | from_model


def _prefix(options: Mapping[str, Any]) -> int:
    return options["class_token"] + options["registers"]


def _gamma(name: str, *, back: bool = False) -> str:
    """Returns `Eva`'s name of a block's scale, or ours."""
    for number in "12":
        ours, theirs = f".ls{number}.gamma", f".gamma_{number}"
        old, new = (theirs, ours) if back else (ours, theirs)
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
