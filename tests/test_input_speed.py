"""Tests the report of the input benchmark, but not any speed."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from fsvfm_jax.benchmark import input_speed

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def measured(fork_server, tmp_path_factory):
    """Measures two encodings of tiny faces, with threads and with a worker."""
    output = tmp_path_factory.mktemp("out") / "a.jsonl"
    done = fork_server.run(
        *("fsvfm_jax.benchmark", "input"),
        *("--image-size", "32", "--patch-size", "8", "--batch-size", "16", "--seconds", "0.1"),
        *("--encodings", "jpeg", "raw", "--workers", "0", "1", "--step-rate", "1000"),
        f"--output={output}",
    )
    assert done.returncode == 0, done.stderr
    assert output.read_text() == done.stdout
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_every_encoding_is_measured_with_every_number_of_workers(measured):
    record, said = measured
    assert list(record["encodings"]) == ["jpeg", "raw"]
    for of in record["encodings"].values():
        assert [row["workers"] for row in of["rates"]] == [0, 1]
        for row in of["rates"]:
            assert 0 < row["images_per_second"] < 1100
            assert 0 < row["trainer_cpu_us_per_image"] <= row["cpu_us_per_image"]
            assert row["loss"] == pytest.approx(1 - row["images_per_second"] / 1000)
        assert all(of["stages_us"][stage] > 0 for stage in input_speed.STAGES)
    assert record["command"].startswith("python -m fsvfm_jax.benchmark input --image-size 32")
    table = [line for line in said.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + 4 + 1 + len(input_speed.STAGES) + 2


def test_a_stand_in_for_the_network_takes_its_time_and_no_more(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def batches(seconds):
        while True:
            now[0] += seconds
            yield {"image": np.zeros((10, 1))}

    for reading, expected in ((0.5, 1.0), (3.0, 3.0)):  # A batch takes 1 s at 10 images/s.
        steps = input_speed._steps(batches(reading), to_device=False, step_rate=10.0)
        for _ in range(3):
            next(steps)
        began = now[0]
        for _ in range(5):
            next(steps)
        assert (now[0] - began) / 5 == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--seconds", "0"], 78, "--seconds is 0.0; give above 0"),
        (["--step-rate", "0"], 78, "--step-rate is 0; it must be above 0"),
        (["--workers", "2", "-1"], 78, "--workers is -1; it must be at least 0"),
        (["--patch-size", "9"], 78, "--patch-size 9 does not divide 224"),
        (["--encodings", "gif"], 78, "invalid choice: 'gif'"),
        (["--tree", "nowhere"], 65, "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(fork_server, arguments, code, message):
    done = fork_server.run("fsvfm_jax.benchmark", "input", *arguments)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
