"""Tests the small file of a fine-tuned detector: written, read back, and loaded by PyTorch."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from golden_files import need
from random_weights import TINY, describe, encoder_params, images, tuned_params
from test_load_fsvfm import loader
from tiny import ENCODER, detection_config, run_detection

from fsvfm_jax import tuning
from fsvfm_jax.convert.__main__ import main
from fsvfm_jax.convert.folder import read_folder, timm_names, write_folder
from fsvfm_jax.convert.runs import read_run
from fsvfm_jax.convert.tuned import Tuned, add_factors, small_file
from fsvfm_jax.convert.weights import read_source
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models import build_detector
from fsvfm_jax.tuning import Tuning

LABELS = ("fake", "real")
LORA = Tuning("lora", rank=2, alpha=4.0, targets=("q", "v", "proj", "fc1", "fc2"))
CASES = {
    "linear": (Tuning("linear"), {}),
    "norms": (Tuning("norms"), {}),
    "norms, class token": (Tuning("norms"), {"pool": "token"}),
    "partial": (Tuning("partial", last_blocks=1), {}),
    "partial, class token": (Tuning("partial", last_blocks=2), {"pool": "token"}),
    "lora": (LORA, {}),
    "lora, qkv, class token": (LORA._replace(targets=("qkv",)), {"pool": "token"}),
    "lora, anti-spoofing": (LORA._replace(fas=True), {"fas": True}),
}


def write(folder: Path, case: str) -> tuple[dict, dict]:
    """Writes the small folder and its encoder's; returns attributes and merged parameters."""
    way, changes = CASES[case]
    attributes = {**TINY, **changes}
    params = jax.device_get(tuned_params(way, **changes))
    merged = jax.device_get(tuning.merge(params, way))
    write_folder(
        folder / "small",
        merged,
        describe(attributes, labels=LABELS),
        with_encoder=False,
        tuned=Tuned(params, way),
    )
    # Only the frozen arrays are those of the encoder that the detector started from.
    encoder = encoder_params(TINY, seed=5)
    frozen = tuning.split(params, way)[1]
    for name, x in frozen.items():
        if name in encoder and way.mode not in ("norms", "partial"):
            encoder[name] = x
        elif name in encoder:
            encoder[name] = replaced(encoder[name], x)
    write_folder(folder / "encoder", encoder, describe(TINY))
    return attributes, merged


