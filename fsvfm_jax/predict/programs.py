"""The compiled programs that apply a network to a batch of faces."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from fsvfm_jax.data.stats import Stats
from fsvfm_jax.models.vit import ViT
from fsvfm_jax.pretrain import normalize_images
from fsvfm_jax.scoring import margins_of
from fsvfm_jax.train_state import Params


@functools.partial(jax.jit, static_argnames=("model", "stats", "block", "pool"))
def features(
    params: Params,
    images: UInt8[Array, "B S S 3"],
    *,
    model: ViT,
    stats: Stats,
    block: int | None,
    pool: str,
) -> Float[Array, "B ..."]:
    """Computes features, as `networks.Encoder.features` describes them."""

    def compute(model: ViT) -> jax.Array:
        x = model.tokens(normalize_images(images, stats))
        if block is None and "norm" in params:
            x = model.norm(x)
        if pool == "token":
            return x[:, 0]
        if pool == "attention":
            return model.attn_pool(x)
        if pool == "patches":
            return x[:, model.num_prefix :]
        mean = x[:, model.num_prefix :].mean(axis=1)
        return model.fc_norm(mean) if block is None and "fc_norm" in params else mean

    if block is not None:
        # The parameters of the blocks are stacked on axis 0.
        params = params | {"blocks": jax.tree.map(lambda x: x[:block], params["blocks"])}
        model = model.clone(depth=block)
    return model.apply({"params": params}, method=compute).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames=("model", "stats"))
def margins(
    params: Params, images: UInt8[Array, "B S S 3"], *, model: ViT, stats: Stats
) -> Float[Array, " B"]:
    """Computes the margin logit(fake) - logit(real) of each face."""
    return margins_of(model, params, images, stats=stats)
