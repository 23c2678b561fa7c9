"""Converts between the reference's parameter names (PyTorch) and ours, in NumPy.

A linear weight is [out, in] in PyTorch and [in, out] here. A patch embedding is [out, 3, p, p] in
PyTorch and a linear layer over (row, column, channel) here. Blocks are numbered in PyTorch and
stacked on axis 0 here. A tree may be that of a student, a teacher, an encoder or a detector, or
contain gradients (without position tables).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from fsvfm_jax.errors import DataError


class Layout(NamedTuple):
    """Conversion of one array's layout, from the reference's and to it.

    Attributes:
        to_ours: Converts the reference's array to ours.
        to_reference: The inverse.
        ndim: Dimensions of the reference's array.
    """

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_reference: Callable[[np.ndarray], np.ndarray]
    ndim: int


class Row(NamedTuple):
    """One array: the part of the network it belongs to, its two names, its layout, its block."""

    part: str
    ours: str
    reference: str
    layout: Layout
    block: int | None = None


def _patch_kernel_to_reference(kernel: np.ndarray) -> np.ndarray:
    patch_size = round((kernel.shape[0] / 3) ** 0.5)
    return kernel.reshape(patch_size, patch_size, 3, -1).transpose(3, 2, 0, 1)


VECTOR = Layout(lambda x: x, lambda x: x, 1)
TOKENS = Layout(lambda x: x, lambda x: x, 3)
LINEAR = Layout(np.transpose, np.transpose, 2)
PATCHES = Layout(
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), _patch_kernel_to_reference, 4
)
# The layout of a stack of blocks, whose arrays are in BLOCK_TABLE.
STACK = None

# Columns: part, our name, the reference's name, layout. The rows are in the order of the
# reference's keys. Arrays of a stack have the names of BLOCK_TABLE: ours are `<stack>/<name>` with
# the blocks on axis 0, the reference's `<stack>.<i>.<name>`.
TABLE = (
    ("encoder", "cls_token", "cls_token", TOKENS),
    ("encoder", "reg_token", "reg_token", TOKENS),
    ("encoder", "pos_embed", "pos_embed", TOKENS),
    ("teacher", "mask_token", "mask_token", TOKENS),
    ("teacher", "rep_decoder_pos_embed", "rep_decoder_pos_embed", TOKENS),
    ("student", "decoder_pos_embed", "decoder_pos_embed", TOKENS),
    ("encoder", "patch_embed/kernel", "patch_embed.proj.weight", PATCHES),
    ("encoder", "patch_embed/bias", "patch_embed.proj.bias", VECTOR),
    ("encoder", "norm_pre/scale", "norm_pre.weight", VECTOR),
    ("encoder", "norm_pre/bias", "norm_pre.bias", VECTOR),
    ("encoder", "blocks", "blocks", STACK),
    ("norm", "norm/scale", "norm.weight", VECTOR),
    ("norm", "norm/bias", "norm.bias", VECTOR),
    ("encoder", "attn_pool/latent", "attn_pool.latent", TOKENS),
    ("encoder", "attn_pool/qkv/kernel", "attn_pool.qkv.weight", LINEAR),
    ("encoder", "attn_pool/qkv/bias", "attn_pool.qkv.bias", VECTOR),
    ("encoder", "attn_pool/proj/kernel", "attn_pool.proj.weight", LINEAR),
    ("encoder", "attn_pool/proj/bias", "attn_pool.proj.bias", VECTOR),
    ("encoder", "attn_pool/norm/scale", "attn_pool.norm.weight", VECTOR),
    ("encoder", "attn_pool/norm/bias", "attn_pool.norm.bias", VECTOR),
    ("encoder", "attn_pool/mlp/fc1/kernel", "attn_pool.mlp.fc1.weight", LINEAR),
    ("encoder", "attn_pool/mlp/fc1/bias", "attn_pool.mlp.fc1.bias", VECTOR),
    ("encoder", "attn_pool/mlp/fc2/kernel", "attn_pool.mlp.fc2.weight", LINEAR),
    ("encoder", "attn_pool/mlp/fc2/bias", "attn_pool.mlp.fc2.bias", VECTOR),
    ("teacher", "projector/fc1/kernel", "projector.projection_head.0.weight", LINEAR),
    ("teacher", "projector/fc1/bias", "projector.projection_head.0.bias", VECTOR),
    ("teacher", "projector/norm/scale", "projector.projection_head.1.weight", VECTOR),
    ("teacher", "projector/norm/bias", "projector.projection_head.1.bias", VECTOR),
    ("teacher", "projector/fc2/kernel", "projector.projection_head.3.weight", LINEAR),
    ("teacher", "projector/fc2/bias", "projector.projection_head.3.bias", VECTOR),
    ("student", "predictor/fc1/kernel", "predictor.projection_head.0.weight", LINEAR),
    ("student", "predictor/fc1/bias", "predictor.projection_head.0.bias", VECTOR),
    ("student", "predictor/norm/scale", "predictor.projection_head.1.weight", VECTOR),
    ("student", "predictor/norm/bias", "predictor.projection_head.1.bias", VECTOR),
    ("student", "predictor/fc2/kernel", "predictor.projection_head.3.weight", LINEAR),
    ("student", "predictor/fc2/bias", "predictor.projection_head.3.bias", VECTOR),
    ("teacher", "rep_decoder_embed/kernel", "rep_decoder_embed.weight", LINEAR),
    ("teacher", "rep_decoder_embed/bias", "rep_decoder_embed.bias", VECTOR),
    ("teacher", "rep_decoder_blocks", "rep_decoder_blocks", STACK),
    ("teacher", "rep_decoder_norm/scale", "rep_decoder_norm.weight", VECTOR),
    ("teacher", "rep_decoder_norm/bias", "rep_decoder_norm.bias", VECTOR),
    ("teacher", "rep_decoder_pred/kernel", "rep_decoder_pred.weight", LINEAR),
    ("teacher", "rep_decoder_pred/bias", "rep_decoder_pred.bias", VECTOR),
    ("student", "decoder_embed/kernel", "decoder_embed.weight", LINEAR),
    ("student", "decoder_embed/bias", "decoder_embed.bias", VECTOR),
    ("student", "decoder_blocks", "decoder_blocks", STACK),
    ("student", "decoder_norm/scale", "decoder_norm.weight", VECTOR),
    ("student", "decoder_norm/bias", "decoder_norm.bias", VECTOR),
    ("student", "decoder_pred/kernel", "decoder_pred.weight", LINEAR),
    ("student", "decoder_pred/bias", "decoder_pred.bias", VECTOR),
    ("fc_norm", "fc_norm/scale", "fc_norm.weight", VECTOR),
    ("fc_norm", "fc_norm/bias", "fc_norm.bias", VECTOR),
    ("head", "head/kernel", "head.weight", LINEAR),
    ("head", "head/bias", "head.bias", VECTOR),
    ("adapter", "adapter/linear1/kernel", "adapter.linear1.weight", LINEAR),
    ("adapter", "adapter/linear2/kernel", "adapter.linear2.weight", LINEAR),
    ("adapter", "projector/kernel", "projector.weight", LINEAR),
    ("adapter", "projector/bias", "projector.bias", VECTOR),
    ("fas", "embedder/kernel", "embedder.bottleneck_layer_fc.weight", LINEAR),
    ("fas", "embedder/bias", "embedder.bottleneck_layer_fc.bias", VECTOR),
    ("fas", "classifier/kernel", "classifier.classifier_layer.weight", LINEAR),
    ("fas", "classifier/bias", "classifier.classifier_layer.bias", VECTOR),
)
BLOCK_TABLE = (
    ("norm1/scale", "norm1.weight", VECTOR),
    ("norm1/bias", "norm1.bias", VECTOR),
    ("attn/qkv/kernel", "attn.qkv.weight", LINEAR),
    ("attn/qkv/bias", "attn.qkv.bias", VECTOR),
    ("attn/proj/kernel", "attn.proj.weight", LINEAR),
    ("attn/proj/bias", "attn.proj.bias", VECTOR),
    ("ls1/scale", "ls1.gamma", VECTOR),
    ("norm2/scale", "norm2.weight", VECTOR),
    ("norm2/bias", "norm2.bias", VECTOR),
    ("mlp/fc1/kernel", "mlp.fc1.weight", LINEAR),
    ("mlp/fc1/bias", "mlp.fc1.bias", VECTOR),
    ("mlp/fc2/kernel", "mlp.fc2.weight", LINEAR),
    ("mlp/fc2/bias", "mlp.fc2.bias", VECTOR),
    ("ls2/scale", "ls2.gamma", VECTOR),
)
# The reference has no such arrays, except for the class token: they are those of other projects'
# encoders, under timm's names.
OPTIONAL = {"cls_token", "reg_token", "norm_pre/scale", "norm_pre/bias"}
OPTIONAL |= {f"blocks/{name}/scale" for name in ("ls1", "ls2")}
OPTIONAL |= {ours for _, ours, _, _ in TABLE if ours.startswith("attn_pool/")}
# Limit of the blocks in a stack; the largest network has 32.
MAX_DEPTH = 1000
# The kinds of networks, with the sets of parts that they have; each part must be complete.
NETWORKS = {
    "encoder": ({"encoder", "norm"},),
    "teacher": ({"encoder", "norm", "teacher"},),
    "student": ({"encoder", "norm", "teacher", "student"},),
    "detector": (
        {"encoder", "fc_norm", "head"},
        {"encoder", "norm", "head"},
        {"encoder", "fc_norm", "head", "adapter"},
        {"encoder", "norm", "head", "adapter"},
        {"encoder", "fc_norm", "fas"},
        {"encoder", "fc_norm", "head", "adapter", "fas"},
    ),
}
# The prefix of all keys of an anti-spoofing file, except those of its head.
FAS_PREFIX = "backbone.vit."
# An anti-spoofing file contains its embedder twice, under these keys too.
FAS_COPIES = {
    f"embedder.bottleneck_layer.0.{name}": f"embedder.bottleneck_layer_fc.{name}"
    for name in ("weight", "bias")
}


def to_params(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts the reference's names and layouts to our nested tree; values and dtypes stay.

    Raises:
        DataError: The keys are not those of one of the reference's networks, or an array has a
            shape that its layer cannot have.
    """
    prefix = FAS_PREFIX if any(key.startswith(FAS_PREFIX) for key in state_dict) else ""
    rows = list(_rows(lambda stack: _depth(state_dict, f"{prefix}{stack}."), prefix))
    found = {row.ours for row in rows if row.reference in state_dict}
    rows = [row for row in rows if row.ours in found or row.ours not in OPTIONAL]
    _check_keys(state_dict, rows)
    arrays: dict[str, list[np.ndarray]] = {}
    for row in rows:
        if row.reference not in state_dict:
            continue
        array = np.asarray(state_dict[row.reference])
        blocks = arrays.setdefault(row.ours, [])
        if array.ndim != row.layout.ndim or not array.size:
            raise DataError(
                f"{row.reference!r} has shape {list(array.shape)} and should have"
                f" {row.layout.ndim} dimensions, none of them 0"
            )
        blocks.append(row.layout.to_ours(array))
        if blocks[-1].shape != blocks[0].shape:
            raise DataError(
                f"{row.reference!r} has shape {list(array.shape)}, unlike that of block 0"
            )
    flat = {name: np.stack(x) if "blocks/" in name else x[0] for name, x in arrays.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def to_state_dict(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts our tree to the reference's names and order of keys: the inverse of `to_params`.

    Raises:
        DataError: A parameter does not belong to the reference's networks.
    """
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    depths = {name.split("/")[0]: len(x) for name, x in flat.items() if "blocks/" in name}
    prefix = FAS_PREFIX if "embedder" in params else ""
    rows = list(_rows(lambda stack: depths.get(stack, 0), prefix))
    unknown = min(
        (
            flat.keys() - {row.ours for row in rows if row.part in parts}
            for networks in NETWORKS.values()
            for parts in networks
        ),
        key=len,
    )
    if unknown:
        raise DataError(f"the reference has no name for parameter {min(unknown)!r}")
    state_dict = {}
    for row in rows:
        if row.ours in flat:
            array = np.asarray(flat[row.ours])
            array = array if row.block is None else array[row.block]
            state_dict[row.reference] = row.layout.to_reference(array)
    copies = {key: state_dict[kept] for key, kept in FAS_COPIES.items() if kept in state_dict}
    return state_dict | copies


def kind(params: Mapping[str, Any]) -> str:
    """Returns which of `NETWORKS` a tree is.

    Raises:
        DataError: The tree is not one of `NETWORKS`.
    """
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    parts = {row.part for row in _rows(lambda stack: 1, "") if row.ours in flat}
    for name, networks in NETWORKS.items():
        if parts in networks:
            return name
    raise DataError(f"parameters of {', '.join(sorted(parts))} together make no network known here")


def _rows(depth_of: Callable[[str], int], prefix: str) -> Iterator[Row]:
    """Yields all arrays that a network of these depths can have, in the reference's order."""
    for part, ours, reference, layout in TABLE:
        before = "" if part == "fas" else prefix
        if layout is not None:
            yield Row(part, ours, before + reference, layout)
            continue
        for block in range(depth_of(reference)):
            for name, theirs, block_layout in BLOCK_TABLE:
                if part != "encoder" and name.startswith("ls"):
                    continue
                key = f"{before}{reference}.{block}.{theirs}"
                yield Row(part, f"{ours}/{name}", key, block_layout, block)


def _depth(state_dict: Mapping[str, np.ndarray], start: str) -> int:
    blocks = {k.removeprefix(start).split(".")[0] for k in state_dict if k.startswith(start)}
    return check_depth(start, len(blocks))


def check_depth(name: str, depth: int) -> int:
    """Returns the depth of a stack of blocks; raises DataError if it exceeds `MAX_DEPTH`."""
    if depth > MAX_DEPTH:
        raise DataError(f"{name!r} has {depth} blocks, and not {MAX_DEPTH} at most")
    return depth


def _check_keys(state_dict: Mapping[str, np.ndarray], rows: Sequence[Row]) -> None:
    """Raises DataError if the keys differ from those of the most similar network."""
    keys = state_dict.keys()

    def differences(parts: Set[str]) -> tuple[list[str], list[str]]:
        wanted = [row.reference for row in rows if row.part in parts]
        missing = [key for key in wanted if key not in keys and not key.endswith("pos_embed")]
        return missing, sorted(keys - set(wanted) - FAS_COPIES.keys())

    candidates = [
        (name, *differences(parts)) for name, networks in NETWORKS.items() for parts in networks
    ]
    name, missing, unknown = min(candidates, key=lambda c: len(c[1]) + len(c[2]))
    problems = [f"lacks {_some(missing)}"] * bool(missing)
    problems += [f"has {_some(unknown)}, which the reference has not"] * bool(unknown)
    problems += [
        f"holds different arrays in {key!r} and {kept!r}, which are one"
        for key, kept in FAS_COPIES.items()
        if key in keys and not np.array_equal(state_dict[key], state_dict.get(kept))
    ]
    if problems:
        raise DataError(
            f"the state dict is nearest to the reference's {name}, but {'; it '.join(problems)}"
        )


def _some(keys: Sequence[str]) -> str:
    named = ", ".join(repr(key) for key in keys[:3])
    return named if len(keys) <= 3 else f"{len(keys)} keys, the first {named}"
