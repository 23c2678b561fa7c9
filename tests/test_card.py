"""What a folder says of itself: config.json, preprocess.json, the model card."""

import json

import pytest
from random_weights import TINY, describe, detector_params, encoder_params

from fsvfm_jax.convert.card import model_card, preprocess, timm_config
from fsvfm_jax.convert.folder import write_folder

LABELS = ("fake", "real")


def card_of(params, description, *, num_classes, **ours):
    config = timm_config(params, description, num_classes=num_classes)
    config["fsvfm_jax"] |= {"sha256": {"model.safetensors": "ab" * 32}} | ours
    return model_card("my-model", config)


def front_matter(card):
    """Keys and values of the lines between the first two rules."""
    before, yaml, _ = card.split("---\n", maxsplit=2)
    assert before == ""
    pairs = [line.split(": ") for line in yaml.splitlines() if ": " in line]
    return dict(pairs), [line[2:] for line in yaml.splitlines() if line.startswith("- ")]


def test_a_detectors_card():
    description = describe(TINY, labels=LABELS, recipe="paper", step=9, dataset_fingerprint="f00d")
    card = card_of(detector_params(TINY), description, num_classes=2)
    fields, tags = front_matter(card)
    assert fields == {
        "license": "cc-by-nc-4.0",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
    }
    assert {"timm", "transformers"} <= set(tags)
    for text in (
        "0 = fake, 1 = real",
        'create_model("local-dir:my-model"',
        "| heads | 4 ",
        "| LayerNorm epsilon | 1e-06 |",
        "[0.54822, 0.42341, 0.36547]",
        "| interpolation | bicubic |",
        "| training step | 9 |",
        "f00d",
        "ab" * 32,
        "0" * 64,
        "| face detector | not known |",
        "stays under their licence",
    ):
        assert text in card, text


def test_an_encoders_card_has_no_labels():
    card = card_of(encoder_params(TINY), describe(TINY, license="apache-2.0"), num_classes=0)
    assert front_matter(card)[0]["pipeline_tag"] == "image-feature-extraction"
    assert "## Labels" not in card and "forward_features" in card
    assert "stays under their licence" not in card


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapters_card_names_the_loader(whole):
    attributes = {**TINY, "adapter_reduction": 4}
    files = ["adapter.safetensors", *(["model.safetensors"] if whole else [])]
    card = card_of(
        detector_params(attributes),
        describe(attributes, labels=LABELS),
        num_classes=0,
        head_file="adapter.safetensors",
        sha256=dict.fromkeys(files, "ab"),
    )
    assert ('load(".").eval()' in card) == whole
    assert ('backbone="ENCODER_FOLDER"' in card) != whole


def test_the_way_to_the_networks_input_is_told(tmp_path):
    description = describe(
        TINY, labels=LABELS, crop_pct=0.875, face_detector="MTCNN", crop_margin=0.37
    )
    write_folder(tmp_path / "x", detector_params(TINY), description)
    stored = json.loads((tmp_path / "x" / "preprocess.json").read_text())
    assert stored == preprocess(description)
    assert stored["resize_shorter_side"] == 73 and stored["center_crop"] == 64
    assert stored["face_detector"] == "MTCNN" and stored["crop_margin"] == 0.37
    assert stored["mean"] == list(description.stats.mean)


def test_timm_is_told_what_no_array_tells():
    config = timm_config(detector_params(TINY), describe(TINY, labels=LABELS), num_classes=2)
    args, data = config["model_args"], config["pretrained_cfg"]
    assert (args["num_heads"], args["global_pool"], args["fc_norm"]) == (4, "avg", True)
    assert (args["img_size"], data["input_size"]) == (64, [3, 64, 64])
    assert (data["interpolation"], data["crop_pct"]) == ("bicubic", 1.0)
    assert config["label_names"] == ["fake", "real"] and config["num_classes"] == 2
    assert config["model_type"] == "timm_wrapper"
