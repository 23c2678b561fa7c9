"""Code that all commands share: the config of a command line, devices, logging, exit codes.

Functions import JAX themselves: data workers import a command's module again and do not need JAX.
"""

import argparse
import contextlib
import errno
import io
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from fsvfm_jax.config.lookup import FindingParser, describe
from fsvfm_jax.errors import (
    ConfigError,
    Preempted,
    StorageError,
    UserError,
    in_one_line,
    reason_of,
    shortened,
)
from fsvfm_jax.host import signals, streams
from fsvfm_jax.host.plain_files import append_plain
from fsvfm_jax.host.processes import share_heaps
from fsvfm_jax.host.storage import written
from fsvfm_jax.host.terminal import printable

# If all processes raise the same error, each has this long to report it.
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
    "host:port of process 0, for several processes without Slurm, a TPU VM, GKE and"
    " JAX_COORDINATOR_ADDRESS; needs --num_processes and --process_id.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of this run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 60, "Seconds from the death of another process to the end of this one."
)


class LogFormatter(logging.Formatter):
    """Writes a message as one line of printable text; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return printable(super().formatException(ei), keep="\n")


class Parser(argparse.ArgumentParser):
    """Reports a wrong flag in one sentence, like other mistakes of the user, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def count(text: str) -> int:
    """Converts the text of a flag to a whole number from 1 up, as the `type` of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def begin(*, stopped: str | None = None) -> None:
    """Prepares a process that runs a command; the command calls this function first.

    From then on, messages and progress lines that cannot be written are dropped, and do not change
    how the command ends.

    Args:
        stopped: If given, SIGTERM, SIGHUP and Ctrl-C print this sentence and end the command at
            once, until `signals.save_first` is called.
    """
    streams.drop_what_cannot_be_written()
    if stopped is not None:
        signals.end_at_once(stopped)


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Ends a command with its exit code; a user's mistake prints one sentence, no traceback."""
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
    """Ends this process with a code, even if other processes of the run are still working.

    Without this function JAX would wait for them for minutes, and then abort with a code of its
    own.
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
        StorageError: A part of the output is lost, for another reason than a closed pipe.
    """
    if (error := streams.lost_output()) is not None:
        raise StorageError(
            f"the output could not be written ({reason_of(error)}): free space, or send it"
            " elsewhere"
        )


def set_up_logging() -> None:
    """Prints the messages of this package on stderr, and of other libraries only warnings."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = logging.getLogger("fsvfm_jax")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses --config, the fields that follow it, and the other absl flags.

    A mistake ends the program with one sentence.

    Args:
        argv: The command line, with the program's name first.

    Returns:
        The program's name and the arguments that are not flags.
    """
    flag = flags.FLAGS["config"]
    if not isinstance(flag.parser, FindingParser):
        flag.parser = FindingParser(flag.parser)
    try:
        remaining = _parsed(argv)
        if CONFIG.value is None:
            raise flags.ValidationError(
                "--config is missing; try --config=configs/vit_s.py:smoke;"
                " python -m fsvfm_jax.main --help lists the config files"
            )
        CONFIG.value.lock()  # Raises the error of loading the file, if there was one.
        return remaining
    except SystemExit:  # absl prints its help and would exit with 1.
        print(f"\n{describe()}", end="")
        sys.exit(0)
    except Exception as error:  # A config file is a program: it can raise anything.
        # ml_collections wraps a KeyError that suggests a field; the `str` of that error is quoted.
        while error.args and isinstance(error.args[0], Exception):
            error = error.args[0]
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        text = _unknown_field(text.strip("'"), argv) or text
        # The last line states the mistake; the lines before it contain its place and the searched
        # folders.
        print(f"error: {printable(text.strip().splitlines()[-1].strip())}", file=sys.stderr)
        sys.exit(ConfigError.exit_code)


