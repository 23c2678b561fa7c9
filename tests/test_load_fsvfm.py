"""Tests the loader in an exported folder: plain PyTorch, short, and with our numbers."""

import ast
import importlib.util
import json

import jax
import numpy as np
import pytest
from golden_files import need
from random_weights import TINY, describe, detector_params, encoder_params, images

from fsvfm_jax.convert.folder import LOADER, write_folder
from fsvfm_jax.models import build_detector
from fsvfm_jax.models.vit import SIZES

LABELS = ("fake", "real")
S = SIZES["vit_small_patch16"]
KINDS = {
    "adapter": {"adapter_reduction": 4},
    "adapter, class token": {"adapter_reduction": 4, "pool": "token"},
    "anti-spoofing": {"fas": True},
    "anti-spoofing, adapter": {"fas": True, "adapter_reduction": 4},
}


def export(folder, attributes, *, with_encoder=True):
    params = detector_params(attributes)
    description = describe(attributes, labels=LABELS)
    write_folder(folder, params, description, with_encoder=with_encoder)
    return params


def loader(folder):
    """Imports the module in the folder, not the module it was copied from."""
    need("torch"), need("timm")
    spec = importlib.util.spec_from_file_location("load_fsvfm", folder / "load_fsvfm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(detector, attributes, params):
    torch = need("torch")
    pixels = images(attributes["image_size"], batch=3)
    ours = jax.jit(build_detector(attributes).apply)({"params": params}, pixels)
    with torch.inference_mode():
        theirs = detector(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert np.std(ours.logits) > 0.02
    np.testing.assert_allclose(ours.logits, theirs.numpy(), rtol=0, atol=1e-5)


def test_it_is_short_and_knows_nothing_of_us():
    text = LOADER.read_text()
    assert len(text.splitlines()) <= 80
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if name and (isinstance(node, ast.Import) or name == node.module)
    }
    assert imported == {"hashlib", "json", "pathlib", "timm", "torch", "safetensors"}


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_ours(tmp_path, kind):
    attributes = {**TINY, **KINDS[kind]}
    params = export(tmp_path / "x", attributes)
    detector = loader(tmp_path / "x").load(str(tmp_path / "x")).eval()
    assert detector.label_names == ["fake", "real"]
    check(detector, attributes, params)


@pytest.mark.parametrize("kind", ["adapter", "adapter, class token", "anti-spoofing, adapter"])
def test_an_adapter_alone_runs_on_its_encoders_folder(tmp_path, kind):
    attributes = {**TINY, **KINDS[kind]}
    params = export(tmp_path / "x", attributes, with_encoder=False)
    assert not (tmp_path / "x" / "model.safetensors").exists()
    encoder = encoder_params(TINY) | {
        name: value for name, value in params.items() if name in encoder_params(TINY)
    }
    write_folder(tmp_path / "encoder", encoder, describe(TINY))
    load = loader(tmp_path / "x").load
    check(load(str(tmp_path / "x"), backbone=str(tmp_path / "encoder")).eval(), attributes, params)

    write_folder(tmp_path / "other", encoder_params(TINY, seed=1), describe(TINY))
    with pytest.raises(ValueError, match="another encoder"):
        load(str(tmp_path / "x"), backbone=str(tmp_path / "other"))
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: .*backbone=FOLDER"):
        load(str(tmp_path / "x"))
    smaller = TINY | {"depth": 1}
    write_folder(tmp_path / "smaller", encoder_params(smaller), describe(smaller))
    with pytest.raises(ValueError, match=r"not this detector's encoder: no blocks\.1\."):
        load(str(tmp_path / "x"), backbone=str(tmp_path / "smaller"))


def test_images_are_prepared_as_in_training(tmp_path):
    export(tmp_path / "x", {**TINY, **KINDS["adapter"]})
    detector = loader(tmp_path / "x").load(str(tmp_path / "x"))
    config = need("timm.data").resolve_model_data_config(detector.backbone)
    stored = json.loads((tmp_path / "x" / "config.json").read_text())["pretrained_cfg"]
    assert config["interpolation"] == "bicubic" and config["crop_pct"] == 1.0
    assert list(config["mean"]) == stored["mean"] and list(config["std"]) == stored["std"]


@pytest.mark.e2e
def test_an_adapter_of_vit_s_is_a_few_hundred_kilobytes(tmp_path):
    attributes = {**S, "image_size": 224, "adapter_reduction": 4}
    params = export(tmp_path / "x", attributes, with_encoder=False)
    size = (tmp_path / "x" / "adapter.safetensors").stat().st_size
    trained = 84_578 + 2 * 384  # the papers' number, and the norm of the pooled feature
    assert 4 * trained < size < 4 * trained + 2000
    encoder = {**encoder_params(S), **{k: v for k, v in params.items() if k in encoder_params(S)}}
    write_folder(tmp_path / "encoder", encoder, describe({**S, "image_size": 224}))
    load = loader(tmp_path / "x").load
    check(load(str(tmp_path / "x"), backbone=str(tmp_path / "encoder")).eval(), attributes, params)
