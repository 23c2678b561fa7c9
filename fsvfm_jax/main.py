"""Flags, devices, and dispatch on `config.task`.

python -m fsvfm_jax.main --config=configs/vit_l.py[:smoke] [--workdir=DIR] [--check]
    [--config.path.to.field=value ...]
"""

# JAX is imported inside functions: data workers import this module again and need none of it.

import logging
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from fsvfm_jax.errors import ConfigError, Preempted, UserError, nearest

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Config file, such as configs/vit_l.py or configs/vit_l.py:smoke."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of this run: config, metrics, pictures, checkpoints. A run that is there already goes"
    " on from its newest checkpoint. Default: runs/<config>-<date>.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0, where several processes train together and neither Slurm, a TPU VM nor"
    " GKE says so; with --num_processes and --process_id.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
_CHECK = flags.DEFINE_bool(
    "check",
    False,
    "Resolve the config, read one batch, compile the step, print memory and plan, and exit.",
)

# By name: run with -m, `__name__` is "__main__".
logger = logging.getLogger("fsvfm_jax.main")


def main(argv: Sequence[str]) -> None:
    """Runs the task; a user's mistake ends in one sentence and its exit code."""
    _set_up_logging()
    try:
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; fields are --config.name=value")
        _run()
    except Preempted as error:
        logger.warning("%s", error)
        sys.exit(error.exit_code)
    except UserError as error:
        logger.error("error: %s", error)
        sys.exit(error.exit_code)
    except Exception:
        logger.exception("internal error")
        sys.exit(UserError.exit_code)


def _run() -> None:
    import jax
    from etils import epath

    from fsvfm_jax import config as config_lib
    from fsvfm_jax import distributed, pretrain, train

    tasks = {"pretrain": pretrain.make_task}
    config = config_lib.resolve(_CONFIG.value)
    if config.task not in tasks:
        raise ConfigError(
            f"config.task = {config.task!r} is unknown; {nearest(config.task, tasks)}"
        )
    distributed.start(
        coordinator=_COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
    )
    check_accelerator(jax.default_backend())
    if jax.process_index() > 0:  # Process 0 speaks for all.
        logging.getLogger("fsvfm_jax").setLevel(logging.WARNING)
    if _WORKDIR.value is None and jax.process_count() > 1:
        raise ConfigError("several processes need one --workdir that all of them see")
    workdir = epath.Path(_WORKDIR.value or _default_workdir())
    logger.info("workdir %s", workdir)
    logger.info("devices\n%s", distributed.device_table())
    train.train(config, workdir, make_task=tasks[config.task], check_only=_CHECK.value)


def _default_workdir() -> str:
    """runs/<config>-<date>, such as runs/vit_s-smoke-20260131-173000."""
    path, _, argument = flags.FLAGS["config"].config_filename.partition(":")
    name = Path(path).stem + (f"-{argument}" if argument else "")
    return f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"


def check_accelerator(backend: str, *, devices: Path = Path("/dev")) -> None:
    """Raises ConfigError where the machine has an accelerator and JAX would use the CPU."""
    if backend != "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
        return
    for kind, extra, pattern in (
        ("an NVIDIA GPU", "cuda", "nvidia[0-9]*"),
        ("a TPU", "tpu", "accel[0-9]*"),
        ("a TPU", "tpu", "vfio/[0-9]*"),
    ):
        if any(devices.glob(pattern)):
            raise ConfigError(
                f"this machine has {kind} but JAX sees only the CPU: pip install '.[{extra}]', or"
                " set JAX_PLATFORMS=cpu to train on the CPU"
            )


def _set_up_logging() -> None:
    """Our lines on stderr, bare; other libraries' only from warnings up."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = logging.getLogger("fsvfm_jax")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        remaining = flags.FLAGS(argv)
        if _CONFIG.value is None:
            raise flags.ValidationError("--config is missing; try --config=configs/vit_s.py:smoke")
        _CONFIG.value.lock()  # Raises what went wrong while the file was loaded.
        return remaining
    except Exception as error:  # A config file is a program: it can raise anything.
        # ml_collections says in a KeyError which field was meant; its `str` would be quoted.
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        # The last line says what is wrong; those before it where, and where it was looked for.
        print(f"error: {text.strip().splitlines()[-1].strip()}", file=sys.stderr)
        sys.exit(ConfigError.exit_code)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
