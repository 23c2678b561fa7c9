"""Computes a tiny detector from its exported folder, in plain PyTorch.

It has a mean pool and a linear head, as in `labelled_faces.write_detector`.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from golden_files import need

from fsvfm_jax.convert.safetensors import load_safetensors

EPSILON = 1e-6


def attention(folder: Path, images: np.ndarray, *, num_heads: int) -> np.ndarray:
    """Returns the attention weights of normalised images, [depth, B, heads, L, L]."""
    return _run(folder, images, num_heads=num_heads)[1]


def logits(folder: Path, images: np.ndarray, *, num_heads: int) -> np.ndarray:
    """Returns the logits of normalised images [B, S, S, 3] in the order of the folder's labels."""
    return _run(folder, images, num_heads=num_heads)[0]


def _run(folder: Path, images: np.ndarray, *, num_heads: int) -> tuple[np.ndarray, np.ndarray]:
    torch = need("torch")
    arrays = load_safetensors(folder / "model.safetensors")
    weights = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    with torch.inference_mode():
        out, kept = forward(weights, torch.from_numpy(images), num_heads=num_heads)
    return out.numpy(), np.stack([one.numpy() for one in kept])


def forward(w: dict[str, Any], images: Any, *, num_heads: int) -> tuple[Any, list[Any]]:
    """Returns the logits, and the attention weights of each block, as tensors.

    Args:
        w: The tensors of the detector by timm's names.
        images: Normalised images [B, S, S, 3], a tensor.
        num_heads: Attention heads.
    """
    torch = need("torch")
    functional = torch.nn.functional

    def linear(x, name):
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, name):
        weights = w[f"{name}.weight"], w[f"{name}.bias"]
        return functional.layer_norm(x, x.shape[-1:], *weights, EPSILON)

    kernel = w["patch_embed.proj.weight"]
    pixels = images.permute(0, 3, 1, 2)
    x = functional.conv2d(pixels, kernel, w["patch_embed.proj.bias"], kernel.shape[-1])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], dim=1) + w["pos_embed"]
    kept = []
    for block in range(sum(name.endswith("attn.qkv.weight") for name in w)):
        name = f"blocks.{block}"
        qkv = linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        kept.append(weights)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        x = x + linear(hidden, f"{name}.mlp.fc2")
    return linear(norm(x[:, 1:].mean(dim=1), "fc_norm"), "head"), kept
