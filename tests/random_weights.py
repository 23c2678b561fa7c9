"""Makes networks with weights that are larger than fresh ones, and their descriptions."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fsvfm_jax.convert.card import Description
from fsvfm_jax.convert.foreign import Encoder, read_weights, to_encoder
from fsvfm_jax.convert.measures import shapes_of
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.models import build_detector, build_encoder
from fsvfm_jax.train_state import Params
from fsvfm_jax.tuning import FACTORS, Tuning, init_factors

TINY = {"image_size": 64, "patch_size": 16, "width": 48, "depth": 2, "num_heads": 4}
STATS = Stats(mean=(0.54822, 0.42341, 0.36547), std=(0.27892, 0.24385, 0.23494))


def detector_params(attributes: dict[str, Any], *, seed: int = 0) -> Params:
    """Returns random detector parameters: kernels N(0, 1 / inputs), scales N(1, 0.2), others 0.2.

    Kernels with these deviations keep the size of their inputs. With larger ones, the float32 noise
    of products on a CPU grows with the depth; the noise of XLA's products is 2.5 times PyTorch's.
    """
    return _random(shapes_of(build_detector(attributes)), seed)


def _random(shapes: dict[str, Any], seed: int) -> Params:
    rng = np.random.default_rng(seed)

    def draw(path: jax.tree_util.KeyPath, like: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = rng.standard_normal(like.shape, np.float32)
        name = path[-1].key
        deviation = like.shape[-2] ** -0.5 if name == "kernel" else 0.2
        return np.float32(deviation) * noise + np.float32(name == "scale")

    return jax.tree_util.tree_map_with_path(draw, shapes)


def encoder_params(measures: dict[str, Any], *, seed: int = 0) -> Params:
    """Returns the parameters of an encoder, drawn like those of `detector_params`."""
    return _random(shapes_of(build_encoder(measures)), seed)


def tuned_params(way: Tuning, **attributes: Any) -> Params:
    """Returns the parameters of a tiny detector, in the mode "lora" with factors that are not zero.

    Args:
        way: The way of training.
        attributes: Attributes of the detector that differ from `TINY`.
    """
    params = jax.tree.map(jnp.asarray, detector_params({**TINY, "fas": way.fas, **attributes}))
    if way.mode == "lora":
        factors = init_factors(jax.random.key(0), params["blocks"], way)
        for number, one in enumerate(factors.values()):
            one["b"] = 0.1 * jax.random.normal(jax.random.key(number), one["b"].shape)
        params[FACTORS] = factors
    return params


def images(image_size: int, *, batch: int = 1) -> np.ndarray:
    """Returns normalised images of noise, [B, H, W, 3], float32."""
    rng = np.random.default_rng(7)
    return rng.standard_normal((batch, image_size, image_size, 3), np.float32)


def describe(
    attributes: dict[str, Any], *, labels: tuple[str, ...] = (), **others: Any
) -> Description:
    """Describes an encoder, or a detector if there are labels; the default pool is the mean."""
    fields = {
        "model": {"pool": "mean", **attributes},
        "stats": STATS,
        "label_names": labels,
        "license": "cc-by-nc-4.0",
        "source": "checkpoint-399.pth",
        "source_sha256": "0" * 64,
    }
    return Description(**(fields | others))


def encoder_in(path: Path, **given: Any) -> Encoder:
    """Reads the encoder in a file or folder of another library."""
    weights = read_weights(path)
    return to_encoder(weights.network.state_dict, config=weights.config, **given)
