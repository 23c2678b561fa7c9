"""Who holds the lock of a run: what the lock's file contains, and whether the holder is gone."""

import dataclasses
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from fsvfm_jax.host.json_files import parse_json
from fsvfm_jax.host.processes import is_alive, pid_namespace, state_and_start

LEASE_SECONDS = 120
# No clocks of a host and of its storage differ by more seconds.
CLOCKS_APART = 3600

_Name = Annotated[str, Meta(max_length=255)]


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock, as the lock's file contains it.

    Attributes:
        host: Name of the machine.
        boot: Changes when the machine restarts; empty where that cannot be seen.
        pid_namespace: Where `pid` counts: containers on one host may not see each other.
        pid: Number of the process.
        started: When the process did, in clock ticks since the boot; 0 where unknown.
        token: Differs for every run; empty where the file is damaged.
        renewed: When the lock was last renewed, in seconds since 1970.
    """

    host: _Name
    boot: _Name
    pid_namespace: _Name
    pid: Annotated[int, Meta(ge=0, lt=2**31)]
    started: Annotated[int, Meta(ge=0, le=2**62)]
    token: _Name
    renewed: float

    @property
    def name(self) -> str:
        """The process, for a message."""
        return f"process {self.pid} on {self.host}" if self.token else "an unknown process"


def why_gone(holder: Holder) -> str:
    """What proves that a holder does not go on, or nothing."""
    if time.time() - holder.renewed > LEASE_SECONDS:
        return "its lease is over"
    here = _myself("")
    if holder.host != here.host:
        return ""
    if holder.boot != here.boot:
        return "the machine has restarted"
    if holder.pid_namespace != here.pid_namespace or is_alive(holder.pid, started=holder.started):
        return ""
    return "its process is gone"


def _myself(token: str) -> Holder:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return Holder(
        host=socket.gethostname(),
        boot=boot.read_text().strip() if boot.exists() else "",
        pid_namespace=pid_namespace(),
        pid=os.getpid(),
        started=state_and_start(os.getpid())[1],
        token=token,
        renewed=time.time(),
    )


def record(token: str) -> bytes:
    """Returns the content of the lock's file where this process holds the lock from now on."""
    return (json.dumps(dataclasses.asdict(_myself(token)), indent=1) + "\n").encode()


def parse_holder(content: bytes, modified: float) -> Holder:
    """The holder in a lock; of a damaged one, nobody, who renewed it when it was last written."""
    try:
        holder = parse_json(content, Holder)
    except ValueError:
        holder = None
    # A time long after that of writing, or NaN, would keep the lock for ever.
    if holder is None or not holder.renewed <= modified + CLOCKS_APART:
        return Holder("", "", "", 0, 0, "", modified)
    return holder
