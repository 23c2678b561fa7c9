"""Names the arrays of an encoder as Google's programs name them."""

import numpy as np
from random_weights import TINY, encoder_params

from fsvfm_jax.convert.folder import timm_names

TIMM = timm_names(encoder_params(TINY))
HEADS, WIDTH = TINY["num_heads"], TINY["width"]
NAMES = {
    "google": ("LayerNorm_2", "MlpBlock_3", "MultiHeadDotProductAttention_1"),
    "big_vision": ("LayerNorm_1", "MlpBlock_0", "MultiHeadDotProductAttention_0"),
}


def google_names(kind="google", *, stacked=False, prefix=""):
    """Returns the arrays of TIMM with the names and layouts of Google's programs."""
    arrays = {
        "cls": TIMM["cls_token"],
        "embedding/kernel": TIMM["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": TIMM["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": TIMM["norm.weight"],
        "Transformer/encoder_norm/bias": TIMM["norm.bias"],
        "head/kernel": np.zeros((WIDTH, 5), np.float32),
        "head/bias": np.zeros(5, np.float32),
    }
    if kind == "google":
        arrays["Transformer/posembed_input/pos_embedding"] = TIMM["pos_embed"]
    else:
        arrays["pos_embedding"] = TIMM["pos_embed"][:, 1:]
    blocks = [_block(number, *NAMES[kind]) for number in range(TINY["depth"])]
    if stacked:
        for name in blocks[0]:
            arrays[f"Transformer/encoderblock/{name}"] = np.stack([b[name] for b in blocks])
    else:
        for number, block in enumerate(blocks):
            for name, array in block.items():
                arrays[f"Transformer/encoderblock_{number}/{name}"] = array
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def _block(number, norm2, mlp, attention):
    def of(name):
        return TIMM[f"blocks.{number}.{name}"]

    block = {}
    for theirs, ours in (("LayerNorm_0", "norm1"), (norm2, "norm2")):
        block |= {f"{theirs}/scale": of(f"{ours}.weight"), f"{theirs}/bias": of(f"{ours}.bias")}
    for layer in (0, 1):
        block[f"{mlp}/Dense_{layer}/kernel"] = of(f"mlp.fc{layer + 1}.weight").T
        block[f"{mlp}/Dense_{layer}/bias"] = of(f"mlp.fc{layer + 1}.bias")
    weights = np.split(of("attn.qkv.weight"), 3)
    biases = np.split(of("attn.qkv.bias"), 3)
    for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        block[f"{attention}/{part}/kernel"] = weight.T.reshape(WIDTH, HEADS, -1)
        block[f"{attention}/{part}/bias"] = bias.reshape(HEADS, -1)
    block[f"{attention}/out/kernel"] = of("attn.proj.weight").T.reshape(HEADS, -1, WIDTH)
    block[f"{attention}/out/bias"] = of("attn.proj.bias")
    return block
