"""The training command in processes of its own, with the tiny network of `tiny.py`."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from patience import PATIENCE
from tiny import NETWORK

ROOT = Path(__file__).parent.parent
TINY = [
    "--config=configs/vit_s.py:smoke",
    "--config.schedule_epochs=4",
    *(f"--config.model.{name}={value}" for name, value in NETWORK.items()),
    "--config.data.num_samples=40",
    "--config.batch_size=16",
    "--config.tracking.log_every=1",
    "--config.probe.every=0",
]


def free_address() -> str:
    """Returns an address of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start(
    workdirs: list[Path],
    *arguments: str,
    devices: int = 1,
    faults: Sequence[str] = (),
    tiny: Sequence[str] = TINY,
    own: Sequence[Sequence[str]] = (),
    folders: Sequence[Path] = (),
    server: "ForkServer | None" = None,
) -> list["subprocess.Popen | Forked"]:
    """Starts the command in as many processes as there are workdirs.

    `faults`, `own` arguments and `folders` to start in have one entry for each process. With a
    `server`, the processes need not import JAX.
    """
    joined = [f"--coordinator={free_address()}", f"--num_processes={len(workdirs)}"]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    env |= {"PYTHONPATH": str(ROOT)}
    children = []
    for index, workdir in enumerate(workdirs):
        command = ["fsvfm_jax.main", *tiny, f"--workdir={workdir}", *arguments]
        if len(workdirs) > 1:
            command += [*joined, f"--process_id={index}"]
        command += own[index] if own else []
        its_env = env | ({"FSVFM_FAULT": faults[index]} if faults else {})
        folder = folders[index] if folders else ROOT
        if server:
            child = server.start(*command, folder=folder, environment=its_env)
        else:
            child = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=its_env,
                stderr=subprocess.PIPE,
                text=True,
            )
        children.append(child)
    return children


def train(
    server: "ForkServer",
    workdir: Path,
    *arguments: str,
    processes: int,
    epochs: int,
    devices: int = 1,
) -> str:
    """Runs the command in so many processes to its end; returns what process 0 said."""
    arguments += (f"--config.epochs={epochs}",)
    children = start([workdir] * processes, *arguments, devices=devices, server=server)
    said = [child.communicate(timeout=PATIENCE)[1] for child in children]
    for child, text in zip(children, said, strict=True):
        assert child.returncode == 0, text
    assert all("loss" not in text for text in said[1:])  # only process 0 speaks
    return said[0]


class Forked:
    """A command in a process that `ForkServer` has forked; it behaves as a `subprocess.Popen`."""

    def __init__(self, server: "ForkServer", request: dict[str, Any]):
        self._server = server
        self._scratch = tempfile.TemporaryDirectory()
        self._said = [Path(self._scratch.name, name) for name in ("stdout", "stderr")]
        for file in self._said:
            file.touch()
        stdout, stderr = map(str, self._said)
        self.pid = server.ask(request | {"stdout": stdout, "stderr": stderr})
        self.returncode = None

    def poll(self) -> int | None:
        """Returns the exit code, or None while the command runs."""
        if self.returncode is None:
            self.returncode = self._server.ask({"process": self.pid})
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end; returns stdout and stderr. A command ends itself after PATIENCE."""
        while self.poll() is None:
            time.sleep(0.02)
        stdout, stderr = (file.read_text() for file in self._said)
        self._scratch.cleanup()
        return stdout, stderr


class ForkServer:
    """Runs commands in processes forked from one that has imported JAX: `fork_server.py`."""

    def __enter__(self) -> "ForkServer":
        self._server = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "fork_server.py"],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.communicate()

    def ask(self, request: dict[str, Any]) -> int | None:
        """Returns the answer to a request."""
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        module: str,
        *arguments: str,
        folder: Path = ROOT,
        environment: Mapping[str, str] = os.environ,
    ) -> Forked:
        """Starts `python -m module arguments`.

        Args:
            module: Such as "fsvfm_jax.main".
            arguments: Those of the command.
            folder: Its current folder.
            environment: Its environment. Variables that Python and JAX read at their start have no
                effect, except for the number of JAX's devices.
        """
        request = {"module": module, "arguments": arguments, "folder": str(folder)}
        return Forked(self, request | {"environment": dict(environment)})

    def run(self, module: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess:
        """Runs a command as `start` does; returns what `subprocess.run` does."""
        command = self.start(module, *arguments, **options)
        stdout, stderr = command.communicate()
        return subprocess.CompletedProcess([module, *arguments], command.returncode, stdout, stderr)
