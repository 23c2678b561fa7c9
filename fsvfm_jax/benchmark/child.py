"""Runs a command of `fsvfm_jax.benchmark` in a process of its own.

No thread and no memory of it remains afterwards.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fsvfm_jax.errors import UserError
from fsvfm_jax.host.json_files import parse_json
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.host.signals import released_at_once

MAX_LOG = 4000  # characters
CACHE = "JAX_COMPILATION_CACHE_DIR"
# Replaces itself by a command that Linux ends when the process with the given number ends.
END_WITH_PARENT = """
import ctypes, os, signal, sys
if hasattr(libc := ctypes.CDLL(None), "prctl"):
    PR_SET_PDEATHSIG = 1
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class MeasurementFailed(UserError):
    """A measurement has no result; the message is the last sentence of its process.

    Attributes:
        exit_code: Exit code of the process.
        log: The end of what the process has printed on stderr.
    """

    def __init__(self, sentence: str, *, exit_code: int = UserError.exit_code, log: str = ""):
        super().__init__(sentence)
        self.exit_code, self.log = exit_code, log


def measure(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Returns the record that a command of `fsvfm_jax.benchmark` prints.

    Args:
        arguments: The command line, without the program's name.
        environment: Environment variables to set.
        seconds: Longest time; None for no limit.

    Raises:
        MeasurementFailed: The command failed, crashed, or took longer than `seconds`.
    """
    threads = {name: str(available_cores()) for name in THREADS}
    command = [sys.executable, "-m", "fsvfm_jax.benchmark", *arguments]
    try:
        ended = run(command, env=threads | os.environ | (environment or {}), timeout=seconds)
    except subprocess.TimeoutExpired as error:
        log = (error.stderr or b"").decode(errors="replace")
        raise MeasurementFailed(f"stopped after {seconds:.0f} s", log=log[-MAX_LOG:]) from error
    log = ended.stderr[-MAX_LOG:]
    if ended.returncode:
        code = max(ended.returncode, 0) or UserError.exit_code
        raise MeasurementFailed(_sentence(ended), exit_code=code, log=log)
    try:
        return parse_json(ended.stdout.splitlines()[-1], dict[str, Any])
    except (IndexError, ValueError) as error:
        raise MeasurementFailed("it printed no record", log=log) from error


@contextlib.contextmanager
def compilation_cache(folder: Path | None = None) -> Iterator[dict[str, str]]:
    """Yields the environment in which JAX compiles a step once for all processes.

    Args:
        folder: Folder for the compiled programs, unless the environment already names one; None for
            a folder that is removed afterwards.
    """
    if os.environ.get(CACHE):
        yield {}
    elif folder is not None:
        yield {CACHE: str(folder)}
    else:
        with released_at_once(tempfile.TemporaryDirectory(prefix="fsvfm-")) as temporary:
            yield {CACHE: temporary}


def run(
    command: Sequence[str], *, env: Mapping[str, str], timeout: float | None
) -> subprocess.CompletedProcess[str]:
    """Runs a command, and ends all its processes with it, with this process, or after a time.

    Args:
        command: The program and its arguments.
        env: All environment variables.
        timeout: Longest time in seconds; None for no limit.

    Raises:
        subprocess.TimeoutExpired: The command took longer.
    """
    with contextlib.ExitStack() as stack:
        stack.callback((group := _Group()).reap)
        stack.enter_context(released_at_once(group))
        process = group.start(command, env)
        stdout, stderr = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


class _Group:
    """A process and all that it starts; they end when the `with` statement does."""

    def __init__(self) -> None:
        # A signal that arrives while the process starts waits for the start, and then ends it.
        self._mutex = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "_Group":
        return self

    def start(self, command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
        with self._mutex:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", END_WITH_PARENT, str(os.getpid()), *command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
            return self._process

    def __exit__(self, *exception: object) -> None:
        with self._mutex:
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):  # All have ended.
                    os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self) -> None:
        """Waits for the end of the process, and closes its pipes."""
        if self._process is not None:
            with self._process:
                pass


def _sentence(ended: subprocess.CompletedProcess[str]) -> str:
    """Returns the last sentence on stderr, or the signal that ended the process."""
    if ended.returncode < 0:
        return f"the process was ended by {signal.Signals(-ended.returncode).name}"
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    if "internal error" in lines:
        lines = lines[: lines.index("internal error")]  # The line before it names the exception.
    lines = [line for line in lines if line.startswith("error: ")] or lines
    last = lines[-1] if lines else f"the process ended with exit code {ended.returncode}"
    return last.removeprefix("error: ")[:MAX_LOG]
