"""Reads what the configs of timm, Hugging Face and open_clip say of an encoder beside them."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec

from fsvfm_jax.convert.licenses import is_license
from fsvfm_jax.convert.measures import TIMM_HEADS
from fsvfm_jax.data.stats import Stats, make_stats
from fsvfm_jax.errors import DataError, brief

HUGGING_FACE_EPSILON = 1e-12
# The names of `activations.ACTIVATIONS` in other libraries.
ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Hugging Face's kinds of models, with the values of fields that are not written.
_CLIP = {"activation": "quick_gelu", "layer_norm_epsilon": 1e-5}
KINDS = {
    **{f"{name}_vision_model": _CLIP for name in ("clip", "altclip", "chinese_clip", "metaclip_2")},
    **{name: _CLIP for name in ("clip", "altclip", "chinese_clip", "metaclip_2")},
    "siglip_vision_model": {"activation": "gelu_tanh", "layer_norm_epsilon": 1e-6},
    "siglip": {"activation": "gelu_tanh", "layer_norm_epsilon": 1e-6},
    "dinov2": {"layer_norm_epsilon": 1e-6},
    "dinov2_with_registers": {"layer_norm_epsilon": 1e-6},
    "dinov3_vit": {"layer_norm_epsilon": 1e-5},
}
# Networks of timm, of sizes S, B and L, that have the tanh form of GELU.
TANH_AT_TIMM = re.compile(r"vit_(base_patch32_siglip_(gap_)?256|large_patch16_siglip_(gap_)?512)")

Heads = Annotated[int, msgspec.Meta(ge=1, le=2**16)]
# A union of a fixed tuple and an integer with limits makes msgspec read memory that is not its own.
MAX_SIDE = 2**14
Three = tuple[float, float, float]


class _ModelArgs(TypedDict, total=False):
    num_heads: Heads | None
    attn_pool_num_heads: Heads | None
    ref_feat_shape: int | list[int] | None
    act_layer: str | None
    img_size: int | list[int] | None


class _Pretrained(TypedDict, total=False):
    mean: Three | None
    std: Three | None
    input_size: list[int] | None
    license: str | None
    tag: str | None


class _Vision(TypedDict, total=False):
    """The fields of Hugging Face that describe an image tower."""

    model_type: str | None
    hidden_act: str | None
    num_attention_heads: Heads | None
    layer_norm_eps: Annotated[float, msgspec.Meta(ge=0, le=1)] | None
    image_size: int | list[int] | None
    rope_theta: float | None
    use_swiglu_ffn: bool | None
    use_gated_mlp: bool | None


class _Preprocessor(TypedDict, total=False):
    image_mean: Three | None
    image_std: Three | None
    mean: Three | None
    std: Three | None


class _OpenClipVision(TypedDict, total=False):
    timm_model_name: str | None


class _OpenClipModel(TypedDict, total=False):
    quick_gelu: bool | None
    vision_cfg: _OpenClipVision | None


class _OpenClip(TypedDict, total=False):
    model_cfg: _OpenClipModel | None
    preprocess_cfg: _Preprocessor | None


class _Config(_Vision, total=False):
    """The fields that are read from a config.json, and the files beside it under their names."""

    vision_config: _Vision | None
    architecture: str | None
    model_args: _ModelArgs | None
    pretrained_cfg: _Pretrained | None
    preprocessor: _Preprocessor | None
    open_clip: _OpenClip | None


class Known(NamedTuple):
    """What configs say of an encoder.

    Attributes:
        architecture: timm's name of the architecture, with its tag; "" for others.
        num_heads: Number of attention heads.
        pool_heads: Number of heads of the attention pool.
        image_size: Side of the images in pixels.
        rotated_side: Patches along a side for which timm's rotations are made.
        options: Options of `ViT`.
        facts: "stats" and "license", if they are known.
    """

    architecture: str = ""
    num_heads: int | None = None
    pool_heads: int | None = None
    image_size: int | None = None
    rotated_side: int | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    facts: Mapping[str, Any] = MappingProxyType({})


def known(config: Mapping[str, Any] | None) -> Known:
    """Returns what configs say of an encoder.

    Args:
        config: As `foreign.Weights.config`.

    Raises:
        DataError: A value has the wrong type, or the network has something that is not supported.
    """
    fields = _checked(config or {})
    vision = fields | (fields.get("vision_config") or {})
    args, pretrained = fields.get("model_args") or {}, fields.get("pretrained_cfg") or {}
    open_clip = fields.get("open_clip") or {}
    for name, what in (("use_swiglu_ffn", "SwiGLU"), ("use_gated_mlp", "a gated MLP (SwiGLU)")):
        if vision.get(name):
            raise DataError(f"the network has {what}, which is not supported ({name})")
    if vision.get("model_type") == "dinov3_vit" and vision.get("rope_theta", 100.0) != 100.0:
        raise DataError(
            f"the network has rope_theta = {brief(vision['rope_theta'])}, and only 100 is supported"
        )
    of_open_clip = (open_clip.get("model_cfg") or {}).get("vision_cfg") or {}
    architecture = fields.get("architecture") or of_open_clip.get("timm_model_name")
    name = ".".join(filter(None, (architecture, pretrained.get("tag"))))
    options = dict(KINDS.get(vision.get("model_type") or "", {}))
    if activation := _activation(name, args, vision, open_clip):
        options["activation"] = activation
    if vision.get("layer_norm_eps") is not None:
        options["layer_norm_epsilon"] = vision["layer_norm_eps"]
    size = re.match(r"vit_(?:pe_core_)?([a-z]+)_patch", name)
    # config.json may contain only the name of the architecture.
    heads = args.get("num_heads") or TIMM_HEADS.get(f"vit_{size[1]}" if size else "")
    pool_heads = args.get("attn_pool_num_heads")
    if "attn_pool_num_heads" in args and pool_heads is None:  # timm: as many as in the blocks
        pool_heads = heads
    sides = args.get("img_size") or pretrained.get("input_size") or vision.get("image_size")
    side = sides[-1] if isinstance(sides, list) and sides else sides
    if side is not None and not (isinstance(side, int) and 1 <= side <= MAX_SIDE):
        raise DataError(f"config.json beside the weights has images of {brief(sides)} pixels")
    preprocess = open_clip.get("preprocess_cfg") or fields.get("preprocessor") or pretrained
    license = pretrained.get("license")
    return Known(
        name,
        vision.get("num_attention_heads") or heads,
        pool_heads,
        side,
        _rotated_side(name, args),
        options,
        {"stats": _stats(preprocess), "license": license if is_license(license) else None},
    )


def _rotated_side(name: str, args: _ModelArgs) -> int | None:
    """Returns the patches along a side for which timm's Perception Encoder makes its rotations."""
    # By default it is the grid of the architecture's own size.
    sizes = re.match(r"vit_pe_\w+_patch(\d+)_(\d+)", name)
    if sizes is None:
        return None
    shape = args.get("ref_feat_shape")
    if shape is None:
        return int(sizes[2]) // max(int(sizes[1]), 1)
    sides = {shape} if isinstance(shape, int) else {*shape}
    if len(sides) != 1:
        raise DataError(f"the network has ref_feat_shape = {brief(shape)}, and it must be a square")
    return sides.pop()


