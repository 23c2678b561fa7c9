"""Joins the processes of one run, and checks that they agree before anything is trained."""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from fsvfm_jax.devices.peers import Address, find_peers
from fsvfm_jax.errors import ConfigError, Preempted, StorageError, in_one_line, short_list
from fsvfm_jax.host.hashing import sha256_of_code
from fsvfm_jax.host.storage import write_text

logger = logging.getLogger(__name__)

# Fields that may differ between hosts: they change neither the results nor what processes do
# together. Later checks compare the contents of the paths: the fingerprint covers data and
# statistics (`fingerprint.check_fingerprint`), a hash covers weights (`check_same_arrays`), and
# `check_same` compares the sets of a probe.
FIELDS_OF_A_HOST = (
    "data.num_workers",
    "data.paths",
    "data.stats_file",
    "init.params",
    "probe.paths",
)
# Libraries whose version must be the same on all processes.
LIBRARIES = ("jax", "jaxlib", "numpy")
PACKAGE = Path(__file__).parents[1]
MAX_DIFFERENCES = 20
MAX_VALUE = 100  # characters


def start(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_seconds: int = 300,
    heartbeat_seconds: int = 60,
) -> None:
    """Joins the other processes, if there are any; a run calls it before it uses JAX otherwise.

    The environment shows Slurm steps, TPU VMs, GKE and JAX's own variables (`peers`); elsewhere the
    address must be given.

    Args:
        coordinator: host:port of process 0; None reads it from the environment.
        num_processes: Number of processes; None reads it from the environment.
        process_id: Number of this process, from 0; None reads it from the environment.
        timeout_seconds: How long to wait for the other processes.
        heartbeat_seconds: Seconds without a sign of life after which another process counts as
            dead; JAX then ends this process too.

    Raises:
        ConfigError: The address is incomplete or invalid, or the other processes are not found.
    """
    peers = find_peers(Address(coordinator, num_processes, process_id), os.environ)
    if peers is None:
        return
    # This is logged first: if the other processes do not come, JAX ends the process without
    # returning.
    logger.info(
        "waiting up to %d s for the other processes of this run: %s", timeout_seconds, peers.seen
    )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            *peers.address,
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes of this run did not find each other ({peers.seen}): start all of them,"
            f" and let their hosts reach each other ({str(error).splitlines()[0]})"
        ) from error


def device_table() -> str:
    """Returns all processes and their devices, as every process sees them, on one line."""
    counts = Counter((d.process_index, d.device_kind) for d in jax.devices())
    lines = [
        f"process {index}: {count} x {kind}" + (" (this one)" * (index == jax.process_index()))
        for (index, kind), count in sorted(counts.items())
    ]
    return "; ".join(lines)


def check_workdir(workdir: epath.Path) -> None:
    """Checks that the installed packages can write to a workdir, before anything else is done.

    Raises:
        ConfigError: The workdir is in a bucket whose client is missing, or in another kind of
            store.
    """
    scheme = _scheme(workdir)
    if scheme == "gs" and importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(
            f"the workdir {workdir} is in a bucket: pip install '.[gcs]' to write there"
        )
    if scheme not in ("", "gs"):  # Checkpoints in other stores would rely on renaming.
        raise ConfigError(f"the workdir {workdir} is neither a folder nor in a bucket gs://...")


def share_workdir(workdir: epath.Path) -> None:
    """Makes the folder of the run and checks that every process sees the same folder.

    Raises:
        StorageError: The folder cannot be made, or is local to one of several hosts; raised on
            every process.
    """
    token = workdir / ".seen_by_all"

    def make() -> None:
        if _scheme(workdir) == "gs":  # A bucket has no folders; `mkdir` would make the bucket.
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
    except Exception:  # A process without permission does not see the file.
        return False


def _read_bucket(workdir: epath.Path) -> None:
    """Reads the bucket's metadata now; Orbax reads it only when it deletes or restores a step."""
    from google.cloud import storage

    storage.Client().get_bucket(str(workdir).split("/")[2])


def _scheme(path: epath.Path) -> str:
    """Returns the part of a path before ://, or an empty string."""
    return str(path).rpartition("://")[0]


