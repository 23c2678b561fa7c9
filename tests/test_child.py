"""Tests measurements in processes of their own: results, failures, crashes and time limits."""

import os
import select
import signal
import subprocess
import sys

import pytest

from fsvfm_jax.benchmark import child
from fsvfm_jax.benchmark.child import MeasurementFailed, measure


def stand_in(monkeypatch, script: str) -> None:
    """Lets a script take the place of the command."""
    run = child.run
    monkeypatch.setattr(
        child,
        "run",
        lambda command, **options: run([sys.executable, "-S", "-c", script], **options),
    )


def test_the_record_is_the_last_line(monkeypatch):
    stand_in(
        monkeypatch,
        "import json, os; print('earlier');"
        "print(json.dumps({name: os.environ[name] for name in ('OMP_NUM_THREADS', 'GIVEN')}))",
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = str(child.available_cores())
    assert measure(["step"], environment={"GIVEN": "1"}) == {
        "OMP_NUM_THREADS": threads,
        "GIVEN": "1",
    }
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert measure(["step"], environment={"GIVEN": "1"})["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("script", "sentence", "code"),
    [
        ("import sys; sys.exit('12:00:00 a message\\nerror: the reason')", "the reason", 1),
        (
            "import sys; print('ValueError: 2\\ninternal error', file=sys.stderr); sys.exit(70)",
            "ValueError: 2",
            70,
        ),
        ("import sys; sys.exit('error: the reason\\nresource_tracker: leaked')", "the reason", 1),
        ("import os; os.kill(os.getpid(), 9)", "the process was ended by SIGKILL", 70),
        ("import sys; sys.exit(3)", "the process ended with exit code 3", 3),
        ("import sys; sys.exit('error: ' + 'x' * 200_000)", "^x{4000}$", 1),
        ("print('no record')", "it printed no record", 70),
        ("pass", "it printed no record", 70),
    ],
)
def test_a_failure_is_one_sentence(monkeypatch, script, sentence, code):
    stand_in(monkeypatch, script)
    with pytest.raises(MeasurementFailed, match=sentence) as failed:
        measure(["step"])
    assert failed.value.exit_code == code and "error:" not in str(failed.value)


# Both processes hold the pipe open until they end.
WITH_A_CHILD = """
import os, time
pipe = open(os.environ["PIPE"], "w")
os.fork()
print("ready", file=pipe, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def pipe(monkeypatch, tmp_path):
    """Yields a file whose end is reached when no process with the pipe is left."""
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("PIPE", str(tmp_path / "pipe"))
    with open(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)) as opened:
        os.set_blocking(opened.fileno(), True)
        yield opened


def test_a_measurement_and_its_processes_end_at_the_limit(monkeypatch, pipe):
    stand_in(monkeypatch, WITH_A_CHILD)
    with pytest.raises(MeasurementFailed, match="stopped after 1 s"):
        measure(["step"], seconds=1.0)
    pipe.read()  # Returns when both have ended.


def test_a_measurement_that_is_stopped_keeps_its_log(monkeypatch):
    def stopped(command, *, env, timeout):
        raise subprocess.TimeoutExpired(command, timeout, stderr=b"x" * 5000 + b"\xff the end")

    monkeypatch.setattr(child, "run", stopped)
    with pytest.raises(MeasurementFailed, match="stopped after 7 s") as failed:
        measure(["step"], seconds=7.0)
    assert failed.value.log.endswith("\ufffd the end") and len(failed.value.log) == child.MAX_LOG


def test_programs_are_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv(child.CACHE, str(tmp_path))
    with child.compilation_cache(tmp_path / "given") as environment:
        assert environment == {}
    monkeypatch.delenv(child.CACHE)
    with child.compilation_cache(tmp_path / "given") as environment:
        assert environment == {child.CACHE: str(tmp_path / "given")}
    with child.compilation_cache() as environment:
        assert list(environment) == [child.CACHE] and os.path.isdir(environment[child.CACHE])
    assert not os.path.exists(environment[child.CACHE])


ALONE = WITH_A_CHILD.replace("os.fork()\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_measurement_ends_with_a_killed_parent(pipe):
    script = (
        "import os; from fsvfm_jax.benchmark import child;"
        f"child.run({[sys.executable, '-S', '-c', ALONE]}, env=os.environ, timeout=None)"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        select.select([pipe], [], [])
        assert pipe.readline() == "ready\n"
        process.kill()
    assert pipe.read() == ""  # Returns when the measurement has ended.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_processes_too(pipe, number):
    command = [sys.executable, "-S", "-c", WITH_A_CHILD]
    # A shell starts background commands with SIGINT ignored.
    script = (
        "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from fsvfm_jax import cli; from fsvfm_jax.benchmark import child;"
        f"cli.begin(stopped='stopped'); child.run({command}, env=os.environ, timeout=None)"
    )
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal; signal.signal(2, signal.default_int_handler)\n" + script,
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        select.select([pipe], [], [])
        process.send_signal(number)
        assert (process.stderr.read(), process.wait()) == ("stopped\n", 75)
    pipe.read()


@pytest.mark.e2e
def test_a_mistake_of_the_user_keeps_its_sentence_and_exit_code(tmp_path):
    with pytest.raises(MeasurementFailed, match="nothing") as failed:
        measure(["read", str(tmp_path / "nothing")])
    assert failed.value.exit_code == 65
