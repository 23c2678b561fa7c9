"""Loads the detector of this folder in PyTorch; needs torch, timm and safetensors.

detector = load("FOLDER").eval()                      # the folder contains model.safetensors
detector = load("FOLDER", backbone="ENCODER").eval()  # another exported folder contains it
logits = detector(images)  # [B, 3, H, W], normalised; classes as in detector.label_names

A folder without model.safetensors contains what fine-tuning made: arrays that replace those of the
encoder, or LoRA's factors: lora_B @ lora_A is added to a weight, or to its rows of q, k or v.
"""

import hashlib
import json
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import linear, normalize, relu


class Detector(nn.Module):
    """timm's network with an FS-Adapter, an anti-spoofing head, or both, depending on `weights`."""

    def __init__(self, backbone: nn.Module, weights: dict, label_names: list):
        super().__init__()
        self.backbone, self.label_names = backbone, label_names
        self.weights = nn.ParameterDict({key.replace(".", "/"): x for key, x in weights.items()})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        w = self.weights
        tokens = self.backbone.forward_features(images)
        features = self.backbone.forward_head(tokens, pre_logits=True)
        x, adapted = features, "adapter/linear1/weight" in w
        if adapted:
            bottleneck = relu(linear(features, w["adapter/linear1/weight"]))
            x = torch.cat([features, relu(linear(bottleneck, w["adapter/linear2/weight"]))], dim=1)
        if "embedder/bottleneck_layer_fc/weight" not in w:
            return linear(x, w["head/weight"], w["head/bias"])
        if not adapted:  # The norm below is taken over the tokens.
            x = torch.cat([features[:, None], tokens[:, self.backbone.num_prefix_tokens :]], dim=1)
        embedder, classifier = "embedder/bottleneck_layer_fc", "classifier/classifier_layer"
        x = relu(linear(x, w[f"{embedder}/weight"], w[f"{embedder}/bias"]))
        x = x / (2 * x.norm(dim=1, keepdim=True).clamp(min=1e-12)).sqrt()
        x = x if x.ndim == 2 else x[:, 0]
        return linear(x, normalize(w[f"{classifier}/weight"], dim=0), w[f"{classifier}/bias"])


def weight_of(encoder: dict, name: str) -> torch.Tensor:
    """Returns the weight that factors belong to, or its rows of q, k or v."""
    layer, target = name.rsplit(".", 1)
    if target in ("q", "k", "v"):
        return encoder[f"{layer}.qkv.weight"].chunk(3)["qkv".index(target)]
    return encoder[f"{name}.weight"]


def load(folder: str, backbone: str | None = None) -> Detector:
    config = json.loads((Path(folder) / "config.json").read_text())
    ours = config["fsvfm_jax"]
    options = {"num_classes": 0, "pretrained_cfg": config["pretrained_cfg"]}
    model = timm.create_model(config["architecture"], **options, **config["model_args"])
    weights = load_file(Path(folder) / ours["head_file"])
    factors = {key: weights.pop(key) for key in list(weights) if ".lora_" in key}
    tuned = {key: weights.pop(key) for key in model.state_dict() if key in weights}
    encoder = Path(backbone or folder) / "model.safetensors"
    if not encoder.exists():
        raise FileNotFoundError(f"{encoder}: name the encoder's folder, backbone=FOLDER")
    encoder = load_file(encoder)
    if missing := sorted(model.state_dict().keys() - tuned.keys() - encoder.keys()):
        raise ValueError(f"{backbone or folder} is not this detector's encoder: no {missing[0]}")
    encoder = {key: encoder[key] for key in sorted(model.state_dict()) if key not in tuned}
    arrays = b"".join(x.numpy().tobytes() for x in encoder.values())
    if hashlib.sha256(arrays).hexdigest() != ours["encoder_sha256"]:
        raise ValueError(f"{backbone or folder} holds another encoder than this detector's")
    for key, a in factors.items():
        if key.endswith(".lora_A"):
            weight_of(encoder, key.removesuffix(".lora_A")).add_(factors[key[:-1] + "B"] @ a)
    model.load_state_dict(encoder | tuned)
    return Detector(model, weights, ours["label_names"])
