"""The training command in processes of its own, with the tiny network of `tiny.py`."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

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
) -> list[subprocess.Popen]:
    """Starts the command in as many processes as there are workdirs.

    `faults`, `own` arguments and `folders` to start in have one entry for each process.
    """
    joined = [f"--coordinator={free_address()}", f"--num_processes={len(workdirs)}"]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    env |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'without_torch'}"}
    children = []
    for index, workdir in enumerate(workdirs):
        command = [
            sys.executable,
            "-m",
            "fsvfm_jax.main",
            *tiny,
            f"--workdir={workdir}",
            *arguments,
        ]
        if len(workdirs) > 1:
            command += [*joined, f"--process_id={index}"]
        command += own[index] if own else []
        its_env = env | ({"FSVFM_FAULT": faults[index]} if faults else {})
        folder = folders[index] if folders else ROOT
        children.append(
            subprocess.Popen(command, cwd=folder, env=its_env, stderr=subprocess.PIPE, text=True)
        )
    return children


def train(workdir: Path, *, processes: int, epochs: int, devices: int = 1) -> str:
    """Runs the command in so many processes to its end; returns what process 0 said."""
    children = start([workdir] * processes, f"--config.epochs={epochs}", devices=devices)
    said = [child.communicate(timeout=PATIENCE)[1] for child in children]
    for child, text in zip(children, said, strict=True):
        assert child.returncode == 0, text
    assert all("loss" not in text for text in said[1:])  # only process 0 speaks
    return said[0]


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

    def run(
        self,
        module: str,
        *arguments: str,
        folder: Path = ROOT,
        environment: Mapping[str, str] = os.environ,
    ) -> subprocess.CompletedProcess:
        """Runs `python -m module arguments`.

        Args:
            module: Such as "fsvfm_jax.main".
            arguments: Those of the command.
            folder: Its current folder.
            environment: Its environment. Variables that Python and JAX read at their start have no
                effect.

        Returns:
            Exit code, stdout and stderr, as `subprocess.run` does.
        """
        with tempfile.TemporaryDirectory() as scratch:
            written = {name: Path(scratch, name) for name in ("stdout", "stderr")}
            for file in written.values():
                file.touch()
            request = {
                "module": module,
                "arguments": arguments,
                "folder": str(folder),
                "environment": dict(environment),
                **{name: str(file) for name, file in written.items()},
            }
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            said = {name: file.read_text() for name, file in written.items()}
        return subprocess.CompletedProcess([module, *arguments], code, **said)
