"""Plans a run on devices that this machine need not have: `python -m fsvfm_jax.plan --help`."""

import argparse
import contextlib
import importlib.metadata
import json
import math
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import jax
from ml_collections import ConfigDict

from fsvfm_jax import cli
from fsvfm_jax.plan.estimate import VGGFACE2, Target, make_plan, summary
from fsvfm_jax.plan.roofline import read_benchmark
from fsvfm_jax.plan.topology import EXAMPLES, topology_devices

COMMAND = "python -m fsvfm_jax.plan"


def main(argv: Sequence[str]) -> None:
    """Runs the command; a user's mistake ends it with one sentence and its exit code.

    Args:
        argv: The arguments without the program's name.
    """
    cli.set_up_logging()
    with cli.exit_codes():
        args = cli.parse_command(_parser(), argv)
        _run(args, cli.CONFIG.value, command=f"{COMMAND} {shlex.join(argv)}")


def _run(args: argparse.Namespace, config: ConfigDict, *, command: str) -> None:
    """Plans the run, prints a summary, and writes JSON if asked to."""
    benchmark = read_benchmark(args.calibrate) if args.calibrate else None
    _set_up_jax(args.topology)
    devices, chip = topology_devices(args.topology)
    target = Target(devices, chip, args.num_samples, args.price, benchmark)
    with cli.open_output(args.output, "w") if args.output else contextlib.nullcontext() as output:
        plan = {
            "command": command,
            "config": cli.config_filename(),
            "topology": args.topology,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": _versions(),
        } | make_plan(config, target)
        print(summary(plan))
        if output:
            json.dump(plan, output, indent=2)
    cli.check_output()


def _set_up_jax(topology: str) -> None:
    """Configures JAX before it starts: as many CPU devices as needed, and no search for TPUs."""
    number = topology.partition(":")[2]
    if topology != "gpu":
        jax.config.update("jax_platforms", "cpu")
    if number.isdigit() and int(number) > 0:
        jax.config.update("jax_num_cpu_devices", int(number))


def _versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "libtpu")
    installed = {d.name for d in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in names if name in installed}


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog=COMMAND,
        usage=f"{COMMAND} --config=FILE.py --topology=NAME [--config.path.to.field=value ...]"
        " [flags]",
        description="Compiles the config's training step for devices that this machine need not"
        " have, and reports whether it fits, its speed, and the time and cost of the recipe.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--topology", required=True, metavar="NAME", help=f"devices to plan for, such as {EXAMPLES}"
    )
    parser.add_argument("--price", type=_price, metavar="P", help="price of one chip for one hour")
    parser.add_argument(
        "--calibrate", metavar="JSON", help="file with a JSON line that benchmark step wrote"
    )
    parser.add_argument(
        "--num-samples",
        type=cli.count,
        default=VGGFACE2,
        metavar="N",
        help="number of images in the data set",
    )
    parser.add_argument("--output", metavar="JSON", help="write the plan to this file")
    return parser


def _price(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be greater than 0")
    return value


if __name__ == "__main__":
    cli.begin()
    main(sys.argv[1:])
