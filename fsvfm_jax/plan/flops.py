"""Counts the floating-point operations of a training step, for model FLOPs utilisation (MFU)."""

from typing import NamedTuple

from fsvfm_jax.masking import num_removed
from fsvfm_jax.models.adapter import Detector
from fsvfm_jax.models.fsvfm import FSVFM
from fsvfm_jax.models.layers import MLP_RATIO
from fsvfm_jax.tuning import Tuning


class Flops(NamedTuple):
    """Operations per image.

    Attributes:
        student_encoder: The encoder's blocks on the kept patches.
        rep_decoder: The student's representation decoder with its two linear layers.
        pixel_decoder: The pixel decoder with its two linear layers.
        student_forward: The whole student: the three above, patch embedding and heads.
        teacher_forward: The whole teacher, which encodes every patch.
        total: A training step: 3 x student_forward + teacher_forward.
    """

    student_encoder: int
    rep_decoder: int
    pixel_decoder: int
    student_forward: int
    teacher_forward: int
    total: int


def training_flops_per_image(model: FSVFM, mask_ratio: float) -> Flops:
    """Counts the matrix products that the method needs for one image, independent of the program.

    An [m, k] x [k, n] product counts 2mkn; norms, activations, softmax, losses and the optimizer
    are not counted. The student's backward pass is twice its forward pass; the teacher has none.
    Recomputed activations are not counted. The count is that of the published method, so that
    figures are comparable: the student embeds all N patches, and both decoders' linear layers get
    all N + 1 tokens (only the first layer of the representation decoder comes before the mask
    tokens). A program that saves some of this work, as the one here does, gains in MFU.

    Args:
        model: The network.
        mask_ratio: Share of the N patches that is masked.

    Raises:
        ConfigError: The ratio removes none or all of the patches.
    """
    n, d, wide = model.num_patches, model.width, model.decoder_width
    prefix = model.num_prefix
    seen = n - num_removed(n, mask_ratio) + prefix
    pixels = 3 * model.patch_size**2

    patch_embed = _linear(n, pixels, d)
    student_encoder = model.depth * _block(seen, d)
    teacher_encoder = model.depth * _block(n + prefix, d)
    pixel_decoder = (
        _linear(n + 1, d, wide)
        + model.decoder_depth * _block(n + 1, wide)
        + _linear(n + 1, wide, pixels)
    )
    represent = model.rep_decoder_depth * _block(n + 1, d) + _linear(n + 1, d, d)
    # The decoders do not get the registers.
    rep_decoder = _linear(seen - model.registers, d, d) + represent
    teacher_rep_decoder = _linear(n + 1, d, d) + represent
    projector = _head(d, model.projection_hidden, model.projection_dim)
    predictor = _head(model.projection_dim, model.projection_hidden, model.projection_dim)

    student = patch_embed + student_encoder + rep_decoder + pixel_decoder + projector + predictor
    teacher = patch_embed + teacher_encoder + teacher_rep_decoder + projector
    return Flops(
        student_encoder=student_encoder,
        rep_decoder=rep_decoder,
        pixel_decoder=pixel_decoder,
        student_forward=student,
        teacher_forward=teacher,
        total=3 * student + teacher,
    )


def detection_flops_per_image(model: Detector, tuning: Tuning) -> int:
    """Counts the operations of a fine-tuning step for one image.

    A trained layer costs three times its forward pass, and a frozen layer without a trained layer
    below it costs its forward pass. Between them, in the modes "norms" and "lora", the gradient
    passes through the blocks, and they cost twice their forward pass. Heads, adapters, norms,
    attention pools and LoRA's factors, a few hundredths of the total, are not counted.

    Args:
        model: The network.
        tuning: The way of training.
    """
    n, d = model.num_patches, model.width
    embed, block = _linear(n, 3 * model.patch_size**2, d), _block(n + model.num_prefix, d)
    forward = embed + model.depth * block
    backward = {
        "full": 2 * forward,
        "norms": model.depth * block,
        "lora": model.depth * block,
        "partial": 2 * tuning.last_blocks * block,
    }
    return forward + backward.get(tuning.mode, 0)


def model_flops_utilisation(
    flops_per_image: int, images_per_second: float, *, num_devices: int, peak_tflops: float
) -> float:
    """Returns the method's own operations per second as a share of the devices' peak.

    Args:
        flops_per_image: Operations of the method per image.
        images_per_second: Speed on all devices.
        num_devices: Number of devices.
        peak_tflops: Peak of one device, 10^12 operations per second.
    """
    return flops_per_image * images_per_second / (num_devices * peak_tflops * 1e12)


def _linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs


def _block(tokens: int, width: int) -> int:
    """Counts one block: 24 t d^2 + 4 t^2 d for t tokens of width d, at an MLP ratio of 4."""
    attention = _linear(tokens, width, 4 * width) + 2 * _linear(tokens, width, tokens)
    return attention + 2 * _linear(tokens, width, MLP_RATIO * width)


def _head(inputs: int, hidden: int, outputs: int) -> int:
    return _linear(1, inputs, hidden) + _linear(1, hidden, outputs)
