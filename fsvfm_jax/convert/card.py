"""The text files of an exported folder: config.json, preprocess.json and the model card."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

import yaml
from msgspec import Meta

from fsvfm_jax.convert import facts
from fsvfm_jax.convert.architectures import EVA, architecture
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.models.layers import LAYER_NORM_EPSILON
from fsvfm_jax.prepare.crops import FACE_DETECTORS

MAX_TEXT = 200  # characters of a name, recipe or the like
Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
# The names are timm's.
Interpolation = Literal["bicubic", "bilinear", "nearest", "box", "hamming", "lanczos"]

# Python in the card is formatted with `ruff format` and contains no text from other sources, not
# even the folder's name, which may change after a download.
CLASSIFIER = """\
In this folder:

```python
import timm
from PIL import Image

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
p = model(transform(Image.open("face.png").convert("RGB"))[None]).softmax(dim=1)[0].tolist()
print(dict(zip(model.pretrained_cfg["label_names"], p)))
```

or, with transformers beside timm:

```python
from transformers import pipeline

print(pipeline("image-classification", ".")("face.png"))
```"""
ENCODER = """\
In this folder:

```python
import timm
from PIL import Image

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = transform(Image.open("face.png").convert("RGB"))[None]
tokens = model.forward_features(image)  # class token and registers, if any, then the patches
features = model(image)  # pooled
```"""
LOADER = """\
timm alone cannot load this folder: `load_fsvfm.py` adds it to timm's network. In this folder:

```python
import timm
from load_fsvfm import load
from PIL import Image

model = load({arguments}).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model.backbone))
p = model(transform(Image.open("face.png").convert("RGB"))[None]).softmax(dim=1)[0].tolist()
print(dict(zip(model.label_names, p)))
```"""

OURS = """\
In this folder, with the project that exported it:

```
python -m fsvfm_jax.predict {command}
```

or, in Python:

```python
import fsvfm_jax

network = fsvfm_jax.load({arguments})
print(network.{method}("face.png"{pool}))  # the picture of a cropped face
```"""
ENCODER_FOLDER = "ENCODER_FOLDER"  # a name that the reader replaces


@dataclass(frozen=True, kw_only=True)
class Description:
    """What users of the weights must know and no array shows.

    Attributes:
        model: Measures: the arguments of `models.build_detector`, or of an encoder's `ViT` with the
            `pool` (one of `adapter.POOLS`) that others shall use for its features.
        stats: Mean and standard deviation that normalise pixels in 0 to 1.
        label_names: The classes in the order of the logits; empty for an encoder.
        license: An identifier of SPDX or the Hub, such as "cc-by-nc-4.0", which all conversions of
            the authors' weights keep. Older folders may contain any text.
        source: Name of the file or checkpoint that the weights came from.
        source_sha256: SHA-256 of the source.
        recipe: Recipe of the training, if known.
        step: Step of the training, if known.
        dataset_fingerprint: Fingerprint of the training set, if known.
        interpolation: How an image is resized to the network's size, one of `Interpolation`.
        crop_pct: Part of the resized image's shorter side that the centre crop keeps.
        face_detector: Name of the detector that found the faces, if known.
        crop_margin: Margin on each side of a face's box, as a fraction of the box, if known.
    """

    model: Mapping[str, Any]
    stats: Stats
    label_names: tuple[str, ...] = ()
    license: str
    source: str
    source_sha256: str
    recipe: str | None = None
    step: int | None = None
    dataset_fingerprint: str | None = None
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    face_detector: str | None = None
    crop_margin: float | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError if a field is out of its range."""
        if self.interpolation not in get_args(Interpolation):
            raise ConfigError(
                f"interpolation is {self.interpolation[:MAX_TEXT]!r}, not one of"
                f" {', '.join(get_args(Interpolation))}"
            )
        if not 0.01 <= self.crop_pct <= 1:
            raise ConfigError(f"crop_pct is {self.crop_pct}, not from 0.01 to 1")
        if self.crop_margin is not None and not 0 <= self.crop_margin <= 10:
            raise ConfigError(f"crop_margin is {self.crop_margin}, not from 0 to 10")
        texts = {
            "license": self.license,
            "source": self.source,
            "source_sha256": self.source_sha256,
            "dataset_fingerprint": self.dataset_fingerprint,
            "recipe": self.recipe,
            "face_detector": self.face_detector,
            **{f"label {index}": name for index, name in enumerate(self.label_names)},
        }
        for field, text in texts.items():
            if text is not None and not 0 < len(text) <= MAX_TEXT:
                raise ConfigError(
                    f"{field} is {text[:MAX_TEXT]!r}, of {len(text)} characters: give 1 to"
                    f" {MAX_TEXT}"
                )


