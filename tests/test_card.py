"""Tests the descriptions in an exported folder: config.json, preprocess.json, the model card."""

import json
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from random_weights import TINY, describe, detector_params, encoder_params

from fsvfm_jax.convert.card import model_card, preprocess, timm_config
from fsvfm_jax.convert.folder import write_folder
from fsvfm_jax.convert.licenses import is_license
from fsvfm_jax.errors import ConfigError

LABELS = ("fake", "real")


def card_of(params, description, *, num_classes, name="my-model", **ours):
    config = timm_config(params, description, num_classes=num_classes)
    config["fsvfm_jax"] |= {"sha256": {"model.safetensors": "ab" * 32}} | ours
    return model_card(name, config)


def front_matter(card):
    """Returns the fields and the tags that YAML finds between the first two rules."""
    before, text, _ = card.split("---\n", maxsplit=2)
    assert before == ""
    fields = yaml.safe_load(text)
    return fields, fields.pop("tags")


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
        'create_model("local-dir:."',
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


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        ({"face_detector": "dlib", "crop_margin": 0.15}, "score --model=. photo.jpg"),
        ({"face_detector": "none"}, "score --model=. photo.jpg"),
        ({"face_detector": "dlib"}, "score --model=. --cropped face.png"),
        ({"face_detector": "mtcnn", "crop_margin": 0.15}, "score --model=. --cropped face.png"),
        ({}, "score --model=. --cropped face.png"),
    ],
)
def test_a_detectors_card_shows_how_this_project_uses_it(facts, command):
    card = card_of(detector_params(TINY), describe(TINY, labels=LABELS, **facts), num_classes=2)
    assert f"python -m fsvfm_jax.predict {command}\n" in card
    assert 'fsvfm_jax.load(".")\n' in card and 'network.predict("face.png")' in card
    other = card_of(detector_params(TINY), describe(TINY, labels=("cat", "dog")), num_classes=2)
    assert "fsvfm_jax.predict" not in other.replace("`predict calibrate`", "")


def test_an_encoders_card_has_no_labels():
    card = card_of(encoder_params(TINY), describe(TINY, license="apache-2.0"), num_classes=0)
    assert front_matter(card)[0]["pipeline_tag"] == "image-feature-extraction"
    assert "## Labels" not in card and "forward_features" in card
    assert "embed --model=. --pool=mean --output=features.npz face.png\n" in card
    assert 'fsvfm_jax.load(".")\n' in card and 'network.features("face.png", pool="mean")' in card
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
    assert ("score --model=. --encoder=ENCODER_FOLDER --cropped" in card) != whole
    assert ('load(".", encoder="ENCODER_FOLDER")' in card) != whole


def test_the_way_to_the_networks_input_is_reported(tmp_path):
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


ROOT = Path(__file__).parent.parent
MARKDOWN = MarkdownIt("gfm-like", {"linkify": False})
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[free](https://example.com) ![](https://example.com/x.png)",
    "a | b |\n| c | d |",
    "```\n```python\nimport os",
    "\n---\nlicense: mit\n---\n# Heading\n",
    "{name} {0} {{}}",
    "\x1b[31m\u202e",
    "'; import os; '",
)


def outline(card):
    """Returns types and tags of a document's parts, including those inside lines, and its code."""
    flat = []
    for token in MARKDOWN.parse(card.split("---\n", maxsplit=2)[2]):
        flat.append((token.type, token.tag, token.content if token.type == "fence" else ""))
        # An empty comment follows an `@`, and the text continues after it.
        children = [child for child in token.children or () if child.content != "<!-- -->"]
        flat += [kind for kind, _ in groupby((child.type, child.tag) for child in children)]
    return flat


def hostile_card(text, *, name="my-model", labels=LABELS):
    description = describe(TINY, labels=labels, recipe=text, face_detector=text, source=text)
    return card_of({}, description, num_classes=2, name=name)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_elsewhere_does_nothing_in_the_card(text):
    plain = hostile_card("x", name="x", labels=("x", "y"))
    card = hostile_card(text, name=text, labels=(text, "y"))
    assert outline(card) == outline(plain)
    assert front_matter(card) == front_matter(plain)
    html = MARKDOWN.render(card)
    assert not re.search(r"<(script|img|a)\b", html)


