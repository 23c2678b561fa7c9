"""What the commands share: a config from the command line, devices, logging, exit codes.

JAX is imported inside functions: data workers import a command's module again and need none of it.
"""

import argparse
import contextlib
import errno
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from fsvfm_jax.config.lookup import FindingParser
from fsvfm_jax.errors import ConfigError, Preempted, StorageError, UserError, in_one_line, reason_of
from fsvfm_jax.host import signals, streams
from fsvfm_jax.host.processes import share_heaps
from fsvfm_jax.host.terminal import printable

# An error that all processes meet together leaves them this long to say so.
SECONDS_FOR_OTHERS = 5.0
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Config file, such as configs/vit_l.py, or configs/vit_l.py:smoke for a tiny run"
    " without data. configs/common.py explains the fields.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0, where several processes work together and neither Slurm, a TPU VM, GKE"
    " nor JAX_COORDINATOR_ADDRESS says so; with --num_processes and --process_id.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes work together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 60, "How long after another process's death this one ends too."
)


class LogFormatter(logging.Formatter):
    """Writes a message as one line of printable text; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return printable(super().formatException(ei), keep="\n")


class Parser(argparse.ArgumentParser):
    """Takes a wrong flag as any other mistake of the user: one sentence, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def begin(*, stopped: str | None = None) -> None:
    """The first call of a command that was started as a process of its own.

    From here on messages that cannot be written are dropped: neither they nor progress decide how
    a command ends.

    Args:
        stopped: With it SIGTERM, SIGHUP and Ctrl-C end the command at once, until
            `signals.save_first`, and this sentence is written.
    """
    streams.drop_what_cannot_be_written()
    if stopped is not None:
        signals.end_at_once(stopped)


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Ends a command as errors.py says: a user's mistake in one sentence, the rest by traceback."""
    try:
        try:
            yield
        finally:
            signals.settle()
    except Preempted as error:
        print(printable(str(error)), file=sys.stderr)
        sys.exit(error.exit_code)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        _exit(error.exit_code)
    except KeyboardInterrupt:
        print(signals.INTERRUPTED_SENTENCE, file=sys.stderr)
        sys.exit(signals.INTERRUPTED)
    except Exception as error:
        print(printable(traceback.format_exc(), keep="\n"), end="", file=sys.stderr)
        if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
            text = printable(in_one_line(error))
            print(f"error: {text}: free space, or give permission", file=sys.stderr)
            _exit(StorageError.exit_code)
        print("internal error", file=sys.stderr)
        _exit(UserError.exit_code)


def _exit(code: int) -> NoReturn:
    """Ends with this code also where other processes of the run know nothing of it.

    JAX would wait for them for minutes, and then abort with a code of its own.
    """
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        timer = threading.Timer(SECONDS_FOR_OTHERS, os._exit, (code,))
        timer.daemon = True
        timer.start()
    sys.exit(code)


def check_output() -> None:
    """Checks at the end of a command that its output was written.

    Raises:
        StorageError: A part is lost, and not because the reader has gone.
    """
    if (error := streams.lost_output()) is not None:
        raise StorageError(
            f"the output could not be written ({reason_of(error)}): free space, or send it"
            " elsewhere"
        )


def set_up_logging() -> None:
    """Our lines on stderr, bare; other libraries' only from warnings up."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = logging.getLogger("fsvfm_jax")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses --config, the fields that follow it, and the other absl flags.

    Args:
        argv: The program's name first.

    Returns:
        The name and what is no flag. A mistake ends the program with one sentence.
    """
    flag = flags.FLAGS["config"]
    if not isinstance(flag.parser, FindingParser):
        flag.parser = FindingParser(flag.parser)
    try:
        remaining = flags.FLAGS(argv)
        if CONFIG.value is None:
            raise flags.ValidationError("--config is missing; try --config=configs/vit_s.py:smoke")
        CONFIG.value.lock()  # Raises what went wrong while the file was loaded.
        return remaining
    except SystemExit:  # absl has shown its help, and would end with 1.
        sys.exit(0)
    except Exception as error:  # A config file is a program: it can raise anything.
        # ml_collections wraps a KeyError that says which field was meant; its `str` is quoted.
        while error.args and isinstance(error.args[0], Exception):
            error = error.args[0]
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        text = _unknown_field(text.strip("'"), argv) or text
        # The last line says what is wrong; those before it where, and where it was looked for.
        print(f"error: {printable(text.strip().splitlines()[-1].strip())}", file=sys.stderr)
        sys.exit(ConfigError.exit_code)


def _unknown_field(said: str, argv: Sequence[str]) -> str | None:
    """The sentence for an error of ml_collections that is the name of a field or section alone."""
    for argument in argv:
        path = argument.removeprefix("--config.").partition("=")[0]
        if argument.startswith("--config.") and said in path.split("."):
            return (
                f"config.{path} is no field of this config file, which has no {said!r} there; all"
                " fields are in fsvfm_jax/config/fields.py and downstream_fields.py"
            )
    return None


def parse_command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command's own flags by its parser, and --config with its fields by absl.

    Raises:
        ConfigError: Something is neither.
    """
    args, rest = parser.parse_known_args(argv)
    unexpected = parse_flags([parser.prog, *rest])[1:]
    if unexpected:
        raise ConfigError(f"unexpected argument {unexpected[0]!r}; see {parser.prog} --help")
    return args


def open_output(path: str, mode: str) -> TextIO:
    """Opens a file to write, before the work: minutes of it are not lost to a wrong name.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        return open(path, mode, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({reason_of(error)}); choose a file in a writable folder"
        ) from error


@contextlib.contextmanager
def json_lines(path: str | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A `with` that gives a function to tell records: a JSON line each, on stdout and in a file.

    Args:
        path: File to append to, opened at once; None for stdout alone.

    Raises:
        StorageError: It cannot be written.
    """
    with open_output(path, "a") if path is not None else contextlib.nullcontext() as file:

        def tell(record: Mapping[str, Any]) -> None:
            for output in (sys.stdout, file):
                if output is not None:
                    print(json.dumps(record), file=output)

        yield tell
    if path is None:
        check_output()


def config_filename() -> str:
    """What --config named, argument included."""
    return flags.FLAGS["config"].config_filename


def start_devices() -> None:
    """Joins the other processes if there are any; from then on process 0 speaks for all.

    Raises:
        ConfigError: The others are not there, or JAX does not see the machine's accelerator.
    """
    import jax

    from fsvfm_jax.devices import distributed

    share_heaps()
    distributed.start(
        coordinator=_COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
        heartbeat_seconds=_HEARTBEAT.value,
    )
    check_accelerator(jax.default_backend())
    if jax.process_index() > 0:
        logging.getLogger("fsvfm_jax").setLevel(logging.WARNING)


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
                " set JAX_PLATFORMS=cpu to use the CPU"
            )
