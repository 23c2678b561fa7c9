"""Tests our ViT against Hugging Face's: names one to one, and the same numbers."""

import jax
import numpy as np
import pytest
from golden_files import need
from random_weights import TINY, detector_params, encoder_params, images
from vit_configs import vit_config

from fsvfm_jax.convert import huggingface
from fsvfm_jax.errors import DataError
from fsvfm_jax.models import build_detector
from fsvfm_jax.models.vit import SIZES

slow = pytest.mark.slow
S, B, L, H = SIZES.values()


def save(tmp_path, params, config):
    """Writes our parameters as a folder of Hugging Face."""
    save_file = need("safetensors.numpy").save_file
    state_dict = huggingface.to_state_dict(params)
    arrays = {name: np.ascontiguousarray(array) for name, array in state_dict.items()}
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(tmp_path)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("size", "image_size"),
    [
        (S, 224),
        (S, 160),
        pytest.param(B, 224, marks=slow),
        pytest.param(B, 160, marks=slow),
        pytest.param(L, 224, marks=slow),
        pytest.param(L, 288, marks=slow),
        pytest.param(H, 224, marks=slow),
        pytest.param(H, 280, marks=slow),
    ],
)
def test_features_and_logits_are_transformers(tmp_path, size, image_size):
    torch, transformers = need("torch"), need("transformers")
    attributes = {**size, "image_size": image_size, "pool": "token"}
    params = detector_params(attributes)
    ours = jax.jit(build_detector(attributes).apply)({"params": params}, images(image_size))
    save(tmp_path, params, vit_config(attributes))
    theirs, info = transformers.ViTForImageClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()), info
    with torch.inference_mode():
        pixels = torch.from_numpy(images(image_size)).permute(0, 3, 1, 2)
        features = theirs.vit(pixels).last_hidden_state[:, 0]
        logits = theirs(pixels).logits
    np.testing.assert_allclose(ours.features, features.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.logits, logits.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "size",
    [S, pytest.param(B, marks=slow), pytest.param(L, marks=slow), pytest.param(H, marks=slow)],
)
def test_an_encoder_goes_there_and_back_unchanged(size):
    check_back(encoder_params(size))


def test_a_detector_goes_there_and_back_unchanged():
    check_back(detector_params({**TINY, "pool": "token"}))


def check_back(params):
    back = huggingface.to_params(huggingface.to_state_dict(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_the_table_is_one_to_one():
    layers = [layer for _, layers in huggingface.BLOCK_TABLE for layer in layers]
    assert len(set(layers)) == len(layers)
    for side in (0, 1):
        assert len({row[side] for row in huggingface.TABLE}) == len(huggingface.TABLE)
        assert len({row[side] for row in huggingface.BLOCK_TABLE}) == len(huggingface.BLOCK_TABLE)


@pytest.mark.parametrize(
    "architecture",
    [
        *("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"),
        *("ViTMAEModel", "ViTMAEForPreTraining"),
    ],
)
def test_what_transformers_saves_becomes_an_encoder(tmp_path, architecture):
    torch, transformers = need("torch"), need("transformers")
    load_file = need("safetensors.numpy").load_file
    config = vit_config(TINY).to_dict()
    del config["model_type"]
    if "MAE" in architecture:
        extra = {"mask_ratio": 0.0, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}
        config = transformers.ViTMAEConfig(**config, **extra)
    else:
        config = transformers.ViTConfig(**config)
    torch.manual_seed(0)
    network = getattr(transformers, architecture)(config)
    network.save_pretrained(tmp_path)
    encoder = huggingface.to_encoder(load_file(tmp_path / "model.safetensors"))
    count = sum(x.size for x in jax.tree.leaves(encoder))
    assert count == sum(x.size for x in jax.tree.leaves(encoder_params(TINY)))
    vit = getattr(network, "vit", network)
    kernel = vit.embeddings.patch_embeddings.projection.weight.detach().numpy()
    np.testing.assert_array_equal(
        encoder["patch_embed"]["kernel"].reshape(16, 16, 3, 48), kernel.transpose(2, 3, 1, 0)
    )


def test_a_mean_over_patches_has_no_name_there():
    with pytest.raises(DataError, match=r"no name for 'fc_norm\.bias'"):
        huggingface.to_state_dict(detector_params(TINY))


QUERY = "vit.encoder.layer.1.attention.attention.query"


@pytest.mark.parametrize(
    ("added", "removed", "message"),
    [
        ({"vit.encoder.layer.0.layer_scale1.lambda1": (48,)}, (), r"layer_scale1\.lambda1"),
        ({"vit.embeddings.register_tokens": (1, 4, 48)}, (), "register_tokens"),
        ({"vit.embeddings.distillation_token": (1, 1, 48)}, (), "distillation_token"),
        ({}, (f"{QUERY}.bias",), r"1 missing: .*query\.bias"),
        ({f"{QUERY}.weight": (96, 48)}, (), r"\(96, 48\) instead of \(48, 48\)"),
        ({}, ("vit.embeddings.cls_token",), "needs a class token"),
        ({}, ("vit.layernorm.weight",), r"missing: vit\.layernorm\.weight"),
    ],
)
def test_other_networks_are_refused_by_their_first_keys(added, removed, message):
    state_dict = huggingface.to_state_dict(encoder_params(TINY))
    state_dict |= {key: np.zeros(shape) for key, shape in added.items()}
    for key in removed:
        del state_dict[key]
    with pytest.raises(DataError, match=message):
        huggingface.to_encoder(state_dict)


def test_a_missing_or_unknown_key_is_named():
    state_dict = huggingface.to_state_dict(encoder_params(TINY))
    with pytest.raises(DataError, match=r"'vit\.odd'"):
        huggingface.to_params(state_dict | {"vit.odd": np.zeros(1)})
    del state_dict[f"{QUERY}.weight"]
    with pytest.raises(DataError, match=r"lack 'vit\.encoder\.layer\.1.*query\.weight'"):
        huggingface.to_params(state_dict)
