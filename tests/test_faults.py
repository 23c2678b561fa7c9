"""Tests where, when and in which process a fault is injected, and the errors for bad values."""

import errno
import math
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.run.faults import ACTIONS, POINTS, Fault, fault, parse, poison


def faults_asked_for():
    return st.builds(
        Fault,
        point=st.just("step"),
        step=st.none() | st.integers(0, 10**9),
        action=st.sampled_from(ACTIONS),
        process=st.none() | st.integers(0, 9999),
    ) | st.builds(
        Fault,
        point=st.sampled_from(POINTS),
        step=st.none() | st.integers(0, 10**9),
        action=st.sampled_from([action for action in ACTIONS if action != "nan"]),
        process=st.none() | st.integers(0, 9999),
    )


def written(asked):
    step = "*" if asked.step is None else asked.step
    suffix = "" if asked.process is None else f"@{asked.process}"
    return f"{asked.point}:{step}:{asked.action}{suffix}"


@given(st.lists(faults_asked_for(), max_size=4))
def test_what_is_written_is_read(asked):
    assert parse(",".join(map(written, asked))) == tuple(asked)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("stap:5:kill", "no point 'stap', did you mean 'step'?"),
        ("step:5:kil", "no action 'kil', did you mean 'kill'?"),
        ("step:5:xyz@1", "no action 'xyz', known: kill, term,"),
        ("save:5:nan", "nan is for the point 'step', not 'save'"),
        ("step:5", "'step:5' is not point:step:action"),
        ("step:-1:kill", "'step:-1:kill' is not"),
        ("step:five:kill", "'step:five:kill' is not"),
        ("step:5:kill@one", "'step:5:kill@one' is not"),
        ("step:5:kill,", "'' is not"),
        ("step:5:kill, step:6:kill", "no point ' step'"),
    ],
)
def test_what_is_not_understood_is_refused(ask, value, why):
    ask(value)
    for call in (lambda: fault("start", 0), lambda: poison(1)):
        with pytest.raises(ConfigError) as error:
            call()
        message = str(error.value)
        assert message.startswith(f"FSVFM_FAULT={value!r}: ") and why in message
        assert ", ".join(POINTS) in message and ", ".join(ACTIONS) in message


def test_nothing_happens_unasked(ask):
    for value in (None, ""):
        if value is not None:
            ask(value)
        for point in POINTS:
            fault(point, 5)
        assert poison(5) == 1


def test_it_strikes_there_then_and_in_whom(ask, caplog):
    ask("step:5:raise@1,save:*:enospc")
    for point, step, process in [("step", 5, 0), ("step", 4, 1), ("data", 5, 1)]:
        fault(point, step, process=process)
    assert caplog.records == []
    with pytest.raises(RuntimeError, match="FSVFM_FAULT"):
        fault("step", 5, process=1)
    assert [record.getMessage() for record in caplog.records] == [
        "FSVFM_FAULT strikes: step:5:raise"
    ]
    for step in (1, 2):
        with pytest.raises(OSError) as error:
            fault("save", step, process=step)
        assert error.value.errno == errno.ENOSPC


def test_poison(ask, caplog):
    ask("step:5:nan,step:7:nan@1,step:8:raise")
    fault("step", 5)
    assert caplog.records == []
    assert math.isnan(poison(5)) and math.isnan(poison(5, process=1))
    assert [poison(step) for step in (4, 6, 7, 8)] == [1, 1, 1, 1]
    assert math.isnan(poison(7, process=1))
    assert len(caplog.records) == 3


def run_with(value):
    # A shell starts background commands with SIGINT ignored.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL);"
        "from fsvfm_jax.run.faults import fault; fault('step', 5); print('went on')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={"FSVFM_FAULT": value},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("action", "number"),
    [("kill", signal.SIGKILL), ("term", signal.SIGTERM), ("int", signal.SIGINT)],
)
def test_signals(action, number):
    with run_with(f"step:5:{action}") as process:
        out, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == -number and out == ""
    assert f"FSVFM_FAULT strikes: step:5:{action}" in said


@pytest.mark.parametrize("action", ["stop", "sleep"])
def test_what_does_not_return(action):
    with run_with(f"step:5:{action}") as process:
        assert "strikes" in process.stderr.readline()
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGCONT)
        if action == "stop":
            assert process.communicate(timeout=PATIENCE)[0] == "went on\n"
        process.kill()
