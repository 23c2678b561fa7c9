"""The pretraining step in plain PyTorch, a yardstick for ours.

It has the method, the names of the weights and the optimizer of `pretrain.py`, written as plainly
as PyTorch allows: eager operations, one process, one device, autocast if the config's dtype is
bfloat16. Masks are inputs. Only `torch_speed.py` imports this module.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fsvfm_jax.data.stats import Stats
from fsvfm_jax.masking import Masks
from fsvfm_jax.models.fsvfm import POSITION_TABLES, STUDENT_ONLY
from fsvfm_jax.train_state import StepValues

Weights = dict[str, Tensor]


class TorchBatch(NamedTuple):
    """One batch on the device: uint8 images [B, 3, H, W], and `Masks`, int64."""

    images: Tensor
    masks: Masks


class TorchStep:
    """The state of a run: student, teacher and optimizer; a call makes one update.

    Attributes:
        student: The student's weights by the reference's names.
        teacher: The teacher's weights, a part of these names.
    """

    def __init__(
        self,
        config: ConfigDict,
        weights: Mapping[str, np.ndarray],
        *,
        stats: Stats,
        device: torch.device,
    ):
        """Places the weights on the device; the teacher begins as a copy of the student.

        Args:
            config: The resolved config.
            weights: The student, float32.
            stats: Mean and standard deviation that normalise the images.
            device: The device.
        """
        self.config = config
        self._mean, self._std = (torch.tensor(x, device=device).view(3, 1, 1) for x in stats)
        self.student = {
            name: torch.tensor(np.ascontiguousarray(x), device=device)
            for name, x in weights.items()
        }
        self.teacher = {
            name: x.clone()
            for name, x in self.student.items()
            if name.split(".")[0] not in STUDENT_ONLY
        }
        trained = {name: x for name, x in self.student.items() if name not in POSITION_TABLES}
        self._trained = [x.requires_grad_() for x in trained.values()]
        settings = config.optimizer
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [x for x in self._trained if x.ndim > 1]},
                {"params": [x for x in self._trained if x.ndim == 1], "weight_decay": 0.0},
            ],
            betas=tuple(settings.betas),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def __call__(self, batch: TorchBatch, values: StepValues) -> dict[str, Tensor]:
        """Returns the losses, and `grad_norm` before clipping."""
        on = batch.images.device.type
        bfloat16 = self.config.model.dtype == "bfloat16"
        with torch.autocast(on, torch.bfloat16, enabled=bfloat16):
            metrics = self._losses(batch)
        self._optimizer.zero_grad()
        metrics["loss"].backward()
        limit = self.config.optimizer.grad_clip or float("inf")
        metrics["grad_norm"] = torch.nn.utils.clip_grad_norm_(self._trained, limit)
        for group in self._optimizer.param_groups:
            group["lr"] = float(values.learning_rate)
        self._optimizer.step()
        follow = get_ema_multi_avg_fn(1 - float(values.teacher_rate))
        follow(list(self.teacher.values()), [self.student[name] for name in self.teacher], None)
        return {name: x.detach() for name, x in metrics.items()}

    def _losses(self, batch: TorchBatch) -> dict[str, Tensor]:
        model, loss, masks = self.config.model, self.config.loss, batch.masks
        images = (batch.images.float() / 255 - self._mean) / self._std
        with torch.no_grad():
            tokens = encode(self.teacher, images, model)
            z = head(self.teacher, "projector", represent(self.teacher, tokens, model))
        tokens = encode(self.student, images, model, masks.ids_keep)
        prediction = decode(self.student, tokens, masks, model).float()
        q = head(self.student, "projector", represent(self.student, tokens, model, masks))
        q = head(self.student, "predictor", q)

        target = F.unfold(images, model.patch_size, stride=model.patch_size)  # channel first
        target = target.transpose(1, 2).unflatten(2, (3, -1)).transpose(2, 3).flatten(2)
        if loss.norm_pix:
            variance, average = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - average) / (variance + 1e-6).sqrt()
        errors = (prediction - target).square().mean(-1)
        rec = (errors * masks.mask).sum() / masks.mask.sum()
        region = (errors * masks.region_mask).sum() / masks.region_mask.sum().clamp(min=1)
        sim = -0.5 * F.cosine_similarity(q.float(), z.float(), dim=-1).mean()
        total = rec + loss.weight_region * region + loss.weight_sim * sim
        return {"loss": total, "loss_rec": rec, "loss_region": region, "loss_sim": sim}


def encode(w: Weights, images: Tensor, model: ConfigDict, ids_keep: Tensor | None = None) -> Tensor:
    """Returns the tokens [B, 1 + K, D] of the kept patches, or of all."""
    weight, bias = w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]
    x = F.conv2d(images, weight, bias, stride=model.patch_size).flatten(2).transpose(1, 2)
    x = x + w["pos_embed"][:, 1:]
    if ids_keep is not None:
        x = x.gather(1, ids_keep[:, :, None].expand(-1, -1, x.shape[2]))
    first = (w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), -1, -1)
    x = stack(w, "blocks", torch.cat([first, x], dim=1), model.depth, model.num_heads)
    return norm(w, "norm", x)


def decode(w: Weights, tokens: Tensor, masks: Masks, model: ConfigDict) -> Tensor:
    """Returns the predicted pixels of every patch, [B, N, P]."""
    x = linear(w, "decoder_embed", insert(w["mask_token"], tokens, masks))
    x = x + w["decoder_pos_embed"]
    x = stack(w, "decoder_blocks", x, model.decoder_depth, model.decoder_num_heads)
    return linear(w, "decoder_pred", norm(w, "decoder_norm", x))[:, 1:]


def represent(w: Weights, tokens: Tensor, model: ConfigDict, masks: Masks | None = None) -> Tensor:
    """Returns the mean [B, D] of all tokens after the representation decoder."""
    x = linear(w, "rep_decoder_embed", tokens)
    if masks is not None:
        x = insert(w["mask_token"], x, masks)
    x = x + w["rep_decoder_pos_embed"]
    x = stack(w, "rep_decoder_blocks", x, model.rep_decoder_depth, model.rep_decoder_num_heads)
    return linear(w, "rep_decoder_pred", norm(w, "rep_decoder_norm", x)).mean(dim=1)


def head(w: Weights, name: str, x: Tensor) -> Tensor:
    """Returns the output of projector or predictor, [B, E]."""
    name = f"{name}.projection_head"
    x = norm(w, f"{name}.1", linear(w, f"{name}.0", x), epsilon=1e-5)
    return linear(w, f"{name}.3", F.relu(x))


def insert(mask_token: Tensor, tokens: Tensor, masks: Masks) -> Tensor:
    """Returns all tokens [B, 1 + N, D], with the mask token for every removed patch."""
    removed = masks.ids_restore.shape[1] - masks.ids_keep.shape[1]
    patches = torch.cat([tokens[:, 1:], mask_token.expand(len(tokens), removed, -1)], dim=1)
    order = masks.ids_restore[:, :, None].expand(-1, -1, patches.shape[2])
    return torch.cat([tokens[:, :1], patches.gather(1, order)], dim=1)


def stack(w: Weights, name: str, x: Tensor, depth: int, heads: int) -> Tensor:
    """Returns the tokens after `depth` blocks."""
    for block in (f"{name}.{index}" for index in range(depth)):
        qkv = linear(w, f"{block}.attn.qkv", norm(w, f"{block}.norm1", x))
        q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(w, f"{block}.attn.proj", attended)
        hidden = F.gelu(linear(w, f"{block}.mlp.fc1", norm(w, f"{block}.norm2", x)))
        x = x + linear(w, f"{block}.mlp.fc2", hidden)
    return x


def norm(w: Weights, name: str, x: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Returns the LayerNorm of tokens."""
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], epsilon)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """Returns a linear layer of tokens."""
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])
