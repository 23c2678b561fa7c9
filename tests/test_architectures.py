"""Tests the names, arguments and arrays of timm's networks for our encoders."""

import numpy as np
import pytest

from fsvfm_jax.convert.architectures import architecture, from_timm, to_timm
from fsvfm_jax.errors import ConfigError, DataError

PLAIN = {"image_size": 32, "patch_size": 8, "width": 768, "depth": 1, "num_heads": 4}
DINOV3 = {
    "positions": "rope",
    "registers": 2,
    "layer_scale": True,
    "key_bias": False,
    "layer_norm_epsilon": 1e-5,
}


def test_the_papers_networks_have_timms_plain_names():
    assert architecture(PLAIN) == ("vit_base_patch16_224", {"class_token": True})
    assert architecture(PLAIN | {"width": 384}).name == "vit_small_patch16_224"
    assert architecture(PLAIN | {"width": 64}).name == "vit_base_patch16_224"


def test_options_become_arguments():
    found = architecture(PLAIN | {"registers": 4, "layer_scale": True, "activation": "quick_gelu"})
    assert found.arguments == {
        "class_token": True,
        "reg_tokens": 4,
        "init_values": 1.0,
        "act_layer": "quick_gelu",
    }
    clip = architecture(PLAIN | {"pre_norm": True, "patch_bias": False, "layer_norm_epsilon": 1e-5})
    assert clip.name == "vit_base_patch16_clip_224" and clip.arguments["pre_norm"]
    assert architecture(PLAIN | DINOV3).name == "vit_base_patch16_dinov3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pre_norm": True}, "no bias of the patches"),
        ({"positions": "rope", "activation": "quick_gelu"}, "no rotations with the activation"),
        ({"positions": "rope"}, "no bias of the keys"),
    ],
)
def test_what_timm_does_not_have_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        architecture(PLAIN | options)


@pytest.mark.parametrize(
    ("options", "arrays"),
    [
        ({}, {"pos_embed": (1, 17, 8), "patch_embed.proj.bias": (8,)}),
        ({"registers": 2}, {"pos_embed": (1, 17, 8), "reg_token": (1, 2, 8)}),
        (DINOV3, {"blocks.0.attn.qkv.bias": (24,), "blocks.0.ls1.gamma": (8,)}),
    ],
)
def test_arrays_come_back(options, arrays):
    rng, model = np.random.default_rng(0), PLAIN | options
    ours = {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    if "blocks.0.attn.qkv.bias" in ours:
        ours["blocks.0.attn.qkv.bias"][8:16] = 0  # There is no bias of the keys.
    back = from_timm(to_timm(ours, model), model)
    assert back.keys() == ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(back[name], array)


def test_a_table_with_positions_of_registers_is_refused():
    model = PLAIN | {"registers": 2}
    with pytest.raises(DataError, match="positions of register tokens"):
        from_timm({"pos_embed": np.ones((1, 19, 8), np.float32)}, model)
