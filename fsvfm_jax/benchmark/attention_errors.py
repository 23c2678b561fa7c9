"""Compares the gradients of cuDNN's attention with those of XLA's: `benchmark attention`."""

import argparse
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fsvfm_jax import cli
from fsvfm_jax.devices.backends import has_cudnn_attention
from fsvfm_jax.errors import ConfigError, NotFiniteError
from fsvfm_jax.masking import num_removed
from fsvfm_jax.models import build
from fsvfm_jax.models.layers import attend

IMAGES = 8
Results = tuple[Array, tuple[Array, ...]]  # the output and its gradients


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

    Each kernel gets its input as in training: cuDNN's gets one more token, to which no token
    attends, if their number is odd.

    Args:
        tokens: Number of tokens.
        heads: Number of heads.
        width: Channels of a head.

    Raises:
        NotFiniteError: The result or a gradient of a kernel is not finite.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    even = tokens + tokens % 2
    shape = (IMAGES, even, heads, width)
    q, k, v, weight = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
    padded, unpadded = (q, k, v), tuple(x[:, :tokens] for x in (q, k, v))
    lengths = jnp.full(IMAGES, tokens, jnp.int32) if even > tokens else None

    def run(kernel: Callable[..., Array], arguments: Iterable[Array]) -> Results:
        def loss(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
            out = kernel(q, k, v)[:, :tokens]
            products = out.astype(jnp.float32) * weight[:, :tokens].astype(jnp.float32)
            return products.sum(), out

        grads, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arguments)
        return out, tuple(gradient[:, :tokens] for gradient in grads)

    with jax.default_matmul_precision("highest"):
        in_float32 = (x.astype(jnp.float32) for x in unpadded)
        expected = run(partial(jax.nn.dot_product_attention, implementation="xla"), in_float32)
    cudnn = partial(attend, lengths=lengths, implementation="cudnn")
    xla = partial(attend, lengths=None, implementation="xla")
    results = {"cudnn": run(cudnn, padded), "xla": run(xla, unpadded)}
    found: dict[str, Any] = {"tokens": tokens, "heads": heads, "width": width}
    for name, (out, grads) in results.items():
        of_grads = [relative_error(*pair) for pair in zip(grads, expected[1], strict=True)]
        found[name] = {"output": relative_error(out, expected[0]), "gradients": of_grads}
        if not np.isfinite([found[name]["output"], *of_grads]).all():
            raise NotFiniteError(
                f"attention by {name} with {tokens} tokens and {heads} heads of {width} is not"
                f" finite (errors of output and gradients: {found[name]['output']:.3g},"
                f" {', '.join(f'{x:.3g}' for x in of_grads)}): set another config.model.attention"
            )
    return found


def relative_error(found: Float[Array, "..."], expected: Float[Array, "..."]) -> float:
    """Returns the norm of the difference, divided by the norm of what is expected."""
    difference = found.astype(jnp.float32) - expected
    return math.sqrt(float(jnp.square(difference).sum() / jnp.square(expected).sum()))
