"""Tests measurements in processes of their own: results, failures, crashes and time limits."""

import sys

import pytest

from fsvfm_jax.benchmark import measurements
from fsvfm_jax.benchmark.measurements import MeasurementFailed, measure


def stand_in(monkeypatch, script: str) -> None:
    """Lets a script take the place of the command."""
    run = measurements.subprocess.run
    monkeypatch.setattr(
        measurements.subprocess,
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
    threads = str(measurements.available_cores())
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
        ("import os; os.kill(os.getpid(), 9)", "the process was ended by SIGKILL", 70),
        ("import sys; sys.exit(3)", "the process ended with exit code 3", 3),
        ("print('no record')", "it printed no record", 70),
        ("pass", "it printed no record", 70),
    ],
)
def test_a_failure_is_one_sentence(monkeypatch, script, sentence, code):
    stand_in(monkeypatch, script)
    with pytest.raises(MeasurementFailed, match=sentence) as failed:
        measure(["step"])
    assert failed.value.exit_code == code and "error:" not in str(failed.value)


def test_a_measurement_ends_at_its_limit(monkeypatch):
    stand_in(monkeypatch, "import time; time.sleep(1000)")
    with pytest.raises(MeasurementFailed, match="stopped after 1 s"):
        measure(["step"], seconds=1.0)


@pytest.mark.e2e
def test_a_mistake_of_the_user_keeps_its_sentence_and_exit_code(tmp_path):
    with pytest.raises(MeasurementFailed, match="nothing") as failed:
        measure(["read", str(tmp_path / "nothing")])
    assert failed.value.exit_code == 65
