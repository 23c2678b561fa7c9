"""What is known of a network, and what its score means: parts of the model card and of `about`.

Every function returns blocks of Markdown. Text from other sources, such as names of labels, is
escaped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fsvfm_jax.convert.licenses import AUTHORS_LICENSE
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.errors import short_list
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.models.layers import LAYER_NORM_EPSILON
from fsvfm_jax.models.vit import OPTIONS

POOLING = {
    "mean": "mean of the patch tokens, without the class token",
    "token": "class token",
    "attention": "attention pool",
}
LABELS = """\
{names}: this is the order of the logits. Other tools for the same task use the other order; go by
the names."""
NON_COMMERCIAL = """\
CC BY-NC 4.0: a conversion of the authors' weights stays under their licence."""
# docs/using.md contains both lists.
MEANING = (
    "A score is the output of a network, not a probability that a picture is forged. It depends on"
    " how the network was trained. Without a calibration, 0.5 has no special meaning: a network may"
    " give 0.7 to most real faces from a camera that it does not know.",
    "The threshold decides which errors you make. `predict calibrate` finds thresholds for faces"
    " like yours, with known rates of false alarms.",
    "A low score means that the network found nothing that it was trained to find. It does not"
    " prove that a face is real.",
    "Do not judge a person by a score. Measure first how often the detector is wrong on faces like"
    " those that you score.",
)
FAILURES = (
    "Other crops: a face that is cut out tighter or wider than in the training gets an arbitrary"
    " score. Anything gets a score if it is taken for a face, also a picture of a dog.",
    "Compression: strong compression, small faces, screenshots and filters change scores in both"
    " directions.",
    "Unknown generators: forgeries that are made in another way than those of the training are"
    " often missed.",
    "Several people: the score of a file is the highest of its people, so a file with many people"
    " is more often taken for fake.",
    "Faces unlike those of the training: cameras, light and groups of people that were rare there"
    " can have much higher rates of errors.",
    "Missed faces: dlib does not find faces below about 40 pixels, nor faces that are turned far to"
    " the side.",
)


def label_parts(labels: Sequence[str]) -> list[str]:
    """Returns the classes in the order of the logits; nothing for an encoder.

    Args:
        labels: Names of the classes.
    """
    names = [f"{index} = {markdown_text(label)}" for index, label in enumerate(labels)]
    listed = short_list(names, rest="more (see config.json)")
    return ["## Labels", LABELS.format(names=listed)] if labels else []


def score_parts(known: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """Returns what a detector's score means and how faces are cropped; nothing for an encoder.

    Args:
        known: The known fields of `card.Description`.
        model: Measures of the network.
    """
    if not known.get("label_names"):
        return []
    return [
        "## What a score means",
        _bullets(MEANING),
        "## Known failures of such detectors",
        _bullets(FAILURES),
        "## Faces",
        _crop_rule(known, image_size=model["image_size"]),
    ]


def fact_parts(
    known: Mapping[str, Any],
    model: Mapping[str, Any],
    *,
    stats: Stats,
    hashes: Mapping[str, str],
) -> list[str]:
    """Returns a table of facts.

    Args:
        known: The known fields of `card.Description`.
        model: Measures of the network.
        stats: Mean and standard deviation that normalise the images.
        hashes: More rows: names and SHA-256.
    """
    facts = {
        "pixels, patch": f"{model['image_size']}, {model['patch_size']}",
        "width, depth": f"{model['width']}, {model['depth']}",
        "heads": f"{model['num_heads']} (in no array; timm's networks of this width may differ)",
        "LayerNorm epsilon": model.get("layer_norm_epsilon", LAYER_NORM_EPSILON),
        **_options(model),
        "pooling": POOLING.get(model.get("pool")),
        "mean": list(stats.mean),
        "std": list(stats.std),
        "interpolation": known.get("interpolation"),
        "face detector": known.get("face_detector"),
        "margin around the face's box": known.get("crop_margin"),
        "recipe": known.get("recipe"),
        "training step": known.get("step"),
        "fingerprint of the training set": known.get("dataset_fingerprint"),
        "made from": known.get("source"),
        "SHA-256 of that": known.get("source_sha256"),
        **hashes,
    }
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    return ["## Facts", "\n".join(["| | |", "|---|---|", *rows])]


def license_parts(license: str | None) -> list[str]:
    """Returns the licence of the weights.

    Args:
        license: Its name; None if unknown.
    """
    if license is None:
        return ["## Licence", "Not known: ask those who made the weights before you use them."]
    text = f"Under {markdown_text(license)}."
    return ["## Licence", NON_COMMERCIAL if license == AUTHORS_LICENSE else text]


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"* {sentence}" for sentence in sentences)


def _crop_rule(known: Mapping[str, Any], *, image_size: int) -> str:
    """Returns how the faces of the training were found, cropped and resized."""
    detector, margin = known.get("face_detector"), known.get("crop_margin")
    if detector is None:
        found = "It is not known how the faces of the training were found."
    elif detector == "none":
        found = "The middle square of every picture was taken for the face."
    else:
        found = f"The faces of the training were found by {markdown_text(detector)}. "
        found += (
            "The margin around the face's box is not known."
            if margin is None
            else f"A crop is a square, {1 + 2 * margin:g} times as long as the longer side of the"
            " face's box."
        )
    part = known.get("crop_pct", 1.0)
    view = f"It is resized to {image_size} x {image_size} pixels."
    if part != 1:
        view = f"Its shorter side is resized to {int(image_size / part)} pixels, and the middle"
        view += f" {image_size} x {image_size} pixels are taken."
    return f"{found} {view} A score is valid only for faces that are cropped in this way."


def _options(model: Mapping[str, Any]) -> dict[str, str]:
    """Returns a row with the options in which an encoder differs from the papers' network."""
    found = [f"{name} {model[name]}" for name in OPTIONS if name in model]
    return {"options of the encoder": ", ".join(found)} if found else {}


def _cell(value: str | int | float | list[float] | None) -> str:
    if value is None:
        return "not known"
    return markdown_text(value) if isinstance(value, str) else str(value)
