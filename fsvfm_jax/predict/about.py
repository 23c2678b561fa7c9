"""The verb `about`: what the score of a detector means, and what is known of a network."""

import argparse

from fsvfm_jax import cli
from fsvfm_jax.convert import facts
from fsvfm_jax.convert.folder_config import read_description
from fsvfm_jax.convert.weights import is_exported
from fsvfm_jax.data.rand_augment import CROP_PCT
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.models.vit import SIZE_FIELDS
from fsvfm_jax.predict import arguments, opening
from fsvfm_jax.predict.calibrate import describe
from fsvfm_jax.predict.calibration import Calibration
from fsvfm_jax.predict.networks import Detector, Encoder
from fsvfm_jax.predict.thresholds import check_calibration

NOT_CALIBRATED = """\
Not calibrated: it is not known how often this detector is wrong at any threshold. `predict
calibrate` measures that on labelled faces."""
_MEASURES = (*SIZE_FIELDS, "pool")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    arguments.add_arguments(parser)
    arguments.add_calibration(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        DataError: The model or its calibration cannot be read.
        ConfigError: The flags do not fit the model.
    """
    arguments.check_network(args)
    check_calibration(args.calibration)
    network = opening.load_network(args)
    calibration = opening.find_calibration(network, args)
    print(about(network, calibration, name=opening.model_name(args)), end="")
    cli.check_output()


def about(network: Encoder, calibration: Calibration | None, *, name: str) -> str:
    """Returns what is known of a network, in Markdown.

    Args:
        network: The network.
        calibration: Its calibration, if there is one.
        name: Name of the model.
    """
    known = network.facts | {"crop_pct": CROP_PCT[network.view], "interpolation": "bicubic"}
    if is_exported(network.path):  # Its facts name the folder itself as the source.
        stored = read_description(network.path)
        known |= {name: stored[name] for name in ("source", "source_sha256")}
    model = {measure: getattr(network.model, measure, None) for measure in _MEASURES}
    parts = [f"# {markdown_text(name)}", _task(network)]
    if isinstance(network, Detector):
        known["label_names"] = network.label_names
        parts += facts.score_parts(known, model)
        parts += ["## Thresholds", _thresholds(network, calibration, name=name)]
    hashes = {"SHA-256 of the parameters": network.sha256}
    parts += facts.fact_parts(known, model, stats=network.stats, hashes=hashes)
    parts += facts.license_parts(network.facts.get("license"))
    return "\n\n".join(parts) + "\n"


def _task(network: Encoder) -> str:
    """Returns what kind of network it is."""
    if not isinstance(network, Detector):
        return "An encoder: it turns faces into features, and has no score (`predict embed`)."
    kind = "presentation attacks (face anti-spoofing)" if network.model.fas else "face forgeries"
    how = " with an FS-Adapter" if network.model.adapter_reduction else ""
    fake, real = network.label_names
    return (
        f"A detector of {kind}{how}. {network.score_name} of a face goes from 0 (`{real}`) to 1"
        f" (`{fake}`)."
    )


def _thresholds(network: Detector, calibration: Calibration | None, *, name: str) -> str:
    if calibration is None:
        return NOT_CALIBRATED
    return describe(calibration, model=name, score_name=network.score_name).strip()
