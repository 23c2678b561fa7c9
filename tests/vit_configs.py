"""The configuration that transformers has for one of our networks."""

from typing import Any

from golden_files import need


def vit_config(measures: dict[str, Any], **others: Any) -> Any:
    """Returns a `ViTConfig` of these measures; `others` are further fields of it."""
    config = {
        "image_size": measures.get("image_size", 224),
        "patch_size": measures["patch_size"],
        "hidden_size": measures["width"],
        "num_hidden_layers": measures["depth"],
        "num_attention_heads": measures["num_heads"],
        "intermediate_size": 4 * measures["width"],
        "layer_norm_eps": 1e-6,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return need("transformers").ViTConfig(**(config | others))
