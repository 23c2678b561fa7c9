"""Runs the package's commands in processes that are forked from this one, which has imported JAX.

An import of JAX and of the training code costs seconds, a fork milliseconds. `commands.py` starts
this program. It reads one request per line, in JSON, and answers each with the exit code.
"""

import json
import os
import runpy
import signal
import sys
from typing import Any

from patience import PATIENCE

import fsvfm_jax.evaluate  # with it JAX, Orbax and the training code
import fsvfm_jax.plan.estimate
import fsvfm_jax.tasks
import fsvfm_jax.train  # noqa: F401


def next_request() -> dict[str, Any] | None:
    """Serves requests; returns one in each forked process, and None in this one at the end."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            return request
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def become(request: dict[str, Any]) -> None:
    """Makes this process what `python -m module arguments` would be."""
    signal.alarm(PATIENCE)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, name in enumerate((os.devnull, request["stdout"], request["stderr"])):
        opened = os.open(name, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.path[0] = request["folder"]
    sys.argv = ["", *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if (request := next_request()) is not None:
        become(request)
