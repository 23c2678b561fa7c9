"""Plans a run on devices that this machine need not have: `python -m fsvfm_jax.plan --help`."""

import argparse
import importlib.metadata
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from fsvfm_jax import cli
from fsvfm_jax.errors import ConfigError, DataError, StorageError, brief, reason_of, shortened
from fsvfm_jax.host.plain_files import open_plain
from fsvfm_jax.host.storage import ELSEWHERE, replace_bytes, written
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.plan.candidates import make_candidates, read_choices
from fsvfm_jax.plan.chips import Chip
from fsvfm_jax.plan.compare import compare, comparison
from fsvfm_jax.plan.counts import read_count
from fsvfm_jax.plan.estimate import VGGFACE2, Target, make_plan, summary
from fsvfm_jax.plan.modules import MOST_KERNELS
from fsvfm_jax.plan.results import BEGINNING
from fsvfm_jax.plan.roofline import read_benchmark
from fsvfm_jax.plan.topology import EXAMPLES, MOST_CPU_DEVICES, topology_devices

COMMAND = "python -m fsvfm_jax.plan"
# The packages on which a compiled program depends: JAX, XLA's compilers and cuDNN.
PACKAGES = (
    *("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cudnn-cu12"),
    *("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cudnn-cu13"),
)
MOST_PRICE = 10**9
MOST_SAMPLES = 10**12
STOPPED = (
    "stopped: a plan is not saved; with --compare and --output, the same command continues after"
    " the last finished candidate"
)


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
    """Plans the run, or compares candidates; prints a summary, and writes JSON if asked to."""
    if config.get("task") != "pretrain":
        raise ConfigError(
            f"plan compiles pretraining only, and config.task is {brief(config.get('task'))}: give"
            " a pretraining config, such as configs/vit_b.py"
        )
    for name in ("output", "calibrate"):
        if getattr(args, name) == "":
            raise ConfigError(f"--{name} is empty: name a file")
    benchmark = read_benchmark(args.calibrate) if args.calibrate else None
    choices = read_choices(args.compare, config) if args.compare else None
    _set_up_jax(args.topology)
    devices, chip = topology_devices(args.topology)
    _check_flags(args, chip)
    target = Target(devices, chip, args.num_samples or VGGFACE2, args.price, benchmark)
    header = {
        "command": command,
        "config": cli.config_filename(),
        "topology": args.topology,
        "versions": _versions(),
    }
    if choices is not None:
        candidates = make_candidates(config, choices, devices)
        results = compare(candidates, target, header=header, output=args.output)
        print(comparison(candidates, results, top=args.top))
        if all(result["plan"] is None for result in results):
            raise ConfigError(f"no candidate was compiled: {shortened(results[0]['error'] or '')}")
    else:
        _plan(args, config, target, header=header)
    cli.check_output()


def _plan(
    args: argparse.Namespace, config: ConfigDict, target: Target, *, header: dict[str, Any]
) -> None:
    if args.output:
        _check_output(args.output)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    plan = header | {"date": date} | make_plan(config, target)
    print(printable(summary(plan, top=args.top), keep="\n"))
    if args.output:
        with written(args.output, mend=ELSEWHERE):
            replace_bytes(Path(args.output), json.dumps(plan, indent=2).encode())


def _check_output(path: str) -> None:
    """Checks before the work that a plan can be written.

    A file with results of `--compare` is not replaced.

    Raises:
        DataError: The file has results of `--compare`.
        StorageError: The file is no plain file, or its folder takes no file.
    """
    folder = Path(path).absolute().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(
            f"{path} cannot be written: {folder} is missing or not writable; choose a file in a"
            " writable folder"
        )
    try:
        with open_plain(path, max_bytes=sys.maxsize) as file:
            if file.read(len(BEGINNING)) == BEGINNING:
                raise DataError(
                    f"--output={path} has results of --compare: choose another file, or add"
                    " --compare"
                )
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({reason_of(error)}): {ELSEWHERE}") from error


def _check_flags(args: argparse.Namespace, chip: Chip | None) -> None:
    """Raises ConfigError for a flag that would have no effect."""
    for name in ("price", "calibrate", "num_samples"):
        if getattr(args, name) is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if args.compare:
            raise ConfigError(
                f"--compare needs no {flag}, because it compares bounds and no estimates: leave it"
                " out"
            )
        if chip is None and name != "num_samples":
            raise ConfigError(
                f"{flag} has no effect, because the speed of --topology={args.topology} is not"
                " known: leave it out"
            )


def _set_up_jax(topology: str) -> None:
    """Configures JAX before it starts: as many CPU devices as needed, and no search for TPUs."""
    if topology != "gpu":
        jax.config.update("jax_platforms", "cpu")
    kind, _, shape = topology.partition(":")
    if kind == "cpu" and (number := read_count(shape, most=MOST_CPU_DEVICES)):
        jax.config.update("jax_num_cpu_devices", number)


def _versions() -> dict[str, str]:
    installed = {d.name.replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog=COMMAND,
        usage=f"{COMMAND} --config=FILE.py --topology=NAME [--config.path.to.field=value ...]"
        " [flags]",
        description="Compiles the config's training step for devices that this machine need not"
        " have, and reports whether it fits, its speed, and the time and cost of the recipe. With"
        " --compare it compiles the step with several values of some fields, and prints one table"
        " of bytes, memory, kernels and bounds, the best first.",
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
        type=_count_to(MOST_SAMPLES),
        metavar="N",
        help=f"number of images in the data set (default: {VGGFACE2})",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        action="extend",
        metavar="FIELD=A,B",
        help="compile every combination of these values of config fields, such as"
        " model.unroll=1,12 model.attention=xla,cudnn. compiler_options.NAME=A,B is one of XLA's"
        " options. Put a value that contains a comma in brackets or quotes:"
        " optimizer.betas=(0.9,0.95),(0.9,0.999)",
    )
    parser.add_argument(
        "--top",
        type=_count_to(MOST_KERNELS),
        metavar="N",
        help=f"also print what each module of the network moves, and the N (up to {MOST_KERNELS})"
        " kernels that move the most; with --compare, of the best candidate",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write the plan to this file as JSON. With --compare: append each result as a JSON"
        " line when it is finished, and compile only what the file does not contain yet",
    )
    return parser


def _price(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MOST_PRICE:
        raise argparse.ArgumentTypeError(
            f"{shortened(text)} is no number above 0 and up to {MOST_PRICE:,}"
        )
    return value


def _count_to(most: int) -> Callable[[str], int]:
    """Returns a function that reads a number from 1 to `most`, as the `type` of an argument."""

    def read(text: str) -> int:
        if (number := read_count(text, most=most)) is None:
            raise argparse.ArgumentTypeError(
                f"{shortened(text)} is no whole number from 1 to {most:,}"
            )
        return number

    return read


if __name__ == "__main__":
    cli.begin(stopped=STOPPED)
    main(sys.argv[1:])