def on_first_process(action: Callable[[], object], *, refusal: str) -> None:
    """Runs an action on files on process 0, while all other processes wait for its end.

    If the action fails, no process waits any longer.

    Args:
        action: What process 0 runs.
        refusal: The message of the error.

    Raises:
        StorageError: The action failed, for whatever reason; raised on every process.
    """
    failure = False
    if jax.process_index() == 0:
        try:
            action()
        except Preempted:  # A run with several processes never raises it here.
            raise
        except StorageError as error:  # Its message is complete.
            refusal, failure = str(error), True
        except Exception as error:  # Clients of buckets raise their own types.
            refusal += f" ({in_one_line(error)})"
            failure = True
    if number_of_processes(failure):
        raise StorageError(refusal)


def check_same(text: str, *, what: str) -> None:
    """Checks that all processes have the same text.

    Args:
        text: The text of this process.
        what: What the text describes, for the message.

    Raises:
        ConfigError: The texts differ; raised on every process.
    """
    if differing := _processes_that_differ(text):
        raise ConfigError(
            f"processes {differing} have other {what} than process 0: start all with the same"
            " command, and give all hosts the same files"
        )


def check_same_arrays(tree: Any, *, what: str) -> None:
    """Checks that all processes have the same arrays and numbers, by their hash.

    JAX assumes that host arrays are the same on all processes, and does not compare them when they
    are arguments of a jitted function.

    Args:
        tree: A tree of arrays and numbers in host memory.
        what: What the tree is, for the message.

    Raises:
        ConfigError: The trees differ; raised on every process.
    """
    if jax.process_count() == 1:  # Hashing a large network takes seconds.
        return
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    check_same(digest.hexdigest(), what=what)


def check_same_run(config: ConfigDict, flags: Mapping[str, Any]) -> None:
    """Checks that all processes were started for the same run, with the same program.

    Args:
        config: The resolved config.
        flags: The command's other arguments by name, such as "--workdir".

    Raises:
        ConfigError: A field, a flag, the code or a library differs; raised on every process. The
            message names the differing values and their processes.
    """
    fields = flatten_dict(config.to_dict(), sep=".")
    facts = {f"config.{name}": fields[name] for name in fields if name not in FIELDS_OF_A_HOST}
    facts |= {**flags, "the program": sha256_of_code(PACKAGE)[:12]}
    facts |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    text = json.dumps({name: json.dumps(value, default=str) for name, value in facts.items()})
    if not _processes_that_differ(text):
        return
    found = differences([json.loads(one) for one in _texts_of_all(text)])
    left_out = len(found) - MAX_DIFFERENCES
    more = f"; and {left_out} more" if left_out > 0 else ""
    raise ConfigError(
        f"the processes of this run differ: {'; '.join(found[:MAX_DIFFERENCES])}{more}: start all"
        " with the same command, and install the same program everywhere"
    )


def differences(facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the differences from process 0, one phrase for each fact and value.

    Args:
        facts: For each process, its values by name.
    """
    found = []
    for name in dict.fromkeys(name for one in facts for name in one):
        by_value = defaultdict(list)
        for process, one in enumerate(facts):
            by_value[one.get(name, "absent")[:MAX_VALUE]].append(process)
        expected = facts[0].get(name, "absent")[:MAX_VALUE]
        found += [
            f"{name} is {value} on {_listed(where)} and {expected} on process 0"
            for value, where in by_value.items()
            if value != expected
        ]
    return found


def _listed(processes: Sequence[int]) -> str:
    numbers = short_list([str(process) for process in processes], most=MAX_DIFFERENCES)
    return f"process{'es' * (len(processes) > 1)} {numbers}"


def _processes_that_differ(text: str) -> list[int]:
    """Returns the processes whose text differs from process 0; all call it at the same time."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest).reshape(-1, digest.size)
    return np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()


def _texts_of_all(text: str) -> list[str]:
    """Returns the texts of all processes; all call it at the same time."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(encoded.size)).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: encoded.size] = encoded
    rows = multihost_utils.process_allgather(padded).reshape(sizes.size, -1)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def number_of_processes(condition: bool) -> int:
    """Returns on how many processes a condition is true; all call it at the same time."""
    return int(np.sum(multihost_utils.process_allgather(np.int32(condition))))