@given(st.text(st.sampled_from("a \\`*_[]()<>&|~$#!:/.-+='\n{}") | st.characters(), max_size=99))
def test_no_text_changes_what_the_card_consists_of(text):
    text += "a"  # White space alone would be an empty heading.
    assert outline(hostile_card(text, name=text)) == outline(hostile_card("x", name="x"))


@pytest.mark.parametrize(
    "license", ["apache-2.0", "cc-by-nc-4.0", "MIT", "0BSD", "GPL-3.0+", "llama3.1", "no", "null"]
)
def test_identifiers_of_licences_are_taken_and_stay_text(license):
    assert is_license(license)
    card = card_of(encoder_params(TINY), describe(TINY, license=license), num_classes=0)
    assert front_matter(card)[0]["license"] == license


@pytest.mark.parametrize(
    "license",
    [
        *(7, {"a": 1}, None, ["mit"], "", "7", "1.0", "mit\n", "MIT OR Apache-2.0", "a: b"),
        *("x" * 65, "{'a': 1}", "<b>", "é"),
    ],
)
def test_what_is_no_identifier_of_a_licence_is_refused(license, tmp_path):
    assert not is_license(license)
    if not isinstance(license, str):
        return
    match = "the licence is .*: a licence is the identifier" if license else "license is ''"
    with pytest.raises(ConfigError, match=match):
        write_folder(tmp_path / "x", encoder_params(TINY), describe(TINY, license=license))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recipe": "x" * 201}, "recipe is 'x+', of 201 characters: give 1 to 200"),
        ({"source": ""}, "source is '', of 0 characters"),
        ({"source_sha256": "0" * 600_000}, "source_sha256 is '0{200}', of 600000"),
        ({"dataset_fingerprint": "f" * 600_000}, "dataset_fingerprint is 'f{200}', of 600000"),
        ({"license": "x" * 201}, "license is 'x{200}', of 201"),
        ({"interpolation": "x" * 600_000}, "interpolation is 'x{200}', not one of bicubic, bil"),
        ({"labels": ("fake", "")}, "label 1 is '', of 0"),
        ({"face_detector": "x" * 10**6}, "face_detector is 'x{200}', of 1000000"),
        ({"crop_margin": float("nan")}, "crop_margin is nan, not from 0 to 10"),
        ({"crop_margin": -0.1}, "crop_margin is -0.1"),
        ({"crop_pct": 0.0}, "crop_pct is 0.0"),
        ({"crop_pct": 1e-320}, "crop_pct is 1e-320"),
    ],
)
def test_a_description_has_bounds(fields, message):
    with pytest.raises(ConfigError, match=message) as error:
        describe(TINY, **fields)
    assert len(str(error.value)) < 300


def test_of_many_labels_the_first_are_named():
    labels = tuple(f"kind{i}" for i in range(1000))
    card = card_of(detector_params(TINY), describe(TINY, labels=labels), num_classes=1000)
    assert "19 = kind19 and 980 more (see config.json): this is the order" in card


@pytest.mark.parametrize("kind", ["encoder", "detector", "adapter", "adapter alone"])
def test_an_exported_folder_is_as_ruff_has_it(tmp_path, kind):
    """Checks the format that ruff requires where a checkout contains the folder."""
    attributes = {**TINY, **({"adapter_reduction": 4} if "adapter" in kind else {})}
    if kind == "encoder":
        params, description = encoder_params(TINY), describe(TINY)
    else:
        params, description = detector_params(attributes), describe(attributes, labels=LABELS)
    write_folder(tmp_path / 'a "b"', params, description, with_encoder=kind != "adapter alone")
    for command in (["check"], ["format", "--check", "--diff"]):
        config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *config, "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr
