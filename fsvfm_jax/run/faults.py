"""Injects faults on demand, so that anyone can test which failures a run survives.

The environment variable is `FSVFM_FAULT=point:step:action[@process][,...]`, for example
`step:5:kill,commit:*:enospc@1`. An action happens when the run reaches the point (one of `POINTS`)
at the training step (`*` is every step) in the process (all processes if none is given):

    kill, term, int, stop   SIGKILL, SIGTERM, SIGINT, SIGSTOP to the process itself
    raise                   RuntimeError
    enospc                  OSError: no space left on device
    sleep                   never returns
    nan                     `poison` returns NaN; only at the point `step`

Every start of the run that reaches the step has the fault again.
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
    "validation",  # after every batch of the validation
    "save",
    "commit",
    "manifest",
    "picture",
    "probe",
)
SIGNALS = {
    "kill": signal.SIGKILL,
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
    "stop": signal.SIGSTOP,
}
ACTIONS = (*SIGNALS, "raise", "sleep", "enospc", "nan")


class Fault(NamedTuple):
    """One fault of the variable.

    Attributes:
        point: One of `POINTS`.
        step: The training step; None for all steps.
        action: One of `ACTIONS`.
        process: Index of the process; None for all processes.
    """

    point: str
    step: int | None
    action: str
    process: int | None

    def strikes(self, point: str, step: int, *, process: int) -> bool:
        """Returns whether the fault is meant for this point, step and process."""
        return self.point == point and self.step in (None, step) and self.process in (None, process)


def fault(point: str, step: int, *, process: int = 0) -> None:
    """Executes the actions that the variable has for this point, except `nan`.

    Args:
        point: One of `POINTS`.
        step: The training step.
        process: Index of this process.

    Raises:
        RuntimeError: The variable has the action `raise` for this point.
        OSError: The variable has the action `enospc` for this point.
        ConfigError: The value of the variable is not of the form in this module's docstring.
    """
    for asked in _asked_for():
        if asked.action != "nan" and asked.strikes(point, step, process=process):
            logger.warning("%s strikes: %s:%d:%s", VARIABLE, point, step, asked.action)
            _strike(asked.action)


def poison(step: int, *, process: int = 0) -> float:
    """Returns a factor for the loss of a step: NaN if the variable has `nan` for the step, or 1.

    Args:
        step: The training step.
        process: Index of this process.

    Raises:
        ConfigError: The value of the variable is not of the form in this module's docstring.
    """
    for asked in _asked_for():
        if asked.action == "nan" and asked.strikes("step", step, process=process):
            logger.warning("%s strikes: step:%d:nan", VARIABLE, step)
            return math.nan
    return 1.0


def parse(value: str) -> tuple[Fault, ...]:
    """Returns the faults in a value of the variable.

    Raises:
        ConfigError: The value is not of the form in this module's docstring.
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
