"""The names that other libraries give to the parameters of an encoder, and conversion from them.

Each `Names` is a table against this project's names of files, which are timm's (`reference.py`).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from fsvfm_jax.convert.reference import check_depth
from fsvfm_jax.errors import DataError

StateDict = Mapping[str, np.ndarray]

# A row: our name, their names, whose arrays are joined along the first axis, and the number of
# leading axes of length 1 that their array lacks. A name of None is a bias that they do not have.
Rows = tuple[tuple[str, tuple[str | None, ...], int], ...]


def _row(ours: str, *theirs: str | None, lacks: int = 0) -> Rows:
    return ((ours, theirs, lacks),)


def _layer(ours: str, *theirs: str) -> Rows:
    """Returns the rows of a layer's weight and bias."""
    return tuple(
        (f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs), 0)
        for kind in ("weight", "bias")
    )


class Names(NamedTuple):
    """The names of a library's encoder.

    Attributes:
        library: Name of the library or the file's kind.
        key: A key that only these files have; {0} is a block.
        rows: The rows of arrays that are there once.
        blocks: What precedes the number of a block.
        block_rows: The rows of a block.
        others: Keys of parts that are left out.
    """

    library: str
    key: str
    rows: Rows
    blocks: str
    block_rows: Rows
    others: str


# Parts of any network that are not of the encoder.
HEADS = r"(head|fc_norm|mask_token)(\..+)?"
TIMM_ROWS = (
    *_row("cls_token", "cls_token"),
    *_row("reg_token", "reg_token"),
    *_row("pos_embed", "pos_embed"),
    *_layer("patch_embed.proj", "patch_embed.proj"),
    *_layer("norm_pre", "norm_pre"),
    *_layer("norm", "norm"),
    *_row("attn_pool.latent", "attn_pool.latent"),
    *_layer("attn_pool.qkv", "attn_pool.q", "attn_pool.kv"),
    *_layer("attn_pool.proj", "attn_pool.proj"),
    *_layer("attn_pool.norm", "attn_pool.norm"),
    *_layer("attn_pool.mlp.fc1", "attn_pool.mlp.fc1"),
    *_layer("attn_pool.mlp.fc2", "attn_pool.mlp.fc2"),
)
TIMM_BLOCK_ROWS = (
    *_layer("norm1", "norm1"),
    *_layer("attn.qkv", "attn.qkv"),
    *_layer("attn.proj", "attn.proj"),
    *_row("ls1.gamma", "ls1.gamma"),
    *_layer("norm2", "norm2"),
    *_layer("mlp.fc1", "mlp.fc1"),
    *_layer("mlp.fc2", "mlp.fc2"),
    *_row("ls2.gamma", "ls2.gamma"),
)


def _changed(rows: Rows, **changes: Rows) -> Rows:
    """Returns the rows with other names for some of ours, in which "_" stands for "."."""
    return tuple(row for old in rows for row in changes.get(old[0].replace(".", "_"), (old,)))


