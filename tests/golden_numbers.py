"""Loads stored outputs of the reference implementation on a tiny network, in our layouts."""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fsvfm_jax.convert.reference import to_params
from fsvfm_jax.masking import Masks

FOLDER = Path(__file__).parent / "golden"
MODEL = {
    "image_size": 64,
    "patch_size": 16,
    "width": 48,
    "depth": 2,
    "num_heads": 4,
    "decoder_width": 32,
    "decoder_depth": 2,
    "decoder_num_heads": 4,
    "rep_decoder_depth": 1,
    "rep_decoder_num_heads": 4,
    "projection_dim": 16,
    "projection_hidden": 64,
    "rep_pos": "zeros",
}
KEPT = 4  # of 16 patches
LOSS = {"norm_pix": True, "weight_region": 0.007, "weight_sim": 0.1, "similarity": "simsiam"}


@cache
def load() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "pretrain_tiny.npz") as arrays:
        return dict(arrays)


def hyperparameters() -> dict:
    return json.loads(str(load()["config"]))


def state_dict(prefix: str) -> dict[str, np.ndarray]:
    """Returns arrays under a prefix such as `init` or `step0/grad`, by the reference's names."""
    prefix += "/"
    return {k.removeprefix(prefix): v for k, v in load().items() if k.startswith(prefix)}


def params(prefix: str) -> dict:
    return to_params(state_dict(prefix))


def images(step: int) -> np.ndarray:
    """Returns normalised images, [B, H, W, 3]."""
    return load()["images"][step].transpose(0, 2, 3, 1)


def masks(step: int) -> Masks:
    """Returns masks with the kept patches in index order; the order does not affect the result."""
    mask = load()["mask"][step]
    order = np.argsort(mask, axis=1, kind="stable")
    num_kept = int((1 - mask[0]).sum())
    return Masks(mask, load()["region_mask"][step], order[:, :num_kept], np.argsort(order, axis=1))


def masks_of_bits(_: jax.Array, bits: jax.Array) -> Masks:
    """Replaces `sample_masks`: reads the masks from the two lowest bits of the classes."""
    mask, region_mask = bits & 1, bits >> 1
    order = jnp.argsort(mask, axis=1)
    return Masks(mask, region_mask, order[:, :KEPT], jnp.argsort(order, axis=1))


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the norm of the difference divided by the norm."""
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(theirs))


def is_key_bias(name: str) -> bool:
    return name.endswith("qkv.bias")


def drop_key_third(name: str, array: np.ndarray) -> np.ndarray:
    """Removes the key's bias: its gradient is rounding noise, which Adam turns into steps."""
    if not is_key_bias(name):
        return array
    q, _, v = np.split(array, 3)
    return np.concatenate([q, v])