def _parsed(argv: Sequence[str]) -> list[str]:
    """Returns the arguments that absl leaves; absl's help is printed without a path of a file."""
    if not any(argument.lstrip("-").startswith(("help", "?")) for argument in argv[1:]):
        return flags.FLAGS(argv)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return flags.FLAGS(argv)
    finally:
        print(said.getvalue().replace(f"\n{sys.argv[0]}:\n", "\n"), end="")


def _unknown_field(said: str, argv: Sequence[str]) -> str | None:
    """Returns a sentence for an error of ml_collections that is only the name of a field."""
    for argument in argv:
        path = argument.removeprefix("--config.").partition("=")[0]
        if argument.startswith("--config.") and "malformed node" in said and "-" in path:
            return (
                f"no flag can set config.{path}, because a name in it has a dash: change it in a"
                " copy of the config file"
            )
        if argument.startswith("--config.") and said in path.split("."):
            return (
                f"config.{path} is no field of this config file, which has no {said!r} there; all"
                " fields are in fsvfm_jax/config/fields.py, downstream_fields.py and"
                " comparison_fields.py"
            )
    return None


def parse_command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command's own flags with its parser, and --config with its fields with absl.

    Args:
        parser: The parser of the command.
        argv: The arguments, without the program's name.

    Returns:
        The values of the command's own flags.

    Raises:
        ConfigError: An argument belongs to neither.
    """
    args, rest = parser.parse_known_args(argv)
    unexpected = parse_flags([parser.prog, *rest])[1:]
    if unexpected:
        raise ConfigError(f"unexpected argument {unexpected[0]!r}; see {parser.prog} --help")
    return args


@contextlib.contextmanager
def json_lines(path: str | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields a function that prints a record as a JSON line, and appends it to a file if asked to.

    Args:
        path: Plain file to append to, checked at once; None for stdout alone.

    Raises:
        StorageError: The output cannot be written.
    """
    mend = "free space, or choose a file in a writable folder"

    def append(text: str) -> None:
        with written(Path(path), mend=mend), append_plain(path) as file:
            file.write(text.encode())

    def tell(record: Mapping[str, Any]) -> None:
        line = json.dumps(record)
        print(line)
        if path is not None:
            append(f"{line}\n")

    if path is not None:
        append("")  # A wrong name must not cost minutes of work.
    yield tell
    if path is None:
        check_output()


def config_filename() -> str:
    """Returns the value of --config, with the argument after the colon."""
    return flags.FLAGS["config"].config_filename


def start_devices() -> None:
    """Joins the other processes, if there are any; from then on only process 0 logs messages.

    Raises:
        ConfigError: The other processes are missing, or JAX does not find the machine's accelerator
            or cannot start the devices.
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
    try:
        backend = jax.default_backend()
    except RuntimeError as error:
        raise ConfigError(
            f"JAX cannot start its devices ({shortened(in_one_line(error))}): check JAX_PLATFORMS,"
            " the driver, and whether another process uses them"
        ) from error
    check_accelerator(backend)
    if jax.process_index() > 0:
        logging.getLogger("fsvfm_jax").setLevel(logging.WARNING)


def check_accelerator(backend: str, *, library: str = "JAX", devices: Path = Path("/dev")) -> None:
    """Checks that a library does not use the CPU of a machine that has an accelerator.

    Args:
        backend: The backend that the library uses, such as "cpu".
        library: "JAX" or "PyTorch".
        devices: The folder of device files.

    Raises:
        ConfigError: The machine has an accelerator and the library would use the CPU.
    """
    if backend != "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
        return
    for kind, extra, pattern in (
        ("an NVIDIA GPU", "cuda", "nvidia[0-9]*"),
        ("a TPU", "tpu", "accel[0-9]*"),
        ("a TPU", "tpu", "vfio/[0-9]*"),
    ):
        if any(devices.glob(pattern)):
            mend = f"pip install '.[{extra}]'"
            if library != "JAX":
                mend = f"install a {library} that supports it"
            raise ConfigError(
                f"this machine has {kind} but {library} sees only the CPU: {mend}, or set"
                " JAX_PLATFORMS=cpu to use the CPU"
            )
