"""Finds the other processes of a run from the flags and the environment, if there are any."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fsvfm_jax.errors import ConfigError

# Variables that schedulers and TPU runtimes set for one of several processes.
HINTS = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_PROCID",
    "TPU_WORKER_HOSTNAMES",
    "TPU_WORKER_ID",
    "MEGASCALE_COORDINATOR_ADDRESS",
)
# The flags of an address and the variables that mean the same, which Kubeflow Trainer sets.
FLAGS = ("--coordinator", "--num_processes", "--process_id")
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class Launcher(NamedTuple):
    """A launcher whose processes JAX cannot find.

    Attributes:
        rank: The variable that contains the number of this process.
        name: The launcher's name in messages.
        advice: The end of the message, if there is special advice for this launcher.
    """

    rank: str
    name: str
    advice: str = ""


# The launchers, by the variable that contains the number of processes.
OTHER_LAUNCHERS = {
    "OMPI_COMM_WORLD_SIZE": Launcher("OMPI_COMM_WORLD_RANK", "Open MPI"),
    "PMI_SIZE": Launcher("PMI_RANK", "MPI"),
    "WORLD_SIZE": Launcher("RANK", "torchrun or a PyTorchJob"),
    "NUM_PROCESSES": Launcher("PROCESS_ID", "a Kubeflow JAXJob"),
    "SLURM_NTASKS": Launcher(
        "SLURM_PROCID",
        "Slurm (through srun JAX would find them)",
        "; if --ntasks was meant to get cores for one process, ask for --cpus-per-task, or give"
        " --num_processes=1",
    ),
}
# A number of processes; no launcher sets a longer number.
_NUMBER = "[0-9]{1,9}"


class Address(NamedTuple):
    """The given address of the other processes; a part that is not given is None."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None


class Peers(NamedTuple):
    """The other processes of a run.

    Attributes:
        address: Arguments of `jax.distributed.initialize`, which finds the values that are None.
        seen: The flags or variables that show that there are other processes.
    """

    address: Address
    seen: str


def find_peers(flags: Address, environment: Mapping[str, str]) -> Peers | None:
    """Returns how this process finds the others of its run; None if there are no others.

    A flag takes precedence over the variable with the same meaning.

    Args:
        flags: The address from the command line.
        environment: The environment variables.

    Raises:
        ConfigError: The address is incomplete or invalid; or a launcher has started several
            processes and gives no address.
    """
    address = _with_variables(flags, environment)
    if address[1:] == (None, None) and flags.coordinator is None:
        if _scheduler_says_so(environment):
            seen = ", ".join(f"{x}={environment[x]}" for x in HINTS if x in environment)
            return Peers(address, seen or "a TPU VM")
        if address.coordinator is None:
            _refuse_other_launchers(environment)
            return None
    if address.num_processes == 1 and address.process_id in (None, 0):
        return None
    _check(address)
    overruled = "".join(
        f"; {flag}={of_flag} wins over {variable}={environment[variable]}"
        for flag, variable, of_flag in zip(FLAGS, VARIABLES, flags, strict=True)
        if of_flag is not None and environment.get(variable, str(of_flag)) != str(of_flag)
    )
    coordinator, number, this = address
    return Peers(address, f"coordinator {coordinator}, process {this} of {number}{overruled}")


def check_alone(environment: Mapping[str, str]) -> None:
    """Checks that no launcher has started a command several times that works alone.

    Args:
        environment: The environment variables.

    Raises:
        ConfigError: A launcher has started several processes.
    """
    ranks = {size: launcher.rank for size, launcher in OTHER_LAUNCHERS.items()}
    ranks |= {"SLURM_STEP_NUM_TASKS": "SLURM_PROCID", "JAX_NUM_PROCESSES": "JAX_PROCESS_ID"}
    for size, rank in ranks.items():
        if rank in environment and _are_several(environment.get(size, "")):
            raise ConfigError(
                f"{size}={environment[size]}: a launcher has started several processes, and each"
                " would do all the work: start one, which uses all cores and one accelerator; or"
                f" unset {size} and give each process other files and another --output"
            )


def _with_variables(flags: Address, environment: Mapping[str, str]) -> Address:
    """Returns the flags; a variable replaces a flag that is not given."""
    found = {variable: environment.get(variable) or None for variable in VARIABLES}
    for name, flag in zip(VARIABLES[1:], flags[1:], strict=True):
        text = found[name]
        if flag is None and text is not None and not re.fullmatch(_NUMBER, text):
            raise ConfigError(f"{name}={text!r} is no whole number from 0 up")
    address, number, this = (
        found[name] if flag is None else flag for name, flag in zip(VARIABLES, flags, strict=True)
    )
    return Address(
        address, None if number is None else int(number), None if this is None else int(this)
    )


def _check(address: Address) -> None:
    missing = [
        f"{flag} (or {variable})"
        for flag, variable, value in zip(FLAGS, VARIABLES, address, strict=True)
        if value is None
    ]
    if missing:
        raise ConfigError(
            f"to find the other processes {' and '.join(missing)} is missing: give --coordinator,"
            " --num_processes and --process_id together, or none of them"
        )
    coordinator, number, this = address
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"{FLAGS[0]} (or {VARIABLES[0]}) is {coordinator!r}: it must be HOST:PORT, the same on"
            " all processes, with a free port of process 0"
        )
    if number < 1:
        raise ConfigError(f"{FLAGS[1]} (or {VARIABLES[1]}) is {number}: it must be at least 1")
    if not 0 <= this < number:
        raise ConfigError(
            f"{FLAGS[2]} (or {VARIABLES[2]}) is {this}: of {number} processes each has one of the"
            f" numbers from 0 to {number - 1}"
        )


def _refuse_other_launchers(environment: Mapping[str, str]) -> None:
    for size, launcher in OTHER_LAUNCHERS.items():
        if launcher.rank in environment and _are_several(environment.get(size, "")):
            raise ConfigError(
                f"{launcher.name} asks for {environment[size]} processes ({size}), and each of them"
                f" would train alone: give {FLAGS[0]}=HOST:PORT {FLAGS[1]}=${size}"
                f" {FLAGS[2]}=${launcher.rank}, or {FLAGS[1]}=1 to train alone{launcher.advice}"
            )


def _are_several(number: str) -> bool:
    return bool(re.fullmatch(_NUMBER, number)) and int(number) > 1


def _scheduler_says_so(environment: Mapping[str, str]) -> bool:
    return (
        (
            "SLURM_PROCID" in environment
            and _are_several(environment.get("SLURM_STEP_NUM_TASKS", ""))
        )
        or "TPU_WORKER_HOSTNAMES" in environment
        or _is_tpu_vm(environment)
    )


def _is_tpu_vm(environment: Mapping[str, str]) -> bool:
    """Returns whether this is a TPU VM.

    A process of a TPU VM does not know whether it is alone; JAX reads the machine's metadata.
    """
    forced_elsewhere = environment.get("JAX_PLATFORMS", "tpu") != "tpu"
    return not forced_elsewhere and any(Path("/dev").glob("accel[0-9]*"))
