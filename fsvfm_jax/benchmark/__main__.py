"""Measures speed, and compares networks: `python -m fsvfm_jax.benchmark --help`."""

# Large modules are imported inside functions, because data workers import this module again.

import argparse
import hashlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from fsvfm_jax import cli
from fsvfm_jax.config import lookup as config_files
from fsvfm_jax.errors import ConfigError

COMMAND = "python -m fsvfm_jax.benchmark"
# The last sentence of each verb that a signal ends at once, with the processes that it started.
CONTINUES = (
    "stopped: the results that were written are kept; start the same command again to continue"
)
STOPPED = {
    **dict.fromkeys(
        ("step", "input", "read", "devices", "attention"),
        "stopped: nothing was measured to the end",
    ),
    **dict.fromkeys(("accelerator", "compare", "transfer", "localization", "ablation"), CONTINUES),
}


def main(argv: Sequence[str]) -> None:
    """Runs the command; a user's mistake ends it with one sentence and its exit code.

    Args:
        argv: The arguments without the program's name.
    """
    cli.set_up_logging()
    with cli.exit_codes():
        command = f"{COMMAND} {shlex.join(argv)}"
        match argv[:1]:
            case ["input"]:
                _input(argv, command)
            case ["read"]:
                _read(argv, command)
            case ["devices"]:
                _devices(argv)
            case ["attention"]:
                _attention(argv, command)
            case ["accelerator"]:
                _accelerator(argv, command)
            case ["transfer" | "localization" | "ablation"]:
                _train(argv)
            case ["compare"]:
                _compare(argv)
            case _:
                _step(argv, command)


def _step(argv: Sequence[str], command: str) -> None:
    import jax

    from fsvfm_jax.benchmark import against, step_speed

    parser = _parser()
    args = cli.parse_command(parser, argv)
    step_speed.check_arguments(args)
    if args.against:
        fields = parser.parse_known_args(argv)[1]
        against.benchmark_against(args, fields, command=command)
        return
    if args.framework == "torch":
        jax.config.update("jax_platforms", "cpu")  # Accelerators belong to PyTorch.
    else:
        cli.start_devices()
    step_speed.benchmark_step(args, cli.CONFIG.value, command=command)


def _input(argv: Sequence[str], command: str) -> None:
    from fsvfm_jax.benchmark.input_speed import benchmark_input

    args = _parser().parse_args(argv)
    flags.FLAGS.mark_as_parsed()  # Grain's flags, which keep their defaults.
    cli.start_devices()
    benchmark_input(args, command=command)


def _read(argv: Sequence[str], command: str) -> None:
    from fsvfm_jax.benchmark.read_speed import benchmark_read

    benchmark_read(_parser().parse_args(argv), command=command)


def _devices(argv: Sequence[str]) -> None:
    from fsvfm_jax.benchmark.found_devices import find_devices

    _parser().parse_args(argv)
    flags.FLAGS.mark_as_parsed()
    cli.start_devices()
    with cli.json_lines(None) as tell:
        tell(find_devices())


def _train(argv: Sequence[str]) -> None:
    config_files.make_importable(Path.cwd(), config_files.BUNDLED)
    from fsvfm_jax.benchmark.ablation import benchmark_ablation
    from fsvfm_jax.benchmark.localization import benchmark_localization
    from fsvfm_jax.benchmark.transfer import benchmark_transfer

    benchmarks = {
        "transfer": benchmark_transfer,
        "localization": benchmark_localization,
        "ablation": benchmark_ablation,
    }
    args = _parser().parse_args(argv)
    flags.FLAGS.mark_as_parsed()
    cli.start_devices()
    benchmarks[argv[0]](args)


def _compare(argv: Sequence[str]) -> None:
    from fsvfm_jax.benchmark.comparison import benchmark_compare

    args = cli.parse_command(_parser(), argv)
    cli.start_devices()
    benchmark_compare(args, cli.CONFIG.value)


