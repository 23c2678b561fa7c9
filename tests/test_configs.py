"""Tests what the configs of other libraries say of an encoder, and what is refused in them."""

import pytest

from fsvfm_jax.convert.configs import MAX_SIDE, known
from fsvfm_jax.errors import DataError


def test_no_config_says_nothing():
    assert known(None) == known({})
    assert known({}).num_heads is None and known({}).facts["stats"] is None


def test_timms_config():
    found = known(
        {
            "architecture": "vit_small_patch16_224",
            "model_args": {"act_layer": "quick_gelu", "img_size": 96},
            "pretrained_cfg": {
                "mean": [0.1, 0.2, 0.3],
                "std": [0.4, 0.5, 0.6],
                "input_size": [3, 224, 224],
                "license": "mit",
                "tag": "x",
            },
        }
    )
    assert found.architecture == "vit_small_patch16_224.x" and found.num_heads == 6
    assert found.image_size == 96 and found.options == {"activation": "quick_gelu"}
    assert found.facts["stats"].mean == (0.1, 0.2, 0.3) and found.facts["license"] == "mit"


def test_hugging_faces_config_of_a_tower_has_its_defaults():
    found = known({"model_type": "clip", "vision_config": {"num_attention_heads": 8}})
    assert found.num_heads == 8
    assert found.options == {"activation": "quick_gelu", "layer_norm_epsilon": 1e-5}


def test_open_clips_config_decides_the_activation():
    model = {"open_clip": {"model_cfg": {"quick_gelu": True}}}
    assert known(model).options == {"activation": "quick_gelu"}
    assert known({"open_clip": {"model_cfg": {}}}).options == {"activation": "gelu"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_act": "swish"}, "activation is 'swish', not one of gelu"),
        ({"use_swiglu_ffn": True}, "SwiGLU, which is not supported"),
        ({"use_gated_mlp": True}, "a gated MLP"),
        ({"model_type": "dinov3_vit", "rope_theta": 7.0}, "rope_theta = 7.0"),
        ({"image_size": MAX_SIDE + 1}, "has images of"),
        ({"image_size": [[3]]}, "is odd"),
        ({"num_attention_heads": 0}, "is odd"),
        ({"num_attention_heads": "8"}, "is odd"),
        ({"layer_norm_eps": -1.0}, "is odd"),
        ({"pretrained_cfg": {"mean": [0, 0], "std": [1, 1, 1]}}, "is odd"),
        ({"pretrained_cfg": {"mean": [0, 0, 0], "std": [0, 1, 1]}}, "mean and std .* are odd"),
        ({"model_args": 7}, "is odd"),
    ],
)
def test_odd_values_are_refused(config, message):
    with pytest.raises(DataError, match=message) as error:
        known(config)
    assert "\n" not in str(error.value)