TIMM = Names("timm", "patch_embed.proj.weight", TIMM_ROWS, "blocks.", TIMM_BLOCK_ROWS, HEADS)
DINOV2 = TIMM._replace(
    library="DINOv2",
    key="register_tokens",
    rows=_changed(TIMM_ROWS, reg_token=_row("reg_token", "register_tokens")),
)
DINOV3 = TIMM._replace(
    library="DINOv3",
    key="storage_tokens",
    rows=_changed(TIMM_ROWS, reg_token=_row("reg_token", "storage_tokens")),
    others=HEADS + r"|rope_embed\.periods|local_cls_norm\..+|blocks\.\d+\.attn\.qkv\.bias_mask",
)
# timm's `Eva`, which has no bias of the keys.
EVA = TIMM._replace(
    library="timm",
    key="blocks.{0}.gamma_1",
    block_rows=_changed(
        TIMM_BLOCK_ROWS,
        attn_qkv_bias=_row("attn.qkv.bias", "attn.q_bias", None, "attn.v_bias"),
        ls1_gamma=_row("ls1.gamma", "gamma_1"),
        ls2_gamma=_row("ls2.gamma", "gamma_2"),
    ),
)
QKV = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
HF_DINOV2 = Names(
    "Hugging Face",
    "encoder.layer.{0}.layer_scale1.lambda1",
    (
        *_row("cls_token", "embeddings.cls_token"),
        *_row("reg_token", "embeddings.register_tokens"),
        *_row("pos_embed", "embeddings.position_embeddings"),
        *_layer("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        *_layer("norm", "layernorm"),
    ),
    "encoder.layer.",
    (
        *_layer("norm1", "norm1"),
        *_layer("attn.qkv", *QKV),
        *_layer("attn.proj", "attention.output.dense"),
        *_row("ls1.gamma", "layer_scale1.lambda1"),
        *_layer("norm2", "norm2"),
        *_layer("mlp.fc1", "mlp.fc1"),
        *_layer("mlp.fc2", "mlp.fc2"),
        *_row("ls2.gamma", "layer_scale2.lambda1"),
    ),
    r"(classifier|embeddings\.mask_token)(\..+)?",
)
HF_DINOV3 = HF_DINOV2._replace(
    key="layer.{0}.mlp.up_proj.weight",
    rows=_changed(
        HF_DINOV2.rows,
        patch_embed_proj_weight=_row(
            "patch_embed.proj.weight", "embeddings.patch_embeddings.weight"
        ),
        patch_embed_proj_bias=_row("patch_embed.proj.bias", "embeddings.patch_embeddings.bias"),
        norm_weight=_row("norm.weight", "norm.weight"),
        norm_bias=_row("norm.bias", "norm.bias"),
    ),
    blocks="layer.",
    block_rows=_changed(
        HF_DINOV2.block_rows,
        attn_qkv_weight=_row(
            "attn.qkv.weight", *(f"attention.{x}_proj.weight" for x in ("q", "k", "v"))
        ),
        attn_qkv_bias=_row("attn.qkv.bias", "attention.q_proj.bias", None, "attention.v_proj.bias"),
        attn_proj_weight=_row("attn.proj.weight", "attention.o_proj.weight"),
        attn_proj_bias=_row("attn.proj.bias", "attention.o_proj.bias"),
        mlp_fc1_weight=_row("mlp.fc1.weight", "mlp.up_proj.weight"),
        mlp_fc1_bias=_row("mlp.fc1.bias", "mlp.up_proj.bias"),
        mlp_fc2_weight=_row("mlp.fc2.weight", "mlp.down_proj.weight"),
        mlp_fc2_bias=_row("mlp.fc2.bias", "mlp.down_proj.bias"),
    ),
)
# CLIP and SigLIP.
HF_CLIP = Names(
    "Hugging Face",
    "embeddings.patch_embedding.weight",
    (
        *_row("cls_token", "embeddings.class_embedding", lacks=2),
        *_row("pos_embed", "embeddings.position_embedding.weight", lacks=1),
        *_layer("patch_embed.proj", "embeddings.patch_embedding"),
        *_layer("norm_pre", "pre_layrnorm"),
        *_layer("norm", "post_layernorm"),
        *_row("attn_pool.latent", "head.probe"),
        *_row("attn_pool.qkv.weight", "head.attention.in_proj_weight"),
        *_row("attn_pool.qkv.bias", "head.attention.in_proj_bias"),
        *_layer("attn_pool.proj", "head.attention.out_proj"),
        *_layer("attn_pool.norm", "head.layernorm"),
        *_layer("attn_pool.mlp.fc1", "head.mlp.fc1"),
        *_layer("attn_pool.mlp.fc2", "head.mlp.fc2"),
    ),
    "encoder.layers.",
    (
        *_layer("norm1", "layer_norm1"),
        *_layer("attn.qkv", *(f"self_attn.{x}_proj" for x in ("q", "k", "v"))),
        *_layer("attn.proj", "self_attn.out_proj"),
        *_layer("norm2", "layer_norm2"),
        *_layer("mlp.fc1", "mlp.fc1"),
        *_layer("mlp.fc2", "mlp.fc2"),
    ),
    r"classifier\..+|embeddings\.position_ids",
)
# The original files of CLIP, FaRL, open_clip and Perception Encoder.
OPENAI = Names(
    "CLIP",
    "conv1.weight",
    (
        *_row("cls_token", "class_embedding", lacks=2),
        *_row("pos_embed", "positional_embedding", lacks=1),
        *_layer("patch_embed.proj", "conv1"),
        *_layer("norm_pre", "ln_pre"),
        *_layer("norm", "ln_post"),
        *_row("attn_pool.latent", "attn_pool.probe"),
        *_row("attn_pool.qkv.weight", "attn_pool.attn.in_proj_weight"),
        *_row("attn_pool.qkv.bias", "attn_pool.attn.in_proj_bias"),
        *_layer("attn_pool.proj", "attn_pool.attn.out_proj"),
        *_layer("attn_pool.norm", "attn_pool.layernorm"),
        *_layer("attn_pool.mlp.fc1", "attn_pool.mlp.c_fc"),
        *_layer("attn_pool.mlp.fc2", "attn_pool.mlp.c_proj"),
    ),
    "transformer.resblocks.",
    (
        *_layer("norm1", "ln_1"),
        *_row("attn.qkv.weight", "attn.in_proj_weight"),
        *_row("attn.qkv.bias", "attn.in_proj_bias"),
        *_layer("attn.proj", "attn.out_proj"),
        *_row("ls1.gamma", "ls_1.gamma"),
        *_layer("norm2", "ln_2"),
        *_layer("mlp.fc1", "mlp.c_fc"),
        *_layer("mlp.fc2", "mlp.c_proj"),
        *_row("ls2.gamma", "ls_2.gamma"),
    ),
    r"proj",
)
ALL = (HF_DINOV2, HF_DINOV3, HF_CLIP, OPENAI, DINOV2, DINOV3, EVA, TIMM)


class Renamed(NamedTuple):
    """An encoder's arrays under our names.

    Attributes:
        state_dict: Arrays by our names. Keys that are in no table keep their name. A bias that the
            file does not have is zero.
        no_bias: Our names, without the block, of such biases: of all their values, or of the keys.
        left_out: Keys of parts that are not of the encoder.
        called: Their name, or the first that is missing, for each of ours.
    """

    state_dict: dict[str, np.ndarray]
    no_bias: frozenset[str]
    left_out: tuple[str, ...]
    called: dict[str, str]


# The query of an attention pool, and an array that pools of other kinds do not have.
LATENT, OF_POOL = "attn_pool.latent", "attn_pool.mlp.fc1.weight"
# Layers that have no bias in some families.
MAY_LACK_BIAS = ("patch_embed.proj", "attn.qkv")


def names_of(keys: Mapping[str, object]) -> Names | None:
    """Returns the names that these keys follow, or None."""
    return next((x for x in ALL if x.key.format(0) in keys), None)


def has_pool(keys: Collection[str]) -> bool:
    """Returns whether there are arrays of an attention pool under our names."""
    return LATENT in keys or OF_POOL in keys


def rename(state_dict: StateDict, names: Names) -> Renamed:
    """Converts an encoder's arrays to our names.

    Args:
        state_dict: Arrays by the library's names.
        names: The names of the library, from `names_of`.

    Raises:
        DataError: There are more blocks than in any network, the parts of an array do not fit each
            other, or an array is there under two names.
    """
    others = _parts_left_out(state_dict, names)
    left_out = tuple(key for key in state_dict if others.fullmatch(key))
    left = {key: array for key, array in state_dict.items() if not others.fullmatch(key)}
    blocks = re.compile(re.escape(names.blocks) + r"(\d+)\.")
    depth = check_depth(names.blocks, len({x[1] for x in map(blocks.match, left) if x}))
    found, called, no_bias, filled = {}, {}, set(), {}
    for start, ours, theirs, lacks in _rows(names, depth):
        absent = [name for name in theirs if name not in left]
        called[start + ours] = next(filter(None, absent), theirs[0])
        if not any(absent):
            parts = [None if name is None else left.pop(name) for name in theirs]
            found[start + ours] = _joined(parts, lacks, name=theirs[0])
            if absent:
                no_bias.add(ours)
        elif ours.removesuffix(".bias") in MAY_LACK_BIAS and len(absent) == len(theirs):
            weight = found.get(start + ours.replace(".bias", ".weight"))
            is_there = start + ours in left  # under our name
            if ours.endswith(".bias") and weight is not None and weight.ndim and not is_there:
                filled[start + ours] = np.zeros(len(weight), np.float32)
    # A network has such a bias in all blocks or in none; the bias of the patches is missing only
    # beside a norm before the blocks. Everything else is a damaged file.
    for ours in MAY_LACK_BIAS:
        zeros = {x: array for x, array in filled.items() if x.endswith(f"{ours}.bias")}
        of_patches = ours == MAY_LACK_BIAS[0]
        expected = 1 if of_patches else depth
        if len(zeros) == expected and (not of_patches or "norm_pre.weight" in found):
            found |= zeros
            no_bias.add(f"{ours}.bias")
    if twice := sorted(found.keys() & left.keys()):
        raise DataError(
            f"the weights have {called[twice[0]]!r} and, under another name, {twice[0]!r}"
        )
    return Renamed(found | left, frozenset(no_bias), left_out, called)


def _parts_left_out(state_dict: StateDict, names: Names) -> re.Pattern[str]:
    """Returns the pattern of keys that are left out, also those of another attention pool."""
    theirs = [theirs[0] for ours, theirs, _ in names.rows if ours in (LATENT, OF_POOL)]
    if not theirs or not names.others or set(theirs) & state_dict.keys():
        return re.compile(names.others)
    pool = re.escape(theirs[0].partition(".")[0])
    return re.compile(rf"{names.others}|{pool}\..+")


def _joined(parts: list[np.ndarray | None], lacks: int, *, name: str) -> np.ndarray:
    """Joins the parts of an array; a part that is None is zero."""
    shapes = [x.shape for x in parts if x is not None]
    # Two parts are the queries of an attention pool, and its keys and values together.
    rows = (1, 2) if len(parts) == 2 else (1,) * len(shapes)
    one = shapes[0]
    if one == () or shapes != [(count * one[0], *one[1:]) for count in rows]:
        raise DataError(f"{name!r} and the arrays beside it have shapes that do not fit each other")
    arrays = [np.zeros(one, np.float32) if x is None else x for x in parts]
    return np.concatenate(arrays)[(None,) * lacks]


def _rows(names: Names, depth: int) -> Iterator[tuple[str, str, tuple[str | None, ...], int]]:
    """Yields what precedes our name, our name, their names and the axes that theirs lack."""
    for ours, theirs, lacks in names.rows:
        yield "", ours, theirs, lacks
    for block in range(depth):
        before = f"{names.blocks}{block}."
        for ours, theirs, lacks in names.block_rows:
            yield f"blocks.{block}.", ours, tuple(x and before + x for x in theirs), lacks
