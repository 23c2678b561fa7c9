"""The flags that name a network, which all verbs share."""

import argparse
from pathlib import Path
from typing import Any

import jax

from fsvfm_jax import cli
from fsvfm_jax.data.rand_augment import EVALUATION_TRANSFORMS
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.predict.calibration import CALIBRATION_FILE
from fsvfm_jax.predict.networks import BATCH_SIZE, Detector, Encoder, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name a network and give what its weights do not contain."""
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="workdir, exported folder or .pth file"
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
        help="attention heads, if the weights do not tell",
    )
    parser.add_argument(
        "--view",
        choices=EVALUATION_TRANSFORMS,
        help="how a crop is resized; by default as the weights tell, or else resize",
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="checkpoint of a workdir; default: the newest"
    )
    parser.add_argument(
        "--entry", metavar="NAME", help="entry of a file with several networks, such as model_ema"
    )
    parser.add_argument(
        "--encoder", metavar="DIR", help="encoder's folder, if the model has an adapter only"
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


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the number of processes that read files and find faces."""
    parser.add_argument(
        "--processes",
        type=cli.count,
        default=available_cores(),
        metavar="N",
        help="processes that read files; default: one per core",
    )


def load_network(args: argparse.Namespace, **options: Any) -> Encoder | Detector:
    """Opens the network that the flags of `add_arguments` name.

    Args:
        args: The parsed flags.
        options: Further arguments of `load`.

    Raises:
        ConfigError: The machine has an accelerator that JAX does not find.
        UserError: As `load`.
    """
    cli.check_accelerator(jax.default_backend())
    names = ("labels", "stats", "num_heads", "view", "step", "entry", "encoder", "batch_size")
    return load(args.model, **{name: getattr(args, name) for name in names}, **options)
