"""Tests the times of a step, but not any speed."""

from argparse import Namespace

import jax.numpy as jnp
import pytest

from fsvfm_jax.benchmark import step_times
from fsvfm_jax.errors import NotFiniteError


def test_step_times_of_a_worked_example():
    times = step_times.step_times_ms([0.4, 0.1, 1.0, 0.3, 0.2])
    expected = {"median": 300, "mean": 400, "p10": 140, "p90": 760, "spread": 620}
    assert times == pytest.approx(expected)


def test_the_peak_is_the_flag_before_the_datasheet():
    assert step_times.find_peak("NVIDIA H200", None) == (989, "datasheet")
    assert step_times.find_peak("NVIDIA H200", 790.0) == (790, "--peak-tflops")
    assert step_times.find_peak("cpu", None) == (None, None)


def test_a_step_is_handed_over_before_the_last_one_is_waited_for():
    events = []

    def train_step(state, batch, values):
        assert values.learning_rate > 0
        events.append(("step", state, batch))
        return state + 1, {"loss": jnp.array(state)}

    running = step_times.run_steps(train_step, 0, iter("abcd"))
    for metrics in running:
        events.append(("ended", int(metrics["loss"])))
    assert events == [
        ("step", 0, "a"),
        ("step", 1, "b"),
        ("ended", 0),
        ("step", 2, "c"),
        ("ended", 1),
        ("step", 3, "d"),
        ("ended", 2),
    ]


def test_the_time_of_a_step_is_from_end_to_end_after_the_warm_up(monkeypatch):
    clock = Namespace(now=0.0)
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: clock.now)

    def running():
        for duration in (100, 50, 10, 1, 2, 3, 1000):
            clock.now += duration
            yield

    # Two steps warm up, and the time starts at the end of the third.
    assert step_times.time_steps(running(), steps=3, warmup=2) == [1, 2, 3]


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_network_that_diverged_gives_no_times(name):
    metrics = {"loss": jnp.ones(()), "grad_norm": jnp.ones(())}
    assert step_times.checked_loss(metrics) == 1
    with pytest.raises(NotFiniteError, match=f"{name} is nan"):
        step_times.checked_loss(metrics | {name: jnp.array(jnp.nan)})
