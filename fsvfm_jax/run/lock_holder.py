"""Reads and writes the holder in the lock of a run, and finds out whether the holder is gone."""

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
# The clocks of a host and of its storage differ by fewer seconds than this.
CLOCKS_APART = 3600

_Name = Annotated[str, Meta(max_length=255)]


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock, as the lock's file describes it.

    Attributes:
        host: Name of the machine.
        boot: Identifier that changes when the machine restarts; empty if there is none.
        pid_namespace: The namespace of `pid`; containers on one host may have different ones.
        pid: Number of the process.
        started: Start time of the process, in clock ticks since the boot; 0 if it is not known.
        token: Identifier that differs for every run; empty if the file is damaged.
        renewed: Time of the last renewal of the lock, in seconds since 1970.
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
        """The name of the process in a message."""
        return f"process {self.pid} on {self.host}" if self.token else "an unknown process"


def why_gone(holder: Holder) -> str:
    """Returns the reason why a holder is known to be gone; empty if it may be alive."""
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
    """Returns the content of a lock that this process holds and renews now."""
    return (json.dumps(dataclasses.asdict(_myself(token)), indent=1) + "\n").encode()


def parse_holder(content: bytes, modified: float) -> Holder:
    """Returns the holder in a lock; if the lock is damaged, one without a name.

    Args:
        content: The bytes of the lock.
        modified: Time of the last write, in seconds since 1970; the holder of a damaged lock has
            renewed it at this time.
    """
    try:
        holder = parse_json(content, Holder)
    except ValueError:
        holder = None
    # With NaN or a time long after the last write, the lock would never expire.
    if holder is None or not holder.renewed <= modified + CLOCKS_APART:
        return Holder("", "", "", 0, 0, "", modified)
    return holder
