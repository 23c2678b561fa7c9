"""The flags that verbs share, and what can be checked of them before JAX is imported."""

import argparse
import os
from pathlib import Path

from fsvfm_jax import cli
from fsvfm_jax.data.rand_augment import EVALUATION_TRANSFORMS
from fsvfm_jax.errors import ConfigError, DataError, reason_of
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.predict.calibration import CALIBRATION_FILE
from fsvfm_jax.predict.faces import BATCH_SIZE
from fsvfm_jax.predict.points import DEFAULT_POINTS, POINTS
from fsvfm_jax.predict.thresholds import check_calibration, check_threshold
from fsvfm_jax.prepare.crops import FACE_DETECTORS, MARGIN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name a network and give what its weights do not contain."""
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="workdir, exported folder or .pth file"
    )
    parser.add_argument(
        "--labels",
        type=lambda names: tuple(names.split(",")),
        default=(),
        metavar="NAME,NAME",
        help="class of each logit, if the weights do not contain the names: fake,real for the"
        " authors' detectors",
    )
    parser.add_argument(
        "--stats", metavar="JSON", help="file with mean and std, if the weights do not contain them"
    )
    parser.add_argument(
        "--num-heads",
        type=cli.count,
        metavar="N",
        help="attention heads, if the weights do not contain the number",
    )
    parser.add_argument(
        "--activation",
        metavar="NAME",
        help="activation of the MLPs, if the weights do not say it: gelu, quick_gelu or gelu_tanh",
    )
    parser.add_argument(
        "--view",
        choices=EVALUATION_TRANSFORMS,
        help="how a crop is resized; by default as the weights say, or else resize",
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="checkpoint of a workdir; default: the newest"
    )
    parser.add_argument(
        "--entry", metavar="NAME", help="entry of a file with several networks, such as model_ema"
    )
    parser.add_argument(
        "--encoder", metavar="DIR", help="encoder's folder, if the model does not contain it"
    )
    parser.add_argument(
        "--batch-size",
        type=cli.count,
        default=BATCH_SIZE,
        metavar="N",
        help=f"faces that are computed at once; default: {BATCH_SIZE}",
    )


def add_inputs(parser: argparse.ArgumentParser, *, what: str) -> None:
    """Adds the flags that name files, and say how many processes read them.

    Args:
        parser: The parser.
        what: What an input can be, beside a list.
    """
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=f"{what}, .txt list of paths, or - for one such path per line of stdin",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="folder to which the paths in lists are relative; by default each list's folder",
    )
    add_processes(parser)


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that names a calibration."""
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="JSON",
        help=f"calibration of the model; default: {CALIBRATION_FILE} in the model's folder",
    )


def add_threshold(parser: argparse.ArgumentParser, *, without: str) -> None:
    """Adds the flag of the threshold.

    Args:
        parser: The parser.
        without: What is true of operating points without a calibration.
    """
    first = " or ".join((", ".join(DEFAULT_POINTS[:-1]), DEFAULT_POINTS[-1]))
    parser.add_argument(
        "--threshold",
        metavar="NUMBER|NAME",
        help="score from which a face or video is decided to be fake: a number, or an operating"
        f" point of the calibration ({', '.join(POINTS)}); default: {first}, the first that the"
        f" calibration determines; without a calibration 0.5, and {without}",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the number of processes that read files and find faces."""
    parser.add_argument(
        "--processes",
        type=cli.count,
        default=available_cores(),
        metavar="N",
        help="processes that read files; default: one per core",
    )


def add_face_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that determine how faces are found and decided on."""
    parser.add_argument(
        "--cropped",
        action="store_true",
        help="every picture is a crop of a face already, and is taken whole",
    )
    parser.add_argument(
        "--face-detector",
        choices=FACE_DETECTORS,
        help="how faces are found, if the model does not say it; none: the middle square is taken",
    )
    parser.add_argument(
        "--crop-margin",
        type=float,
        metavar="PART",
        help="margin on each side of a face's box, as a fraction of the box, if the model does not"
        " say it",
    )
    add_calibration(parser)
    add_threshold(parser, without="there are no operating points")
    parser.add_argument(
        "--faces",
        choices=("largest", "all"),
        default="largest",
        help="faces to score of a picture or frame; default: largest",
    )
    parser.add_argument(
        "--frames",
        type=cli.count,
        default=32,
        metavar="N",
        help="frames of a video, evenly spaced from the first to the last; default: 32",
    )


def check_network(args: argparse.Namespace) -> None:
    """Checks that the files which the flags of `add_arguments` name exist.

    Raises:
        DataError: One does not exist.
    """
    for flag in ("model", "stats", "encoder"):
        _check_exists(getattr(args, flag))


def check_face_arguments(args: argparse.Namespace) -> None:
    """Checks the flags of `add_face_arguments` as far as this is possible without the network.

    Raises:
        DataError: The calibration does not exist.
        ConfigError: Flags do not fit each other or the model, or have impossible values.
    """
    if args.cropped and (args.face_detector is not None or args.crop_margin is not None):
        raise ConfigError(
            "--cropped takes pictures whole: leave out --face-detector and --crop-margin"
        )
    if args.face_detector == "none" and args.crop_margin is not None:
        raise ConfigError(
            "--face-detector none takes the middle square, which has no margin: leave out"
            " --crop-margin"
        )
    if args.crop_margin is not None:
        check_margin(args.crop_margin)
    if not args.cropped and os.path.isfile(args.model):  # A file never contains these facts.
        if args.face_detector is None:
            raise no_face_detector(args.model)
        if args.face_detector == "dlib" and args.crop_margin is None:
            raise no_crop_margin(args.model)
    check_calibration(args.calibration)
    check_threshold(args.threshold, model=args.model, calibration=args.calibration)


def check_margin(margin: float | int) -> None:
    """Checks the margin around a face's box; raises ConfigError."""
    if not 0 <= margin <= 10:
        raise ConfigError(f"--crop-margin={margin} is not from 0 to 10")


def no_face_detector(model: str) -> ConfigError:
    """Returns the error for a model that does not say how its faces were found."""
    return ConfigError(
        f"{model} does not say how its faces were found: give --face-detector dlib and"
        f" --crop-margin PART ({MARGIN} if `prepare detect` made the crops of its training), or"
        " --cropped if the inputs are cropped faces"
    )


def no_crop_margin(model: str) -> ConfigError:
    """Returns the error for a model that does not say the margin around its faces."""
    return ConfigError(
        f"{model} does not say the margin around its faces: give --crop-margin PART ({MARGIN} if"
        " `prepare detect` made the crops of its training)"
    )


def _check_exists(path: str | Path | None) -> None:
    if path is None:
        return
    try:
        os.stat(path)
    except (OSError, ValueError) as error:  # A NUL in a path is a ValueError.
        raise DataError(f"{path} cannot be read ({reason_of(error)})") from error
