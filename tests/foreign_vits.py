"""Networks of timm and transformers of every family, with random weights that are not tiny."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from golden_files import need

# Measures of timm and of transformers; tests of sizes change them.
TINY = {"width": 48, "depth": 2, "num_heads": 2, "image_size": 32, "patch_size": 8}


class Case(NamedTuple):
    """A network of another library.

    Attributes:
        library: "timm", or the name of a class of transformers.
        name: timm's architecture, or the config's class.
        family: The family that is found; None for none.
        options: What differs from the papers' network.
        others: Arguments of the network beside its measures.
        left_out: Arrays that are no part of the encoder.
    """

    library: str
    name: str
    family: str | None
    options: dict[str, Any]
    others: Mapping[str, Any] = MappingProxyType({})
    left_out: int = 0


CLIP = {"pre_norm": True, "layer_norm_epsilon": 1e-5, "patch_bias": False}
DINOV3 = {
    **{"registers": 4, "layer_scale": True, "positions": "rope"},
    **{"layer_norm_epsilon": 1e-5, "key_bias": False},
}
QUICK, TANH = {"activation": "quick_gelu"}, {"activation": "gelu_tanh"}
SIGLIP = {"class_token": False, "prefix_positions": 0, "pool_heads": 2}
DINOV2 = {"layer_scale": True}
PERCEPTION = CLIP | {"positions": "table_and_rope", "pool_heads": 2}
AT_HUB = {"Dinov2Model": {"mlp_ratio": 4}, "Dinov2WithRegistersModel": {"mlp_ratio": 4}}
CASES = {
    "dinov2 hf": Case("Dinov2Model", "Dinov2Config", "DINOv2", DINOV2, {}, 1),
    "dinov2 registers hf": Case(
        *("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "DINOv2"),
        *({**DINOV2, "registers": 4}, {}, 1),
    ),
    "dinov2 timm": Case("timm", "vit_small_patch14_dinov2", "DINOv2", DINOV2),
    "dinov2 registers timm": Case(
        *("timm", "vit_small_patch14_reg4_dinov2", "DINOv2"),
        {**DINOV2, "registers": 4, "prefix_positions": 0},
    ),
    "dinov3 hf": Case(
        "DINOv3ViTModel", "DINOv3ViTConfig", "DINOv3", DINOV3, {"num_register_tokens": 4}, 1
    ),
    "dinov3 timm": Case(
        "timm", "vit_small_patch16_dinov3", "DINOv3", DINOV3, {"global_pool": "token"}
    ),
    "dinov3 biases timm": Case(
        "timm", "vit_small_patch16_dinov3_qkvb", "DINOv3", DINOV3, {"global_pool": "token"}
    ),
    "clip hf": Case("CLIPVisionModel", "CLIPVisionConfig", "CLIP", CLIP | QUICK),
    "clip timm": Case("timm", "vit_base_patch16_clip_224", "CLIP", CLIP),
    "clip quickgelu timm": Case(
        "timm", "vit_base_patch16_clip_quickgelu_224", "CLIP", CLIP | QUICK
    ),
    "siglip hf": Case("SiglipVisionModel", "SiglipVisionConfig", "SigLIP", SIGLIP | TANH),
    "siglip timm": Case("timm", "vit_base_patch16_siglip_224", "SigLIP", SIGLIP),
    "perception timm": Case(
        "timm", "vit_pe_core_base_patch16_224", "Perception Encoder", PERCEPTION
    ),
    "supervised timm": Case("timm", "vit_base_patch16_224.augreg_in21k", "AugReg", {}),
}

# The cases with an attention pool.
POOLED = [name for name, case in CASES.items() if "pool_heads" in case.options]


def build(case: Case, measures: dict[str, int]) -> Any:
    """Returns the network, with random weights, in evaluation mode."""
    if case.library == "timm":
        name = case.name.split(".")[0]
        network = need("timm").create_model(name, **timm_arguments(case, measures))
    else:
        transformers = need("transformers")
        names = {
            "hidden_size": measures["width"],
            "num_hidden_layers": measures["depth"],
            "num_attention_heads": measures["num_heads"],
            "image_size": measures["image_size"],
            "patch_size": measures["patch_size"],
        }
        extra = AT_HUB.get(case.library, {"intermediate_size": 4 * measures["width"]})
        config = getattr(transformers, case.name)(**names, **extra, **case.others)
        network = getattr(transformers, case.library)(config)
    return randomized(network)


def timm_arguments(case: Case, measures: dict[str, int]) -> dict[str, Any]:
    """Returns the arguments of timm's network."""
    side = measures["image_size"] // measures["patch_size"]
    names = {
        "img_size": measures["image_size"],
        "patch_size": measures["patch_size"],
        "embed_dim": measures["width"],
        "depth": measures["depth"],
        "num_heads": measures["num_heads"],
        "num_classes": 0,
    }
    pool = {"ref_feat_shape": (side, side), "attn_pool_num_heads": 2} if "_pe_" in case.name else {}
    return names | pool | case.others


def randomized(network: Any) -> Any:
    """Draws kernels from N(0, 1 / inputs), scales from N(1, 0.2) and other arrays from N(0, 0.2).

    The input of the first norm is smaller: it varies so little that the norm's epsilon matters, as
    all other options do.
    """
    torch = need("torch")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, array in network.named_parameters():
            kernel = name.endswith("weight") and array.ndim > 1 and "position" not in name
            scale = array.ndim == 1 and (name.endswith("weight") or "gamma" in name)
            scale = scale or "lambda" in name
            deviation = array[0].numel() ** -0.5 if kernel else 0.2
            embeds = "patch_emb" in name or "position" in name or "pos_emb" in name
            if embeds or name.endswith(("_token", "_tokens", "class_embedding")):
                deviation *= 0.02
            noise = torch.randn(array.shape, generator=generator)
            array.copy_(deviation * noise + float(scale))
    return network.eval()


def save(case: Case, network: Any, measures: dict[str, int], folder: Path) -> None:
    """Writes the network as its library does."""
    if case.library != "timm":
        network.save_pretrained(folder)
        return
    arguments = timm_arguments(case, measures)
    if "." in case.name:
        network.pretrained_cfg["tag"] = case.name.split(".")[1]
    need("timm").models.save_for_hf(network, folder, model_args=arguments, safe_serialization=True)


def tokens_of(case: Case) -> Callable[[Any, np.ndarray], np.ndarray]:
    """Returns the function from a network and images [B, H, W, 3] to tokens after its last norm."""

    def tokens(network: Any, images: np.ndarray) -> np.ndarray:
        torch = need("torch")
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        with torch.inference_mode():
            if case.library == "timm":
                return network.forward_features(pixels).numpy()
            tokens = network(pixel_values=pixels).last_hidden_state
            if case.library == "CLIPVisionModel":  # Only its class token goes through the norm.
                tokens = network.post_layernorm(tokens)
            return tokens.numpy()

    return tokens


def pooled_of(case: Case) -> Callable[[Any, np.ndarray], np.ndarray]:
    """Returns the function from a network and images [B, H, W, 3] to its pooled features."""

    def pooled(network: Any, images: np.ndarray) -> np.ndarray:
        torch = need("torch")
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        with torch.inference_mode():
            if case.library == "timm":
                tokens = network.forward_features(pixels)
                return network.forward_head(tokens, pre_logits=True).numpy()
            return network(pixel_values=pixels).pooler_output.numpy()

    return pooled
