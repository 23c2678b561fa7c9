"""The training command in processes of its own, with the tiny network of `tiny.py`."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
    env |= {"PYTHONPATH": str(ROOT)}
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
