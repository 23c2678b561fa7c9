"""Joining the processes of one run, and what must hold between them before anything is trained."""

import hashlib
import importlib.util
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from fsvfm_jax.errors import ConfigError, Preempted, StorageError, in_one_line
from fsvfm_jax.run_files import write_text

logger = logging.getLogger(__name__)

# What schedulers and TPU runtimes set for a process that has others beside it.
HINTS = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_PROCID",
    "TPU_WORKER_HOSTNAMES",
    "TPU_WORKER_ID",
    "MEGASCALE_COORDINATOR_ADDRESS",
)


def start(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_seconds: int = 300,
    heartbeat_seconds: int = 60,
) -> None:
    """Joins the other processes, if there are any; the first thing a run does with JAX.

    Slurm steps, TPU VMs and GKE are recognised by what they set; elsewhere the address is given.

    Args:
        coordinator: host:port of process 0; None looks at the surroundings.
        num_processes: How many there are, with `coordinator`.
        process_id: Which one this is, from 0, with `coordinator`.
        timeout_seconds: How long to wait for the others.
        heartbeat_seconds: After how long without a sign of life another process counts as dead; JAX
            then ends this one too.

    Raises:
        ConfigError: The address is incomplete, or what was seen does not make sense.
    """
    explicit = (coordinator, num_processes, process_id)
    if any(x is not None for x in explicit) and None in explicit:
        raise ConfigError(
            "give --coordinator, --num_processes and --process_id together, or none of them"
        )
    if coordinator is None and not _has_company():
        return
    if coordinator is not None:
        seen = f"coordinator {coordinator}, process {process_id} of {num_processes}"
    else:
        seen = ", ".join(f"{x}={os.environ[x]}" for x in HINTS if x in os.environ) or "a TPU VM"
    # Said beforehand: where the others do not come, JAX ends the process without returning.
    logger.info("waiting up to %d s for the other processes of this run: %s", timeout_seconds, seen)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes of this run did not find each other ({seen}): start all of them, and"
            f" let their hosts reach each other ({str(error).splitlines()[0]})"
        ) from error


def _has_company() -> bool:
    slurm_tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    return (
        ("SLURM_PROCID" in os.environ and slurm_tasks.isdigit() and int(slurm_tasks) > 1)
        or "TPU_WORKER_HOSTNAMES" in os.environ
        or _is_tpu_vm()
    )


def _is_tpu_vm() -> bool:
    """A TPU VM's process does not know whether it is alone; JAX asks the machine's metadata."""
    forced_elsewhere = os.environ.get("JAX_PLATFORMS", "tpu") != "tpu"
    return not forced_elsewhere and any(Path("/dev").glob("accel[0-9]*"))


def device_table() -> str:
    """Every process and its devices, as everybody sees them, on one line."""
    counts = Counter((d.process_index, d.device_kind) for d in jax.devices())
    lines = [
        f"process {index}: {count} x {kind}" + (" (this one)" * (index == jax.process_index()))
        for (index, kind), count in sorted(counts.items())
    ]
    return "; ".join(lines)


def check_workdir(workdir: epath.Path) -> None:
    """Sees that what is installed can write there; before anything else is done.

    Raises:
        ConfigError: It is in a bucket whose client is missing, or in another kind of store.
    """
    scheme = _scheme(workdir)
    if scheme == "gs" and importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(
            f"the workdir {workdir} is in a bucket: pip install '.[gcs]' to write there"
        )
    if scheme not in ("", "gs"):  # Checkpoints elsewhere would rely on renaming.
        raise ConfigError(f"the workdir {workdir} is neither a folder nor in a bucket gs://...")


def share_workdir(workdir: epath.Path) -> None:
    """Makes the folder of the run and sees that every process has the same one.

    Raises:
        StorageError: It cannot be made, or is local to one of several hosts; on every process.
    """
    token = workdir / ".seen_by_all"

    def make() -> None:
        if _scheme(workdir) == "gs":  # Has no folders; `mkdir` would make a missing bucket.
            _read_bucket(workdir)
        else:
            workdir.mkdir(parents=True, exist_ok=True)
        write_text(token, socket.gethostname())

    refusal = f"the workdir {workdir} cannot be written: give another, or permission"
    on_first_process(make, refusal=refusal)
    blind = number_of_processes(not _exists(token))
    if jax.process_index() == 0:
        token.unlink(missing_ok=True)
    if blind:
        raise StorageError(
            f"the workdir {workdir} is local: {blind} of {jax.process_count()} processes do not see"
            " it; give a --workdir on a file system that all hosts share"
        )


def _exists(path: epath.Path) -> bool:
    try:
        return path.exists()
    except Exception:  # Whoever may not look does not see it.
        return False


def _read_bucket(workdir: epath.Path) -> None:
    """Reads what the bucket is, as Orbax will, though only once it deletes or restores a step."""
    from google.cloud import storage

    storage.Client().get_bucket(str(workdir).split("/")[2])


def _scheme(path: epath.Path) -> str:
    """What is before :// in a path, or nothing."""
    return str(path).rpartition("://")[0]


def on_first_process(action: Callable[[], object], *, refusal: str) -> None:
    """Does something with files on process 0; all wait for it, and nobody for one that failed.

    Raises:
        StorageError: It failed, for whatever reason; on every process, with `refusal`.
    """
    failure = False
    if jax.process_index() == 0:
        try:
            action()
        except Preempted:  # Only ever raised where there is one process.
            raise
        except StorageError as error:  # says it all
            refusal, failure = str(error), True
        except Exception as error:  # Clients of buckets raise kinds of their own.
            refusal += f" ({in_one_line(error)})"
            failure = True
    if number_of_processes(failure):
        raise StorageError(refusal)


def check_same(text: str, *, what: str) -> None:
    """Raises ConfigError, on all processes, unless all have the same text; `what` names it."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest).reshape(-1, digest.size)
    differing = np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()
    if differing:
        raise ConfigError(
            f"processes {differing} have other {what} than process 0: start all with the same"
            " command, and give all hosts the same files"
        )


def number_of_processes(condition: bool) -> int:
    """On how many of them it is true; all ask at the same time."""
    return int(np.sum(multihost_utils.process_allgather(np.int32(condition))))