def _activation(name: str, args: _ModelArgs, vision: _Vision, open_clip: _OpenClip) -> str | None:
    """Returns the activation, one of `activations.ACTIVATIONS`; None if nothing says it."""
    theirs = args.get("act_layer") or vision.get("hidden_act")
    if theirs is None and "quickgelu" in name:
        theirs = "quick_gelu"
    if theirs is None and TANH_AT_TIMM.match(name):
        theirs = "gelu_tanh"
    if theirs is None and (model := open_clip.get("model_cfg")) is not None:
        theirs = "quick_gelu" if model.get("quick_gelu") else "gelu"
    if theirs is not None and theirs not in ACTIVATIONS:
        raise DataError(
            f"the network's activation is {brief(theirs)}, not one of {', '.join(ACTIVATIONS)}"
        )
    return None if theirs is None else ACTIVATIONS[theirs]


def _stats(fields: _Preprocessor | _Pretrained) -> Stats | None:
    mean = fields.get("image_mean") or fields.get("mean")
    std = fields.get("image_std") or fields.get("std")
    if mean is None or std is None:
        return None
    try:
        return make_stats(mean, std)
    except ValueError as error:
        raise DataError(f"mean and std beside the weights are odd: {error}") from error


def _checked(config: Mapping[str, Any]) -> _Config:
    try:
        return msgspec.convert(dict(config), _Config)
    except ValueError as error:  # of the wrong shape, or with half of a surrogate pair
        raise DataError(f"config.json beside the weights is odd: {error}") from error
