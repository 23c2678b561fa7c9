"""Faults on demand, so that anyone can repeat what a run survives.

`FSVFM_FAULT=point:step:action[@process][,...]`, such as `step:5:kill,commit:*:enospc@1`: when that
point (of `POINTS`) is reached at that training step (`*`: at every one), in that process (without
it: in each), the action strikes:

    kill, term, int, stop   SIGKILL, SIGTERM, SIGINT, SIGSTOP to the process itself
    raise                   RuntimeError
    enospc                  OSError: no space left on device
    sleep                   never returns
    nan                     only at `step`: `poison` returns it

It strikes at every start of the run that comes to that step.
"""

import errno
import functools
import logging
import math
import os
import re
import signal
import time
from typing import NamedTuple

from fsvfm_jax.errors import ConfigError, nearest

logger = logging.getLogger(__name__)

VARIABLE = "FSVFM_FAULT"
POINTS = (
    "start",
    "restore",
    "compile",
    "data",
    "step",
    "validation",  # after every batch of it
    "save",
    "commit",
    "manifest",
    "picture",
)
SIGNALS = {
    "kill": signal.SIGKILL,
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
    "stop": signal.SIGSTOP,
}
ACTIONS = (*SIGNALS, "raise", "sleep", "enospc", "nan")


class Fault(NamedTuple):
    """One fault that is asked for; a step or process of None stands for all."""

    point: str
    step: int | None
    action: str
    process: int | None

    def strikes(self, point: str, step: int, *, process: int) -> bool:
        """Whether it is for this place."""
        return self.point == point and self.step in (None, step) and self.process in (None, process)


def fault(point: str, step: int, *, process: int = 0) -> None:
    """Lets happen what is asked for at this point.

    Args:
        point: One of `POINTS`.
        step: The training step.
        process: This process's index.

    Raises:
        RuntimeError: If asked for.
        OSError: If asked for.
        ConfigError: What is asked for is not understood.
    """
    for asked in _asked_for():
        if asked.action != "nan" and asked.strikes(point, step, process=process):
            logger.warning("%s strikes: %s:%d:%s", VARIABLE, point, step, asked.action)
            _strike(asked.action)


def poison(step: int, *, process: int = 0) -> float:
    """A factor for this step's loss: NaN where that is asked for, else 1.

    Raises:
        ConfigError: What is asked for is not understood.
    """
    for asked in _asked_for():
        if asked.action == "nan" and asked.strikes("step", step, process=process):
            logger.warning("%s strikes: step:%d:nan", VARIABLE, step)
            return math.nan
    return 1.0


def parse(value: str) -> tuple[Fault, ...]:
    """The faults that the variable's value asks for.

    Raises:
        ConfigError: It is not of the form that this module's docstring tells.
    """
    return tuple(_parse_one(text, value) for text in value.split(",")) if value else ()


def _parse_one(text: str, value: str) -> Fault:
    match = re.fullmatch(r"([^:]*):(\*|[0-9]+):([^:@]*)(?:@([0-9]+))?", text)
    if match is None:
        raise _not_understood(value, f"{text!r} is not point:step:action or point:step:action@0")
    point, step, action, process = match.groups()
    if point not in POINTS:
        raise _not_understood(value, f"no point {point!r}, {nearest(point, POINTS)}")
    if action not in ACTIONS:
        raise _not_understood(value, f"no action {action!r}, {nearest(action, ACTIONS)}")
    if action == "nan" and point != "step":
        raise _not_understood(value, f"nan is for the point 'step', not {point!r}")
    return Fault(
        point,
        None if step == "*" else int(step),
        action,
        None if process is None else int(process),
    )


def _not_understood(value: str, why: str) -> ConfigError:
    return ConfigError(
        f"{VARIABLE}={value!r}: {why} (points: {', '.join(POINTS)}; actions: {', '.join(ACTIONS)})"
    )


@functools.cache
def _asked_for() -> tuple[Fault, ...]:
    return parse(os.environ.get(VARIABLE, ""))


def _strike(action: str) -> None:
    if action in SIGNALS:
        os.kill(os.getpid(), SIGNALS[action])
    elif action == "raise":
        raise RuntimeError(f"{VARIABLE} asked for this error")
    elif action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action == "sleep":
        while True:
            time.sleep(0.1)
