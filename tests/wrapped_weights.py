"""A file of weights as many training programs write it: raw weights and their average, wrapped."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from golden_files import need
from random_weights import TINY, encoder_params

from fsvfm_jax.convert.folder import timm_names

ENCODER = timm_names(encoder_params(TINY))


def wrapped_file(folder: Path, arrays: Mapping[str, np.ndarray] = ENCODER) -> Path:
    """Writes the file into a folder; the average is zeros, and all names have two prefixes."""
    torch = need("torch")
    file = folder / "wrapped.pth"
    raw = {f"module._orig_mod.backbone.{k}": torch.from_numpy(x.copy()) for k, x in arrays.items()}
    average = {key: torch.zeros_like(x) for key, x in raw.items()}
    torch.save({"model_state_dict": raw, "model_ema": average, "optimizer": {"state": {}}}, file)
    return file
