"""Runs the package's commands in processes that are forked from this one, which has imported JAX.

An import of JAX and of the training code costs seconds, a fork milliseconds. `commands.py` starts
this program. It reads one request per line, in JSON: to start a command, which it answers with the
number of the process, or to tell the exit code of such a process, which is null while it runs.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import sys
import threading
from typing import Any, NoReturn

import jax
from patience import PATIENCE

import fsvfm_jax.evaluate  # with it JAX, Orbax and the training code
import fsvfm_jax.plan.estimate
import fsvfm_jax.tasks
import fsvfm_jax.train  # noqa: F401


def next_command() -> dict[str, Any] | None:
    """Serves requests; returns one in each forked process, and None in this one at the end."""
    for line in sys.stdin:
        request = json.loads(line)
        if "process" in request:
            ended, status = os.waitpid(request["process"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            answer = os.fork()
            if answer == 0:
                return request
        print(json.dumps(answer), flush=True)
    return None


def become(request: dict[str, Any]) -> None:
    """Makes this process what `python -m module arguments` would be."""
    signal.alarm(PATIENCE)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        jax.config.update("jax_num_cpu_devices", int(os.environ["JAX_NUM_CPU_DEVICES"]))
    for number, name in enumerate((os.devnull, request["stdout"], request["stderr"])):
        opened = os.open(name, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.path[0] = request["folder"]
    sys.argv = ["", *request["arguments"]]
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        leave(ended.code)
    leave(0)


def leave(code: int | None) -> NoReturn:
    """Ends this process as Python does, but does not free the modules, which takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    gc.freeze()  # The modules stay shared between the processes.
    if (request := next_command()) is not None:
        become(request)
