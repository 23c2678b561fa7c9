"""Converts between Hugging Face's names of a ViT and timm's, in NumPy.

The names are those in files; the parameter names of a loaded module change with the version. Query,
key and value are three layers in Hugging Face and the thirds of one layer here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fsvfm_jax.convert import reference
from fsvfm_jax.convert.timm import (
    StateDict,
    as_float32,
    blank_encoder,
    check_keys,
    count_blocks,
)
from fsvfm_jax.errors import DataError
from fsvfm_jax.train_state import Params

# timm, Hugging Face
TABLE = (
    ("cls_token", "vit.embeddings.cls_token"),
    ("pos_embed", "vit.embeddings.position_embeddings"),
    ("patch_embed.proj.weight", "vit.embeddings.patch_embeddings.projection.weight"),
    ("patch_embed.proj.bias", "vit.embeddings.patch_embeddings.projection.bias"),
    ("norm.weight", "vit.layernorm.weight"),
    ("norm.bias", "vit.layernorm.bias"),
    ("head.weight", "classifier.weight"),
    ("head.bias", "classifier.bias"),
)
# Pairs of `blocks.<i>.<timm>` and `vit.encoder.layer.<i>.<Hugging Face>`, with weight and bias.
BLOCK_TABLE = (
    ("norm1", ("layernorm_before",)),
    (
        "attn.qkv",
        (
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
        ),
    ),
    ("attn.proj", ("attention.output.dense",)),
    ("norm2", ("layernorm_after",)),
    ("mlp.fc1", ("intermediate.dense",)),
    ("mlp.fc2", ("output.dense",)),
)
OTHER_PARTS = ("classifier.", "vit.pooler.", "decoder.", "vit.embeddings.mask_token")


def is_huggingface(state_dict: StateDict) -> bool:
    """Returns whether the names are Hugging Face's."""
    return any(key.endswith("embeddings.cls_token") for key in state_dict)


def to_state_dict(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts an encoder, or a detector that pools the class token, to Hugging Face's names.

    Raises:
        DataError: Hugging Face has no name for a parameter, such as the norm after a mean over
            patches.
    """
    remaining = reference.to_state_dict(params)
    state_dict = {}
    for timm, names in _names(count_blocks(remaining, "blocks.")):
        if timm in remaining:
            state_dict.update(zip(names, np.split(remaining.pop(timm), len(names)), strict=True))
    if remaining:
        raise DataError(f"Hugging Face's ViT has no name for {min(remaining)!r}")
    return state_dict


def to_params(state_dict: StateDict) -> Params:
    """Converts Hugging Face's names to our parameters: the inverse of `to_state_dict`.

    Raises:
        DataError: A key does not belong to Hugging Face's ViT, or a key is missing.
    """
    remaining = dict(state_dict)
    renamed = {}
    for timm, names in _names(count_blocks(remaining, "vit.encoder.layer.")):
        missing = [name for name in names if name not in remaining]
        if not missing:
            renamed[timm] = np.concatenate([remaining.pop(name) for name in names])
        elif not names[0].startswith(OTHER_PARTS):
            raise DataError(f"the weights lack {missing[0]!r}")
    if remaining:
        raise DataError(f"{min(remaining)!r} is no parameter of Hugging Face's ViT")
    return reference.to_params(renamed)


def to_encoder(state_dict: StateDict) -> Params:
    """Converts the weights of ViTModel, ViTFor... or ViTMAEFor... to our encoder's, float32.

    Classifier, pooler, mask token and decoder are dropped. The number of heads and the epsilon of
    the norms are in the model's config.json, not in the weights.

    Raises:
        DataError: The network is not a plain vision transformer with class token, positions and
            final norm.
    """
    prefixed = {
        key if key.startswith(("vit.", *OTHER_PARTS)) else f"vit.{key}": array
        for key, array in state_dict.items()
    }
    kept = {key: array for key, array in prefixed.items() if not key.startswith(OTHER_PARTS)}
    blank = blank_encoder(
        cls_token=kept.get("vit.embeddings.cls_token"),
        table=kept.get("vit.embeddings.position_embeddings"),
        patches=kept.get("vit.embeddings.patch_embeddings.projection.weight"),
        depth=count_blocks(kept, "vit.encoder.layer."),
    )
    check_keys(kept, to_state_dict(blank))
    return as_float32(to_params(kept))


def _names(depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields every key of timm with the one or three keys of Hugging Face."""
    for timm, theirs in TABLE:
        yield timm, (theirs,)
    for block in range(depth):
        for timm, layers in BLOCK_TABLE:
            for kind in ("weight", "bias"):
                names = tuple(f"vit.encoder.layer.{block}.{layer}.{kind}" for layer in layers)
                yield f"blocks.{block}.{timm}.{kind}", names
