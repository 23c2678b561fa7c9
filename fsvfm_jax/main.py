"""Pretrains, fine-tunes or evaluates a network. The field `task` of the config selects which.

python -m fsvfm_jax.main --config=configs/vit_l.py[:smoke] [--workdir=DIR] [--check]
    [--config.path.to.field=value ...]
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from absl import app, flags

from fsvfm_jax import cli
from fsvfm_jax.errors import ConfigError

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of this run: config, metrics, pictures, checkpoints. If the folder contains a run, that"
    " run continues from its newest checkpoint. Default: runs/<config>-<date>.",
)
_CHECK = flags.DEFINE_bool(
    "check",
    False,
    "Resolve the config, open the data and read a few faces, compile the step, print memory and"
    " plan, and exit without training or writing anything.",
)

# These flags are declared here so that --help lists them too.
flags.adopt_module_key_flags(cli)
flags.declare_key_flag("config")

# The logger's name is a literal because `__name__` is "__main__" when the module runs with -m.
logger = logging.getLogger("fsvfm_jax.main")


def main(argv: Sequence[str]) -> None:
    """Runs the command. A user's mistake ends it with an error message and an exit code."""
    cli.set_up_logging()
    with cli.exit_codes():
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; fields are --config.name=value")
        _run()


def _run() -> None:
    import jax
    from etils import epath

    from fsvfm_jax import evaluate, train
    from fsvfm_jax.config.resolve import resolve
    from fsvfm_jax.devices import distributed
    from fsvfm_jax.tasks import TASKS

    config = resolve(cli.CONFIG.value)
    workdir = epath.Path(_WORKDIR.value or _default_workdir())
    distributed.check_workdir(workdir)
    cli.start_devices()
    distributed.check_same_run(config, {"--workdir": _WORKDIR.value, "--check": _CHECK.value})
    if _WORKDIR.value is None and jax.process_count() > 1:
        raise ConfigError("a run of several processes needs a --workdir that all processes share")
    logger.info("config %s, workdir %s", cli.config_filename(), workdir)
    logger.info("devices: %s", distributed.device_table())
    if config.task == "evaluate":
        evaluate.evaluate(config, workdir, check_only=_CHECK.value)
    else:
        train.train(config, workdir, task=TASKS[config.task], check_only=_CHECK.value)


def _default_workdir() -> str:
    """Returns runs/<config>-<date>, such as runs/dfd-l-smoke-20260131-173000 for dfd.py:l,smoke."""
    path, _, argument = cli.config_filename().partition(":")
    name = "-".join(filter(None, [Path(path).stem, *argument.split(",")]))
    return f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"


if __name__ == "__main__":
    cli.begin(stopped="stopped: nothing new was saved; the same command continues the run")
    app.run(main, flags_parser=cli.parse_flags)