def replaced(whole, part):
    """Returns `whole` with the arrays of `part`, whose blocks may be the first ones only."""
    if isinstance(whole, dict):
        return {k: replaced(x, part[k]) if k in part else x for k, x in whole.items()}
    return np.concatenate([part, whole[len(part) :]])


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_read_with_its_encoder(tmp_path, case):
    _, merged = write(tmp_path, case)
    files = {path.name for path in (tmp_path / "small").iterdir()}
    assert "tuned.safetensors" in files and "model.safetensors" not in files
    assert 'load(".", backbone="ENCODER_FOLDER")' in (tmp_path / "small/README.md").read_text()
    read = read_folder(tmp_path / "small", encoder=tmp_path / "encoder").params
    assert jax.tree.structure(read) == jax.tree.structure(merged)
    tolerance = 1e-6 if "lora" in case else 0
    for ours, theirs in zip(jax.tree.leaves(read), jax.tree.leaves(merged), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
    write_folder(tmp_path / "other", encoder_params(TINY, seed=1), describe(TINY))
    with pytest.raises(DataError, match="holds another encoder"):
        read_folder(tmp_path / "small", encoder=tmp_path / "other")
    with pytest.raises(DataError, match="name the encoder's folder too"):
        read_folder(tmp_path / "small")


@pytest.mark.parametrize("case", CASES)
def test_the_loader_computes_our_logits(tmp_path, case):
    torch = need("torch")
    attributes, merged = write(tmp_path, case)
    load = loader(tmp_path / "small").load
    network = load(str(tmp_path / "small"), backbone=str(tmp_path / "encoder")).eval()
    pixels = images(64, batch=2)
    ours = jax.jit(build_detector(attributes).apply)({"params": merged}, pixels).logits
    with torch.inference_mode():
        theirs = network(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)
    write_folder(tmp_path / "other", encoder_params(TINY, seed=1), describe(TINY))
    with pytest.raises(ValueError, match="another encoder"):
        load(str(tmp_path / "small"), backbone=str(tmp_path / "other"))


def test_a_detector_without_a_known_way_of_training_has_no_small_file(tmp_path):
    params = jax.device_get(tuned_params(Tuning("full")))
    with pytest.raises(ConfigError, match="only a run of another mode than full"):
        write_folder(tmp_path, params, describe(TINY, labels=LABELS), with_encoder=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.0.attn.q.lora_A": None}, "have no weight, or one of them is missing"),
        ({"blocks.0.attn.q.lora_B": None}, "have no weight, or one of them is missing"),
        ({"blocks.0.attn.qkv.weight": None}, "have no weight"),
        ({"blocks.0.attn.qkv.weight": np.zeros(48)}, "have no weight"),
        ({"blocks.0.norm1.lora_A": np.zeros((1, 1))}, "'blocks.0.norm1' have no weight"),
        ({"blocks.9.mlp.fc1.lora_A": np.zeros((1, 48))}, "have no weight"),
        ({"blocks.0.attn.q.lora_A": np.zeros((2, 47), np.float32)}, r"are \[2, 47\] and"),
        ({"blocks.0.attn.q.lora_A": np.zeros(2, np.float32)}, r"are \[2\] and"),
        ({"blocks.0.attn.q.lora_B": np.zeros((144, 2), np.float32)}, r"and \[144, 2\], and do not"),
        ({"blocks.0.attn.q.lora_B": np.zeros((48, 3), np.float32)}, r"and \[48, 3\], and do not"),
    ],
)
def test_factors_that_do_not_fit_are_refused(changes, message):
    small, encoder = small_file(Tuned(jax.device_get(tuned_params(LORA)), LORA), timm_names)
    arrays = {k: x for k, x in (small | encoder | changes).items() if x is not None}
    with pytest.raises(DataError, match=message):
        add_factors(arrays)


@pytest.mark.e2e
def test_a_run_with_lora_goes_on_to_the_same_numbers_and_is_exported_both_ways(
    tmp_path, ask, caplog
):
    patches = {"patch_size": 8, "num_heads": 4}
    write_folder(
        tmp_path / "encoder",
        encoder_params(ENCODER | patches),
        describe(ENCODER | patches),
    )
    config = detection_config("lora", {"lora.rank": 2, "init.params": str(tmp_path / "encoder")})
    caplog.set_level("INFO")
    for name in ("straight", "killed"):
        if name == "killed":
            ask("step:5:raise")
            with pytest.raises(RuntimeError, match="FSVFM_FAULT asked for"):
                run_detection(tmp_path / name, config)
            ask("")
        run_detection(tmp_path / name, config)
    states = [jax.device_get(read_run(tmp_path / x).state) for x in ("straight", "killed")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert np.abs(states[0].params["lora_blocks"]["v"]["b"]).max() > 1e-4
    fingerprint = json.loads((tmp_path / "killed/fingerprint.json").read_text())["fingerprint"]
    assert fingerprint["lora.alpha"] == 8.0
    overview = (tmp_path / "killed/parameters.txt").read_text()
    assert "lora_blocks/q/a" in overview
    assert overview.endswith("Trainable: 578\n")

    assert "mode lora: learning rate 0.0005, weight decay 0, layer decay 1" in caplog.text
    assert "model: 578 trainable parameters of" in caplog.text

    source = ["to", "folder", str(tmp_path / "killed")]
    main([*source, str(tmp_path / "merged")])
    main([*source, str(tmp_path / "small"), "--without-encoder"])
    run = read_source(tmp_path / "killed", branch="student", given={}).params
    merged = read_folder(tmp_path / "merged").params
    small = read_folder(tmp_path / "small", encoder=tmp_path / "encoder").params
    jax.tree.map(np.testing.assert_array_equal, run, merged)
    apply = jax.jit(build_detector(config.model.to_dict() | {"num_heads": 4}).apply)
    logits = [apply({"params": x}, images(32, batch=2)).logits for x in (run, small)]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-6)
