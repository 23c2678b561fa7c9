"""Finds the measures of a network in the shapes of its parameters, as far as shapes show them.

The number of attention heads changes no shape. It is known if all shapes are those of a size of
`models.vit.SIZES`, except for a plain ViT-S, to which other libraries give another number. For all
other networks it must be given, because a network with a wrong number loads without error and
computes something else.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from fsvfm_jax.convert.reference import kind
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models import build, build_detector, build_encoder
from fsvfm_jax.models.fsvfm import FSVFM, teacher_subset
from fsvfm_jax.models.vit import OPTIONS, SIZES, ViT

# Measures that no array's shape shows.
HEADS = ("num_heads", "decoder_num_heads", "rep_decoder_num_heads")
HEADS_OF = {
    "encoder": ("num_heads",),
    "detector": ("num_heads",),
    "teacher": ("num_heads", "rep_decoder_num_heads"),
    "student": HEADS,
}
# Measures and options that no array's shape shows, or not always.
UNSEEN = (
    *(*HEADS, "image_size", "positions", "prefix_positions"),
    *("activation", "layer_norm_epsilon", "patch_bias", "key_bias", "pool_heads"),
)
# Heads of timm's plain vision transformers, whose shapes and names are those of our encoders.
TIMM_HEADS = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12, "vit_large": 16, "vit_huge": 16}
# The decoders of every published size are the network's defaults.
PIXEL_DECODER = {"decoder_width": FSVFM.decoder_width, "decoder_depth": FSVFM.decoder_depth}
REP_DECODER = {"rep_decoder_depth": FSVFM.rep_decoder_depth}


class UnknownHeads(ConfigError):
    """A number of heads must be given.

    Attributes:
        kind: Of the network.
        measures: What is known of it.
        file: What is known of its file, as `weights.LoadedWeights.file`.
    """

    file: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, message: str, *, kind: str, measures: dict[str, Any]):
        super().__init__(message)
        self.kind, self.measures = kind, measures


def measures(params: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Returns the attributes of a tree's network, for `build`, `build_detector` or `ViT`.

    Args:
        params: A tree of ours: student, teacher, encoder or detector.
        given: Attributes that no shape shows, such as `num_heads`; heads of parts that the network
            does not have are ignored.

    Returns:
        The attributes, without options (`vit.OPTIONS`) that have their default.

    Raises:
        DataError: The tree does not belong to a known network.
        UnknownHeads: A number of heads is neither given nor known.
        ConfigError: A given attribute differs from the shapes.
    """
    name = kind(params)
    arrays = traverse_util.flatten_dict(dict(params), sep="/")
    found = _encoder_measures(arrays, given)
    if name == "detector":
        found |= _detector_measures(arrays)
    if name in ("student", "teacher"):
        found |= _teacher_measures(arrays)
    if name == "student":
        found |= _student_measures(arrays)
    others = set(HEADS) - set(HEADS_OF[name])
    has_pool = "attn_pool/latent" in arrays
    if not has_pool:
        others.add("pool_heads")
    for attribute, value in given.items():
        if attribute not in others and found.setdefault(attribute, value) != value:
            raise ConfigError(
                f"{attribute} is {found[attribute]} by the arrays' shapes, not {value} as given"
            )
    found = {x: value for x, value in found.items() if x not in OPTIONS or value != getattr(ViT, x)}
    found = _known_heads(found, name) | found
    if has_pool and "pool_heads" not in found:
        raise UnknownHeads(
            "pool_heads must be given: the heads of the attention pool are in no shape",
            kind=name,
            measures=found | {"pool_heads": None},
        )
    return found


def unseen(model: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """Returns the measures and options of a network that `measures` must be given."""
    return {name: model[name] for name in UNSEEN if model.get(name) is not None}


def network(params: Mapping[str, Any], **given: Any) -> ViT:
    """Returns the network of a tree, after a check of every array's shape.

    Args:
        params: A tree of ours: student, teacher, encoder or detector.
        given: Attributes that no shape shows, such as `num_heads`.

    Returns:
        An `FSVFM`, a `Detector` or, for an encoder, a `ViT`.

    Raises:
        DataError: The tree does not belong to a known network, or some arrays do not fit the
            others.
        ConfigError: As for `measures`.
    """
    name, attributes = kind(params), measures(params, **given)
    if name == "encoder":
        model = build_encoder(attributes)
        _check_shapes(params, shapes_of(model))
        return model
    model = build_detector(attributes) if name == "detector" else build(attributes)
    shapes = shapes_of(model)
    _check_shapes(params, teacher_subset(shapes) if name == "teacher" else shapes)
    return model


def _encoder_measures(arrays: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    pixels, width = arrays["patch_embed/kernel"].shape
    patch_size = math.isqrt(pixels // 3)
    if 3 * patch_size**2 != pixels:
        raise DataError(f"'patch_embed' takes {pixels} values: not a square patch of three colours")
    found = {
        "class_token": "cls_token" in arrays,
        "registers": arrays["reg_token"].shape[1] if "reg_token" in arrays else 0,
        "pre_norm": "norm_pre/scale" in arrays,
        "layer_scale": "blocks/ls1/scale" in arrays,
    }
    prefix = found["class_token"] + found["registers"]
    if given.get("positions") == "rope" and "pos_embed" not in arrays:
        if "image_size" not in given:
            raise ConfigError("image_size must be given: a network with rotations has no table")
        found |= {"image_size": given["image_size"], "prefix_positions": ViT.prefix_positions}
    elif "pos_embed" not in arrays:
        raise DataError("the tree has no 'pos_embed', so its image size is unknown")
    else:
        table = arrays["pos_embed"]
        rows = given.get("prefix_positions")
        rows = prefix_rows(table, prefix) if rows is None else rows
        side = side_of_table("pos_embed", table, width=width, prefix=rows)
        found |= {"image_size": side * patch_size, "prefix_positions": rows}
    return found | {
        "patch_size": patch_size,
        "width": width,
        "depth": arrays["blocks/norm1/scale"].shape[0],
    }


def prefix_rows(table: np.ndarray | jax.Array, prefix: int) -> int:
    """Returns how many rows of a position table come before those of a square of patches.

    Args:
        table: The table, [1, rows + N, width].
        prefix: Largest number of such rows; if no number up to it fits, it is returned.
    """
    rows = table.shape[1] if table.ndim == 3 else 0
    fitting = [n for n in range(prefix + 1) if rows > n and math.isqrt(rows - n) ** 2 == rows - n]
    # With a class token, a row for it is the rule.
    return 1 if 1 in fitting else (fitting or [prefix])[0]


def side_of_table(name: str, table: np.ndarray | jax.Array, *, width: int, prefix: int = 1) -> int:
    """Returns the number of patches along a side of the image that a position table is for.

    Building a network allocates its tables. This check refuses a size that no array in the file
    has, before memory is allocated for it.

    Args:
        name: Name of the table, for the message.
        table: The table, [1, prefix + N, width].
        width: Channels of a token.
        prefix: Rows before those of the patches.

    Raises:
        DataError: The table is not that of a square of patches of this width.
    """
    side = math.isqrt(max(table.shape[1] - prefix, 0)) if table.ndim == 3 else 0
    if side == 0 or table.shape != (1, side**2 + prefix, width):
        before = f"{prefix} + " if prefix else ""
        raise DataError(
            f"{name!r} has shape {list(table.shape)}: not [1, {before}N, {width}] for N patches of"
            " a square image"
        )
    return side


def _detector_measures(arrays: Mapping[str, Any]) -> dict[str, Any]:
    reduction = 0
    if "adapter/linear1/kernel" in arrays:
        width, narrow = arrays["adapter/linear1/kernel"].shape
        reduction = width // narrow
    fas = "embedder/kernel" in arrays
    pool = "attention" if "attn_pool/latent" in arrays else "token"
    return {
        "num_classes": arrays["classifier/bias" if fas else "head/bias"].shape[0],
        "pool": "mean" if "fc_norm/scale" in arrays else pool,
        "adapter_reduction": reduction,
        "fas": fas,
    }


def _teacher_measures(arrays: Mapping[str, Any]) -> dict[str, Any]:
    if "rep_decoder_pos_embed" in arrays:
        width = arrays["patch_embed/kernel"].shape[-1]
        side_of_table("rep_decoder_pos_embed", arrays["rep_decoder_pos_embed"], width=width)
    return {
        "rep_decoder_depth": arrays["rep_decoder_blocks/norm1/scale"].shape[0],
        "projection_hidden": arrays["projector/fc1/bias"].shape[0],
        "projection_dim": arrays["projector/fc2/bias"].shape[0],
        "rep_pos": "sincos" if np.any(arrays.get("rep_decoder_pos_embed", 0)) else "zeros",
    }


def _student_measures(arrays: Mapping[str, Any]) -> dict[str, Any]:
    width = arrays["decoder_embed/bias"].shape[0]
    if "decoder_pos_embed" in arrays:
        side_of_table("decoder_pos_embed", arrays["decoder_pos_embed"], width=width)
    return {
        "decoder_width": width,
        "decoder_depth": arrays["decoder_blocks/norm1/scale"].shape[0],
    }


def _known_heads(found: dict[str, Any], name: str) -> dict[str, int]:
    """Returns the numbers of heads that the table of sizes shows."""
    encoder = {key: found[key] for key in ("width", "depth", "patch_size")}
    # The sizes are those of the papers' networks, which have no options.
    size = None
    if not found.keys() & set(OPTIONS) - {"activation", "layer_norm_epsilon"}:
        size = next((name for name, x in SIZES.items() if encoder.items() <= x.items()), None)
    heads = {"num_heads": SIZES[size]["num_heads"] if size else None}
    plain = name == "encoder" or {"adapter_reduction": 0, "fas": False}.items() <= found.items()
    if size and plain and "num_heads" not in found:
        _check_same_at_timm(size, found=found, name=name)
    if name in ("student", "teacher"):
        known = size and REP_DECODER.items() <= found.items()
        heads["rep_decoder_num_heads"] = FSVFM.rep_decoder_num_heads if known else None
    if name == "student":
        known = size and PIXEL_DECODER.items() <= found.items()
        heads["decoder_num_heads"] = FSVFM.decoder_num_heads if known else None
    unknown = [
        attribute for attribute, value in heads.items() if value is None and attribute not in found
    ]
    if unknown:
        raise UnknownHeads(
            f"{', '.join(unknown)} must be given (--num-heads for the encoder's): heads are in no"
            f" shape, and width"
            f" {found['width']}, depth {found['depth']}, patch {found['patch_size']} and its"
            f" decoders are of no size known here ({', '.join(SIZES)})",
            kind=name,
            measures=dict.fromkeys(HEADS_OF[name]) | heads | found,
        )
    return {attribute: value for attribute, value in heads.items() if value is not None}


def _check_same_at_timm(size: str, *, found: dict[str, Any], name: str) -> None:
    """Raises UnknownHeads if timm's network of these shapes has another number of heads."""
    ours, theirs = SIZES[size]["num_heads"], TIMM_HEADS[size.rsplit("_", 1)[0]]
    if ours != theirs:
        raise UnknownHeads(
            f"num_heads must be given: of these shapes this project's network has {ours}"
            f" (--model={size}) and timm's {theirs} (--num-heads={theirs})",
            kind=name,
            measures={"num_heads": None} | found,
        )


@lru_cache(maxsize=16)
def shapes_of(model: ViT) -> dict[str, Any]:
    """Returns the shapes of a network's parameters, which nobody may change.

    They are kept, because tracing a network takes a third of a second.
    """
    return jax.eval_shape(model.init_params, jax.random.key(0))


def _check_shapes(params: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    arrays = traverse_util.flatten_dict(dict(params), sep="/")
    wanted = traverse_util.flatten_dict(dict(expected), sep="/")
    problems = [
        f"{name} is {list(arrays[name].shape) if name in arrays else 'missing'} and not"
        f" {list(wanted[name].shape)}"
        for name in wanted
        if name not in arrays or arrays[name].shape != wanted[name].shape
    ]
    problems += [f"{name} is no array of the network" for name in arrays if name not in wanted]
    if problems:
        raise DataError(f"arrays do not fit the network: {'; '.join(problems[:3])}")