def _attention(argv: Sequence[str], command: str) -> None:
    from fsvfm_jax.benchmark.attention_errors import benchmark_attention

    args = cli.parse_command(_parser(), argv)
    cli.start_devices()
    benchmark_attention(args, cli.CONFIG.value, command=command)


def _accelerator(argv: Sequence[str], command: str) -> None:
    from fsvfm_jax.benchmark.accelerator import Config, benchmark_accelerator
    from fsvfm_jax.config.resolve import to_json

    args, fields = _parser().parse_known_args(argv)
    for field in fields:
        if not (field.startswith(("--config=", "--config.")) and "=" in field):
            raise ConfigError(
                f"unexpected argument {field!r}: write --config=FILE.py and --config.x=VALUE with"
                f" an equals sign; see {COMMAND} accelerator --help"
            )
    config = None
    if any(field.startswith("--config=") for field in fields):
        cli.parse_command(_parser(), argv)
        values = hashlib.sha256(to_json(cli.CONFIG.value).encode()).hexdigest()[:12]
        config = Config(cli.config_filename(), values, cli.CONFIG.value.batch_size)
    fields = [field for field in fields if field.startswith("--config.")]
    benchmark_accelerator(args, config, fields, command=command)


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog=COMMAND,
        description="Measures speed, and trains and compares small networks.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_speeds(verbs)
    _add_accelerators(verbs)
    _add_trainings(verbs)
    _add_studies(verbs)
    return parser