def timm_config(
    params: Mapping[str, Any], description: Description, *, num_classes: int
) -> dict[str, Any]:
    """Returns config.json: the network for timm and transformers, the description as `fsvfm_jax`.

    Args:
        params: Encoder's or detector's tree.
        description: Description of these parameters.
        num_classes: Number of classes of a linear head; 0 if timm's part of the network has no
            head.
    """
    model, stats = description.model, description.stats
    global_pool = {"mean": "avg", "token": "token", "attention": "map"}[model["pool"]]
    width, image_size = model["width"], model["image_size"]
    of_timm = architecture(model)
    norm = "fc_norm" if of_timm.name not in EVA.values() else "use_fc_norm"
    return {
        "architecture": of_timm.name,
        "num_classes": num_classes,
        "num_features": width,
        "global_pool": global_pool,
        **({"label_names": list(description.label_names)} if num_classes else {}),
        "model_args": {
            "img_size": image_size,
            "patch_size": model["patch_size"],
            "embed_dim": width,
            "depth": model["depth"],
            # timm's own ViT-S has 6 heads, ours 12, and the number is in no array's shape.
            "num_heads": model["num_heads"],
            **of_timm.arguments,
            "global_pool": global_pool,
            norm: "fc_norm" in params,
        },
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, image_size, image_size],
            "fixed_input_size": True,
            "interpolation": description.interpolation,
            "crop_pct": description.crop_pct,
            "crop_mode": "center",
            "mean": list(stats.mean),
            "std": list(stats.std),
            "num_classes": num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": description.license,
        },
        "model_type": "timm_wrapper",
        "architectures": [
            "TimmWrapperForImageClassification" if num_classes else "TimmWrapperModel"
        ],
        "fsvfm_jax": {
            **asdict(description),
            "model": dict(model),
            "stats": {"mean": list(stats.mean), "std": list(stats.std)},
            "layer_norm_epsilon": model.get("layer_norm_epsilon", LAYER_NORM_EPSILON),
        },
    }


def preprocess(description: Description) -> dict[str, Any]:
    """Returns preprocess.json: the steps from a photograph to the network's input, without timm."""
    image_size = description.model["image_size"]
    return {
        "face_detector": description.face_detector,
        "crop_margin": description.crop_margin,
        "resize_shorter_side": int(image_size / description.crop_pct),
        "interpolation": description.interpolation,
        "center_crop": image_size,
        "channels": "RGB",
        "rescale": 1 / 255,
        "mean": list(description.stats.mean),
        "std": list(description.stats.std),
    }


def model_card(name: str, config: Mapping[str, Any]) -> str:
    """Returns the README.md of a folder: the Hub's front matter, instructions for loading, facts.

    Text from other sources, such as names of labels, is escaped.

    Args:
        name: Name of the folder.
        config: The folder's config.json with the hashes of the files.
    """
    ours = config["fsvfm_jax"]
    labels, stats = ours["label_names"], Stats(**ours["stats"])
    front_matter = {
        "license": ours["license"],
        "library_name": "timm",
        "pipeline_tag": "image-classification" if labels else "image-feature-extraction",
        "tags": ["timm", "transformers", "face"],
    }
    hashes = {f"SHA-256 of {file}": digest for file, digest in ours["sha256"].items()}
    parts = [
        f"---\n{yaml.safe_dump(front_matter, sort_keys=False)}---",
        f"# {markdown_text(name)}",
        f"A vision transformer for faces (FSFM / FS-VFM), {'a detector' if labels else 'encoder'},"
        " exported by fsvfm_jax.",
        *facts.label_parts(labels),
        "## Loading",
        _loading(ours),
        *_use(ours),
        *facts.score_parts(ours, ours["model"]),
        *facts.fact_parts(ours, ours["model"], stats=stats, hashes=hashes),
        *facts.license_parts(ours["license"]),
    ]
    return "\n\n".join(parts) + "\n"


def _loading(ours: Mapping[str, Any]) -> str:
    """Returns instructions for loading the folder, with Python to copy."""
    if "head_file" in ours:
        other = f', backbone="{ENCODER_FOLDER}"' if _without_encoder(ours) else ""
        return LOADER.format(arguments=f'"."{other}')
    return CLASSIFIER if ours["label_names"] else ENCODER


def _use(ours: Mapping[str, Any]) -> list[str]:
    """Returns how this project uses the folder; nothing for classes that it has no score for."""
    needs_encoder = _without_encoder(ours)
    flag, argument = (f" --encoder={ENCODER_FOLDER}", f', encoder="{ENCODER_FOLDER}"')
    options = {"arguments": f'"."{argument if needs_encoder else ""}', "pool": ""}
    if not ours["label_names"]:
        pool = ours["model"]["pool"]
        command = f"embed --model=. --pool={pool} --output=features.npz face.png"
        options |= {"command": command, "method": "features", "pool": f', pool="{pool}"'}
    elif sorted(ours["label_names"]) == sorted(LABELS):
        # `predict score` finds faces as these detectors do; for others they are cropped already.
        detector, margin = ours["face_detector"], ours["crop_margin"]
        finds = detector in FACE_DETECTORS and (detector == "none" or margin is not None)
        picture = "photo.jpg" if finds else "--cropped face.png"
        command = f"score --model=.{flag if needs_encoder else ''} {picture}"
        options |= {"command": command, "method": "predict"}
    else:
        return []
    return ["## Use", OURS.format(**options)]


def _without_encoder(ours: Mapping[str, Any]) -> bool:
    """Returns whether the folder contains an adapter, and its encoder is in another folder."""
    return "head_file" in ours and len(ours["sha256"]) == 1
