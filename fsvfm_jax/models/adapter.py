"""Downstream networks: the encoder with a linear head, the FS-Adapter, the anti-spoofing head.

images ─ tokens ─ pool ─ f ─┬───────────────────────┬─ [f; a] ─ head ─ logits
                            └─ W1, ReLU ─ b ─ W2, ReLU ─ a
                                          └─ projector ─ z              (FS-Adapter)

For anti-spoofing, an embedder and a classifier with unit columns replace the head.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from fsvfm_jax.models import layers
from fsvfm_jax.models.vit import ViT
from fsvfm_jax.train_state import Params

POOLS = ("mean", "token", "attention")
EMBEDDING = 512
FAS_DROPOUT = 0.5

head_init = nn.initializers.normal(stddev=2e-5)


class DetectorOutput(NamedTuple):
    """The outputs of a detector for a batch of faces.

    Attributes:
        logits: One value per class, float32.
        features: The pooled feature f, in the compute dtype.
        projection: The projection z for the real-anchor loss, float32, with rows of unit length and
            A = D / reduction; None without an adapter.
    """

    logits: Float[Array, "B C"]
    features: Float[Array, "B D"]
    projection: Float[Array, "B A"] | None


class Detector(ViT):
    """The encoder with the layers that turn its tokens into logits.

    The position table is a parameter here, and full fine-tuning trains it like the other
    parameters. With the pool "mean", the pre-trained final norm is not used. The attention pool of
    an encoder is used with the pool "attention" only.

    Attributes:
        num_classes: Number of logits.
        pool: "mean" averages the patch tokens and applies a new norm; "token" takes the class token
            after the final norm; "attention" takes the output of the encoder's attention pool.
        adapter_reduction: Width of the encoder divided by the width of the adapter; 0 for no
            adapter.
        fas: Whether the anti-spoofing head replaces the linear head.
        drop_path: Probability that a branch of the last block is dropped. The probability grows
            linearly from 0 at the first block.
    """

    num_classes: int = 2
    pool: str = "mean"
    adapter_reduction: int = 0
    fas: bool = False
    drop_path: float = 0.0

    def setup(self) -> None:
        super().setup()  # Its `norm` gets no parameters where it is not called.
        self.fc_norm = layers.layer_norm(self.dtype, epsilon=self.layer_norm_epsilon)
        if self.adapter_reduction:
            narrow = self.width // self.adapter_reduction
            self.adapter = Adapter(narrow, self.width, self.dtype)
            self.projector = layers.dense(narrow, self.dtype)
        if self.adapter_reduction or not self.fas:
            self.head = layers.dense(self.num_classes, self.dtype, kernel_init=head_init)
        if self.fas:
            self.embedder = layers.dense(
                EMBEDDING,
                self.dtype,
                kernel_init=nn.initializers.normal(stddev=0.005),
                bias_init=nn.initializers.constant(0.1),
            )
            self.dropout = nn.Dropout(FAS_DROPOUT)
            self.classifier = UnitColumns(self.num_classes)

    def __call__(
        self, images: Float[Array | np.ndarray, "B H W 3"], *, deterministic: bool = True
    ) -> DetectorOutput:
        """Returns the logits and the features of normalised images.

        Args:
            images: Images, normalised with the mean and deviation of the pretraining set.
            deterministic: False in training: drops paths and features with the random streams
                "drop_path" and "dropout".
        """
        rates = None if deterministic else self.drop_rates()
        x = self.tokens(jnp.asarray(images), drop_rates=rates)
        return self.detect(x, deterministic=deterministic)

    def drop_rates(self) -> Float[Array, " depth"] | None:
        """Returns the probability of dropping a branch of each block in training, or None."""
        return jnp.linspace(0.0, self.drop_path, self.depth) if self.drop_path else None

    def continue_from(
        self, x: Float[Array, "B L D"], drop_rates: Float[Array, " depth"] | None
    ) -> DetectorOutput:
        """Returns the outputs, in training mode, for the tokens before the first block.

        Args:
            x: The tokens.
            drop_rates: Probability of dropping a branch, for each block; None to drop nothing.
        """
        x = self.run(self.blocks, x, drop_rates, rotation=self.rotation())
        return self.detect(x, deterministic=False)

    def detect(self, x: Float[Array, "B L D"], *, deterministic: bool) -> DetectorOutput:
        """Returns the outputs for the tokens after the last block; see `__call__`."""
        patches = x[:, self.num_prefix :]
        if self.pool == "mean":
            f = self.fc_norm(patches.mean(axis=1))
        else:
            tokens = self.norm(x)
            f = tokens[:, 0] if self.pool == "token" else self.attn_pool(tokens)

        joined, projection = f, None
        if self.adapter_reduction:
            b, a = self.adapter(f)
            projection = layers.normalize(self.projector(b).astype(jnp.float32))
            joined = jnp.concatenate([f, a], axis=-1)
        # An anti-spoofing network with an adapter keeps the adapter's head and never uses it.
        logits = self.head(joined) if self.adapter_reduction or not self.fas else None
        if self.fas and self.adapter_reduction:
            logits = self.classify_liveness(joined, axis=-1, deterministic=deterministic)
        elif self.fas:
            # This variant takes the norm over the tokens, with f in place of the class token.
            tokens = jnp.concatenate([f[:, None], patches], axis=1)
            logits = self.classify_liveness(tokens, axis=1, deterministic=deterministic)[:, 0]
        return DetectorOutput(logits.astype(jnp.float32), f, projection)

    def classify_liveness(
        self, x: Float[Array, "B *tokens D"], *, axis: int, deterministic: bool
    ) -> Float[Array, "B *tokens C"]:
        """Divides the embedding by sqrt(2 * its norm along `axis`) and applies the unit classifier.

        Args:
            x: Features or tokens.
            axis: Axis along which the norm of the embedding is taken.
            deterministic: False in training: drops features with the random stream "dropout".

        Returns:
            The logits, float32.
        """
        x = self.dropout(nn.relu(self.embedder(x)), deterministic=deterministic)
        x = x.astype(jnp.float32)
        norm = jnp.sqrt(jnp.maximum(jnp.square(x).sum(axis=axis, keepdims=True), 1e-24))
        return self.classifier(x / jnp.sqrt(2 * norm))

    def init_params(self, key: PRNGKeyArray) -> Params:
        """Returns new parameters, float32, with sines and cosines in the position table."""
        return self.new_params(key, method="__call__")


class Adapter(nn.Module):
    """FS-Adapter: a layer down to a bottleneck b and a layer up to a, both without bias."""

    narrow: int
    width: int
    dtype: str

    def setup(self) -> None:
        self.linear1 = layers.dense(self.narrow, self.dtype, use_bias=False)
        self.linear2 = layers.dense(self.width, self.dtype, use_bias=False)

    def __call__(self, f: Float[Array, "B D"]) -> tuple[Float[Array, "B A"], Float[Array, "B D"]]:
        b = nn.relu(self.linear1(f))
        return b, nn.relu(self.linear2(b))


class UnitColumns(nn.Module):
    """Linear layer whose weights have unit length across the classes at every forward pass.

    No gradient flows through the length: training replaces the weights by the unit weights before
    every step (`unit_columns`).
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B C"]:
        kernel_init = nn.initializers.normal(stddev=0.01)
        kernel = self.param("kernel", kernel_init, (x.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        logits = jnp.matmul(x, unit_columns(kernel), precision="highest")
        return logits + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def unit_columns(kernel: Float[Array, "D C"]) -> Float[Array, "D C"]:
    """Divides weights by their length across the classes; no gradient flows through the length."""
    length = jnp.sqrt(jnp.maximum(jnp.square(kernel).sum(axis=1, keepdims=True), 1e-24))
    return kernel / jax.lax.stop_gradient(length)