def _add_speeds(verbs: Any) -> None:
    """Adds `step`, `input` and `read`."""
    from fsvfm_jax.benchmark import input_speed, read_speed, step_speed

    step = verbs.add_parser(
        "step",
        help="images per second, step time, MFU, memory and compile time of the training step",
        usage=f"{COMMAND} step --config=FILE.py[:smoke] [--config.path.to.field=value ...] [flags]",
        description="Compiles the config's training step, runs it with new input in every step,"
        " and prints a summary and one JSON line. MFU = FLOPs per image of the method"
        " (fsvfm_jax/plan/flops.py; recomputation is not counted) x images per second / peak of all"
        " devices. Images per second come from the median step time, or the mean with real input.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    step_speed.add_arguments(step)
    input_ = verbs.add_parser(
        "input",
        help="images per second from packed files to the devices, without a network",
        description="Packs faces in each encoding and measures how fast training would get them:"
        " read, decode, classes of patches, batch, worker to trainer, device. CPU time per image is"
        " that of all processes; images/s per core is its inverse. Files are in the page cache.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    input_speed.add_arguments(input_)
    read = verbs.add_parser(
        "read",
        help="microseconds per record of a packed set, one by one and in chunks",
        description="Reads random records of a packed set without decoding them, one by one and in"
        " chunks as training does, from the page cache and, if the system can drop files from that"
        " cache, from the disk.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    read_speed.add_arguments(read)


def _add_accelerators(verbs: Any) -> None:
    """Adds `devices`, `attention` and `accelerator`."""
    from fsvfm_jax.benchmark import accelerator, attention_errors

    verbs.add_parser(
        "devices",
        help="the devices that JAX finds",
        description="Prints one JSON line: platform, kind and number of the devices that JAX finds,"
        " and its versions.",
        allow_abbrev=False,
    )
    attention = verbs.add_parser(
        "attention",
        help="errors of cuDNN's attention and its gradients, and of XLA's, in bfloat16",
        usage=f"{COMMAND} attention --config=FILE.py [--config.path.to.field=value ...]"
        " [--output JSONL]",
        description="Compares attention and its gradients in bfloat16, by cuDNN and by XLA, with"
        " those of XLA in float32, for the shapes of the config's network. It needs NVIDIA GPUs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    attention_errors.add_arguments(attention)
    accelerator_ = verbs.add_parser(
        "accelerator",
        help="the steps, kernels and input of an accelerator, within --minutes",
        usage=f"{COMMAND} accelerator --output DIR [--minutes M] [--steps N] [--peak-tflops P]"
        " [--config=FILE.py] [--config.path.to.field=value ...]",
        description="Measures the step of ViT-S, B and L, the same step in PyTorch, cuDNN's"
        " gradients, real input, other settings and other batches, in this order, each in a process"
        " of its own. It writes a table after each measurement. The same command continues: it"
        " makes the measurements that have no result yet, those that failed last. With --config it"
        " measures that config alone, with its batch size and data.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    accelerator.add_arguments(accelerator_)


def _add_trainings(verbs: Any) -> None:
    """Adds `transfer` and `localization`."""
    transfer = verbs.add_parser(
        "transfer",
        help="pretrain, fine-tune in several ways and test on rendered deepfakes and spoofs",
        description="Pretrains a tiny network on rendered faces, fine-tunes it on rendered"
        " forgeries, tests on others, and prints a table. It tests the code and proves nothing"
        " about real deepfakes. The same command continues a stopped run. configs/offline.py"
        " contains all settings.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    transfer.add_argument(
        "--output", required=True, metavar="DIR", help="folder for the runs and the table"
    )
    transfer.add_argument(
        "--seeds", type=cli.count, default=3, metavar="N", help="number of fine-tuning seeds"
    )
    transfer.add_argument(
        "--tune",
        action="store_true",
        help="train every method at each learning rate of configs/offline.py, with a seed of its"
        " own, and write the validation losses as a table and a picture",
    )
    localization = verbs.add_parser(
        "localization",
        help="whether the maps of visualize explain find the forged patches of rendered faces",
        description="Trains detectors as `transfer` does, in the same folder, explains their scores"
        " of rendered forgeries, whose forged pixels are known, and writes a table, and pictures of"
        " the best and the worst faces. The same command continues a stopped run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    localization.add_argument(
        "--output", required=True, metavar="DIR", help="folder for the runs, table and pictures"
    )
    localization.add_argument(
        "--seeds", type=cli.count, default=3, metavar="N", help="number of detectors"
    )
    localization.add_argument(
        "--faces", type=cli.count, default=60, metavar="N", help="number of forged faces"
    )


def _add_studies(verbs: Any) -> None:
    """Adds `ablation` and `compare`."""
    ablation = verbs.add_parser(
        "ablation",
        help="which parts of the pretraining matter, on rendered faces",
        description="Pretrains a tiny network with each masking strategy and without each part of"
        " the loss, measures it by classifiers of frozen features and of frozen patches and by full"
        " fine-tuning, on seen and on unseen rendered forgeries, and writes a table with intervals."
        " All settings, with the learning rates of fine-tuning, are in configs/offline.py. It takes"
        " hours; the same command continues a stopped run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    ablation.add_argument(
        "--output", required=True, metavar="DIR", help="folder for the runs and the table"
    )
    ablation.add_argument(
        "--seeds", type=cli.count, default=3, metavar="N", help="number of pretrainings of each row"
    )

    compare = verbs.add_parser(
        "compare",
        help="encoders and ways to tune them, on the same sets",
        usage=f"{COMMAND} compare --config=configs/compare/NAME.py --output DIR"
        " [--config.encoders.NAME.params=WEIGHTS ...] [--config.path.to.field=value ...]",
        description="Trains every encoder in every mode with every seed, after the same search of"
        " the learning rate, tests the detectors, and writes a table with intervals, trained"
        " parameters, memory and time. The table is written after every row; the same command"
        " continues a stopped run. docs/compare.md explains the config.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    compare.add_argument(
        "--output", required=True, metavar="DIR", help="folder for the runs, table and picture"
    )


if __name__ == "__main__":
    cli.begin(stopped=STOPPED.get("".join(sys.argv[1:2])))
    main(sys.argv[1:])
