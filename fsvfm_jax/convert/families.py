"""Families of encoders: what identifies one, what no array shows of it, and facts about it."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fsvfm_jax.convert import names
from fsvfm_jax.convert.names import Names, Renamed
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.errors import DataError
from fsvfm_jax.models.positions import DINOV3_BASE

IMAGENET = Stats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP_STATS = Stats((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = Stats((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Family(NamedTuple):
    """Facts about a family of encoders; what a folder states about its weights precedes them.

    Attributes:
        stats: Mean and standard deviation that normalise the images.
        image_size: Side of the images in pixels, if no array shows it.
        pool: What others take as the feature: the class "token", the "mean" of the patches, or the
            output of the "attention" pool.
        options: Attributes of `ViT` that no array shows.
        small_heads: Heads of a network of 384 channels.
        pool_heads: Heads of the attention pool; None for as many as in the blocks.
    """

    stats: Stats
    image_size: int
    pool: str
    options: Mapping[str, Any]
    small_heads: int = 6
    pool_heads: int | None = None


FAMILIES = {
    "DINOv2": Family(IMAGENET, 518, "token", {}),
    "DINOv3": Family(
        IMAGENET,
        224,
        "token",
        {"positions": "rope", "layer_norm_epsilon": 1e-5, "key_bias": False},
    ),
    # OpenAI's, open_clip's and FaRL's files do not differ in their names.
    "CLIP": Family(CLIP_STATS, 224, "token", {"layer_norm_epsilon": 1e-5}),
    "SigLIP": Family(HALF, 224, "attention", {}),
    "Perception Encoder": Family(
        HALF,
        224,
        "attention",
        {"positions": "table_and_rope", "layer_norm_epsilon": 1e-5},
        pool_heads=8,
    ),
    "MoCo v3": Family(IMAGENET, 224, "token", {}, small_heads=12),
    "DINO": Family(IMAGENET, 224, "token", {}),
    "AugReg": Family(HALF, 224, "token", {}),
}
# Parts of timm's name of an architecture with its tag, and the family.
TIMM_NAMES = {
    "dinov2": "DINOv2",
    "dinov3": "DINOv3",
    "_pe_core": "Perception Encoder",
    "siglip": "SigLIP",
    "clip": "CLIP",
    ".augreg": "AugReg",
    ".dino": "DINO",
}
# What a key, or its end, shows that no option stands for.
NOT_SUPPORTED = {
    r"\.mlp\.(w12|w1|gate_proj|fc1_g)\.": "a gated MLP (SwiGLU)",
    r"(dist_token|distillation_token)$": "a distillation token",
    r"(\.(q|k)_norm\.|\.(q|k)_layernorm\.)": "norms of queries and keys",
    r"(rel_pos|relative_position)": "relative positions",
    r"rope\.freqs": "learnt rotations (mixed RoPE)",
    r"\.attn\.norm\.": "a norm inside the attention",
    r"\.mlp\.norm\.": "a norm inside the MLP",
}


def family_of(
    renamed: Renamed, of: Names, *, architecture: str = "", prefix: str = ""
) -> str | None:
    """Returns the name of the family of an encoder, one of `FAMILIES`, or None.

    Args:
        renamed: Its arrays.
        of: The names of its library.
        architecture: timm's name of the architecture with its tag, if known.
        prefix: What preceded the keys in the file.

    Raises:
        DataError: The network has names of a network with rotations and is of no family, or it
            has an attention pool beside a class token and is no Perception Encoder.
    """
    family = _family_of(renamed, of, architecture=architecture, prefix=prefix)
    keys = renamed.state_dict
    has_prefix = bool({"cls_token", "reg_token"} & keys.keys())
    if names.has_pool(keys) and has_prefix and family != "Perception Encoder":
        raise DataError(
            f"the network has an attention pool ({names.LATENT}) beside a class token or registers,"
            " which is supported for Perception Encoder only; of its files, those of timm are read"
            " as safetensors with their config.json beside them"
        )
    return family


def _family_of(renamed: Renamed, of: Names, *, architecture: str, prefix: str) -> str | None:
    keys = renamed.state_dict
    if of in (names.DINOV3, names.HF_DINOV3):
        return "DINOv3"
    if of in (names.DINOV2, names.HF_DINOV2):
        return "DINOv2"
    for part, family in TIMM_NAMES.items():
        if part in architecture:
            return family
    if "base_encoder" in prefix:
        return "MoCo v3"
    if of is names.EVA:
        if {"cls_token", "reg_token"} <= keys.keys() and "pos_embed" not in keys:
            return "DINOv3"
        raise DataError(
            "the network may have rotations of any kind: only DINOv3's and Perception Encoder's"
            " are supported"
        )
    if of is names.OPENAI:
        return "Perception Encoder" if names.has_pool(keys) else "CLIP"
    if "norm_pre.weight" in keys:
        return "CLIP"
    if names.has_pool(keys):
        return "SigLIP"
    if of is names.HF_CLIP:
        return "SigLIP"
    layer_scale = "blocks.0.ls1.gamma" in keys
    return "DINOv2" if layer_scale and _patch_size(renamed) == 14 else None


def check_supported(keys: Mapping[str, Any]) -> None:
    """Raises DataError if an array belongs to a kind of network that no option stands for.

    Args:
        keys: Arrays by their names.
    """
    for pattern, what in NOT_SUPPORTED.items():
        found = next((key for key in keys if re.search(pattern, key)), None)
        if found:
            raise DataError(f"the network has {what}, which is not supported ({found})")
    for key, array in keys.items():
        if getattr(array, "ndim", 0) == 5 and re.search(r"patch|conv", key):
            raise DataError(
                f"the network is one for videos: its patches are {array.shape[2]} frames deep"
                f" ({key} {array.shape}), and an encoder here takes single images"
            )


def check_periods(state_dict: Mapping[str, np.ndarray]) -> None:
    """Raises DataError if the periods in an original file of DINOv3 are not those of `positions`.

    The files have them rounded to bfloat16.
    """
    periods = state_dict.get("rope_embed.periods")
    if periods is None:
        return
    count = len(periods) if periods.ndim == 1 else 0
    expected = DINOV3_BASE ** (np.arange(count) / max(count, 1))
    if not count or not np.allclose(np.asarray(periods, np.float64), expected, rtol=0.01, atol=0):
        raise DataError(
            "the network rotates with other periods than DINOv3's (rope_embed.periods), which is"
            " not supported"
        )


def heads_of(family: str, width: int) -> int | None:
    """Returns the number of heads of a published network of a family, if the width shows it."""
    if width == 384:
        return FAMILIES[family].small_heads
    return width // 64 if width in (192, 768, 1024) else None


def options_of(renamed: Renamed, family: str | None) -> dict[str, Any]:
    """Returns the options of an encoder that no array shows, or only the absence of a bias.

    Args:
        renamed: Its arrays.
        family: Its family, or None.
    """
    options = dict(FAMILIES[family].options) if family else {}
    for option, bias in (("patch_bias", "patch_embed.proj.bias"), ("key_bias", "attn.qkv.bias")):
        if bias in renamed.no_bias:
            options[option] = False
    return options


def arrays_of(renamed: Renamed, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns an encoder's arrays; the bias of keys that has no effect becomes zero.

    DINOv3's original files have such a bias, and an array that hides it.
    """
    arrays = dict(renamed.state_dict)
    if options.get("key_bias", True):
        return arrays
    for name in [name for name in arrays if name.endswith("attn.qkv.bias")]:
        if arrays[name].ndim == 1:
            third = len(arrays[name]) // 3
            arrays[name] = np.array(arrays[name])
            arrays[name][third : 2 * third] = 0
    return arrays


def _patch_size(renamed: Renamed) -> int:
    patches = renamed.state_dict.get("patch_embed.proj.weight")
    return patches.shape[-1] if patches is not None and patches.ndim else 0
