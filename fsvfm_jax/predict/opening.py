"""Opens the network, the faces and the calibration that the flags of a command name."""

import argparse
from pathlib import Path
from typing import Any

import jax

from fsvfm_jax import cli
from fsvfm_jax.detectors import NO_DETECTOR
from fsvfm_jax.errors import ConfigError, DataError, brief
from fsvfm_jax.predict.arguments import check_margin, no_crop_margin, no_face_detector
from fsvfm_jax.predict.calibrated import calibration_of
from fsvfm_jax.predict.calibration import Calibration
from fsvfm_jax.predict.faces import CROPPED, FaceOptions, most_faces
from fsvfm_jax.predict.networks import Detector, Encoder, load
from fsvfm_jax.prepare.crops import FACE_DETECTORS


def load_network(args: argparse.Namespace, **options: Any) -> Encoder | Detector:
    """Opens the network that the flags of `arguments.add_arguments` name.

    Args:
        args: The parsed flags.
        options: Further arguments of `load`.

    Raises:
        ConfigError: The machine has an accelerator that JAX does not find.
        UserError: As `load`.
    """
    cli.check_accelerator(jax.default_backend())
    names = (
        "labels",
        "stats",
        "num_heads",
        "activation",
        "view",
        "step",
        "entry",
        "encoder",
        "batch_size",
    )
    return load(args.model, **{name: getattr(args, name) for name in names}, **options)


def load_detector(args: argparse.Namespace, **options: Any) -> Detector:
    """Opens the detector that the flags name, as `load_network` opens a network.

    Raises:
        DataError: The network is no detector.
        UserError: As `load_network`.
    """
    network = load_network(args, **options)
    if not isinstance(network, Detector):
        raise DataError(f"{args.model} {NO_DETECTOR}")
    return network


def model_name(args: argparse.Namespace) -> str:
    """Returns the name of the model for readers, without the folders that it lies in."""
    return Path(args.model).resolve().name or args.model


def find_calibration(network: Encoder, args: argparse.Namespace) -> Calibration | None:
    """Returns the calibration that the flags name, or the model's own, if there is one.

    Raises:
        UserError: As `calibration_of`.
    """
    # Only verbs that find faces have flags that say how.
    given = {name: vars(args).get(name) for name in ("face_detector", "crop_margin")}
    facts = network.facts | {name: value for name, value in given.items() if value is not None}
    return calibration_of(network, file=args.calibration, facts=facts)


def face_options(network: Encoder, args: argparse.Namespace) -> FaceOptions:
    """Returns how the faces of the inputs are found, from the model's facts and the flags.

    Args:
        network: The network.
        args: The flags of `arguments.add_face_arguments`, after `arguments.check_face_arguments`.

    Raises:
        ConfigError: Neither the model nor the flags say how faces are found, or flags do not fit
            the model.
    """
    detector, margin = (CROPPED, 0.0) if args.cropped else _detector_and_margin(network, args)
    if args.frames > (most := most_faces(network.image_size)):
        raise ConfigError(
            f"--frames={args.frames} takes too much memory with faces of {network.image_size}"
            f" pixels: give at most {most}"
        )
    return FaceOptions(detector, margin, args.faces, args.frames, network.image_size, network.view)


def _detector_and_margin(network: Encoder, args: argparse.Namespace) -> tuple[str, float | int]:
    """Returns the face detector and the margin around its boxes, of the model or of flags."""
    detector = _stored_or_given(network, args, "face_detector")
    margin = _stored_or_given(network, args, "crop_margin")
    if detector is None:
        raise no_face_detector(args.model)
    if detector not in FACE_DETECTORS:
        raise ConfigError(
            f"{args.model} was trained on faces that {brief(detector)} found, which is not"
            " available here: crop the faces with it and give --cropped"
        )
    if detector == "none":
        return detector, 0.0
    if margin is None:
        raise no_crop_margin(args.model)
    check_margin(margin)
    return detector, margin


def _stored_or_given(network: Encoder, args: argparse.Namespace, name: str) -> Any:
    """Returns what the model says about its faces, or else a flag; refuses another value."""
    stored, given = network.facts.get(name), getattr(args, name)
    if stored is None or given is None or given == stored:
        return given if stored is None else stored
    flag = f"--{name.replace('_', '-')}"
    raise ConfigError(
        f"{flag}={given}, but {args.model} was trained with {brief(stored)}: leave out {flag}; or"
        f" correct the model, by `convert to folder` with {flag}={given}"
    )
