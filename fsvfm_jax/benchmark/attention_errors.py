"""Compares the gradients of cuDNN's attention with those of XLA's: `benchmark attention`."""

import argparse
import math
from datetime import UTC, datetime
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fsvfm_jax import cli
from fsvfm_jax.devices.backends import has_cudnn_attention
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.masking import num_removed
from fsvfm_jax.models import build
from fsvfm_jax.models.layers import attend

IMAGES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `attention`."""
    parser.add_argument("--output", metavar="JSONL", help="append the JSON line to this file too")


def benchmark_attention(args: argparse.Namespace, config: ConfigDict, *, command: str) -> None:
    """Measures the errors of both kernels in bfloat16, and prints one JSON line on stdout.

    Raises:
        ConfigError: The devices have no cuDNN attention, or a field has a wrong value.
        StorageError: `args.output` cannot be written.
    """
    from fsvfm_jax.config.resolve import resolve

    device = jax.devices()[0]
    if not has_cudnn_attention(device):
        raise ConfigError(
            f"attention by cuDNN needs NVIDIA GPUs, A100 or newer, and this is {device.device_kind}"
        )
    with cli.json_lines(args.output) as tell:
        tell(
            {
                "command": command,
                "config": cli.config_filename(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "jax": jax.__version__,
                "device_kind": device.device_kind,
                "errors": [errors(*shape) for shape in shapes(resolve(config))],
            }
        )


def shapes(config: ConfigDict) -> list[tuple[int, int, int]]:
    """Returns tokens, heads and width of a head, for each stack of blocks that has a gradient.

    Args:
        config: The resolved config of a pretraining run.
    """
    model = build(config.model)
    kept = model.num_patches - num_removed(model.num_patches, config.mask.mask_ratio) + 1
    everything = model.num_patches + 1
    found = [
        (kept, model.num_heads, model.width),
        (everything, model.decoder_num_heads, model.decoder_width),
        (everything, model.rep_decoder_num_heads, model.width),
    ]
    return [(tokens, heads, width // heads) for tokens, heads, width in found]


def errors(tokens: int, heads: int, width: int) -> dict[str, Any]:
    """Returns the norm of each kernel's errors in bfloat16, as a share of float32's norm.

    Args:
        tokens: Number of tokens; an odd number gets one more, to which no token attends.
        heads: Number of heads.
        width: Channels of a head.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    even = tokens + tokens % 2
    shape = (IMAGES, even, heads, width)
    q, k, v, weight = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
    weight = weight.at[:, tokens:].set(0)

    def run(implementation: str, dtype: str) -> tuple[Array, tuple[Array, ...]]:
        def loss(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
            lengths = jnp.full(IMAGES, tokens, jnp.int32) if even > tokens else None
            out = attend(q, k, v, lengths=lengths, implementation=implementation)[:, :tokens]
            products = out.astype(jnp.float32) * weight[:, :tokens].astype(jnp.float32)
            return products.sum(), out

        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            arguments = (x.astype(dtype) for x in (q, k, v))
            grads, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arguments)
        return out, tuple(gradient[:, :tokens] for gradient in grads)

    expected = run("xla", "float32")
    found = {name: run(name, "bfloat16") for name in ("cudnn", "xla")}
    return {
        "tokens": tokens,
        "heads": heads,
        "width": width,
        **{
            name: {
                "output": relative_error(out, expected[0]),
                "gradients": [
                    relative_error(*pair) for pair in zip(grads, expected[1], strict=True)
                ],
            }
            for name, (out, grads) in found.items()
        },
    }


def relative_error(found: Float[Array, "..."], expected: Float[Array, "..."]) -> float:
    """Returns the norm of the difference, divided by the norm of what is expected."""
    difference = found.astype(jnp.float32) - expected
    return math.sqrt(float(jnp.square(difference).sum() / jnp.square(expected).sum()))
