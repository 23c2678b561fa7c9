"""Tests bound and estimate."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.plan.chips import CHIPS, Chip
from fsvfm_jax.plan.roofline import (
    Efficiency,
    Roofline,
    assumed_efficiency,
    measured_efficiency,
    predict,
    read_benchmark,
    roofline,
)

CHIP = Chip("x1", ("X 1",), 100e12, 10**10, 1e12, 50e9)
MODEL = {"width": 384, "depth": 12}
BENCHMARK = {"mfu": 0.4, "device_kind": "X 1", "model": MODEL}


@pytest.mark.parametrize(
    ("flops", "traffic", "sent", "limit", "bound"),
    [
        (4 * 10**12, 10**10, 1e9, "compute", 0.04),
        (10**12, 3 * 10**10, 1e9, "memory", 0.03),
        (10**12, 10**10, 4e9, "interconnect", 0.08),
    ],
)
def test_the_bound_is_the_longest(flops, traffic, sent, limit, bound):
    roof = roofline(CHIP, flops=flops, traffic=traffic, sent=sent)
    assert roof == Roofline(flops / 100e12, traffic / 1e12, sent / 50e9)
    assert (roof.limit, roof.bound) == (limit, pytest.approx(bound))


def test_the_network_between_nodes_may_be_the_limit():
    chip = CHIP._replace(network_bandwidth=5e9)
    roof = roofline(chip, flops=10**12, traffic=10**10, sent=1e9, sent_between_nodes=5e8)
    assert (roof.limit, roof.bound) == ("network", pytest.approx(0.1))
    # The links within a node carry the other half.
    assert roof.interconnect == pytest.approx(5e8 / 50e9)
    # The chips of a TPU slice have no other network.
    assert roofline(CHIP, flops=1, traffic=1, sent=1.0, sent_between_nodes=5e8).network == 0


@given(
    st.floats(0.01, 1.0),
    st.floats(1e-3, 10.0),
    st.floats(0.0, 10.0),
)
def test_an_estimate_has_the_measured_mfu_or_that_of_the_bound(mfu, compute, memory):
    roof = Roofline(compute, memory, 0.0)
    efficiency = measured_efficiency(roof, BENCHMARK | {"mfu": mfu}, chip=CHIP, model=MODEL)
    plan = predict(roof, efficiency, batch_size=64, total_steps=10, num_devices=2, price=None)
    assert plan["estimate"]["mfu"] == pytest.approx(min(mfu, plan["bound"]["mfu"]))
    assert plan["estimate"]["step_seconds"] >= roof.bound * (1 - 1e-9)
    assert plan["estimate"]["step_seconds"] == pytest.approx(roof.bound / efficiency.value)


def test_how_sure_an_estimate_is():
    roof = Roofline(1.0, 0.5, 0.1)
    assert assumed_efficiency() == Efficiency(0.35, "assumed 0.35", 0.25)
    measured = measured_efficiency(roof, BENCHMARK, chip=CHIP, model=MODEL)
    assert measured == Efficiency(0.4, "measured on X 1: MFU 40.0%", 0.1)
    # The options of the papers' network may be given or not.
    for model in (MODEL | {"registers": None}, MODEL | {"registers": 0, "pre_norm": False}):
        assert measured_efficiency(roof, BENCHMARK, chip=CHIP, model=model) == measured
    others = (MODEL | {"depth": 24}, MODEL | {"registers": 4})
    for chip, model in ((CHIPS["v5e"], MODEL), *((CHIP, model) for model in others)):
        other = measured_efficiency(roof, BENCHMARK, chip=chip, model=model)
        assert other.spread == 0.25 and "another chip or model" in other.source


def test_hours_and_cost():
    plan = predict(
        Roofline(0.7, 0.35, 0.1),
        assumed_efficiency(),
        batch_size=4096,
        total_steps=3600,
        num_devices=256,
        price=1.5,
    )
    assert plan["bound"]["hours"] == pytest.approx(0.7)
    assert plan["bound"]["images_per_second"] == pytest.approx(4096 / 0.7)
    assert plan["bound"]["mfu"] == 1.0
    estimate = plan["estimate"]
    assert estimate["hours"] == pytest.approx(2.0)
    assert estimate["mfu"] == pytest.approx(0.35)
    assert estimate["hours_range"] == pytest.approx([1.5, 2.5])
    assert estimate["cost_range"] == pytest.approx([256 * 1.5 * 1.5, 256 * 1.5 * 2.5])
    assert json.loads(json.dumps(plan)) == plan


def test_the_last_line_of_a_benchmark_counts(tmp_path):
    path = tmp_path / "benchmark.json"
    named = {"framework": "jax", "task": "pretrain"}
    for names in ({}, named):
        lines = [json.dumps(BENCHMARK | names | {"mfu": mfu}) for mfu in (0.1, 0.3)]
        path.write_text("\n".join(lines))
        assert read_benchmark(str(path))["mfu"] == 0.3


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", DataError, "benchmark step"),
        ("fast", DataError, "benchmark step"),
        ("[1]", DataError, "benchmark step"),
        ('{"mfu": 0.3}', DataError, "device_kind"),
        ('{"mfu": null, "device_kind": "cpu"}', ConfigError, "--peak-tflops"),
        ('{"mfu": 7, "device_kind": "cpu"}', ConfigError, "is 7"),
        ('{"mfu": NaN, "device_kind": "cpu"}', ConfigError, "is nan"),
        (
            '{"mfu": 0.3, "device_kind": "cpu", "framework": "torch"}',
            *(ConfigError, "framework = 'torch', and a plan needs 'jax'"),
        ),
        (
            '{"mfu": 0.3, "device_kind": "cpu", "framework": "jax", "task": "finetune"}',
            *(ConfigError, "task = 'finetune', and a plan needs 'pretrain'"),
        ),
        ('{"mfu": 0.3, "device_kind": "cpu", "task": 3}', DataError, "benchmark step"),
        ('{"mfu": "0.3", "device_kind": "cpu"}', DataError, "benchmark step"),
        ('{"mfu": 0.3, "device_kind": ["cpu"]}', DataError, "benchmark step"),
        ('{"mfu": 0.3, "device_kind": "cpu", "model": 3}', DataError, "benchmark step"),
        ("[" * 100_000, DataError, "nested too deeply"),
        ("null", DataError, "benchmark step"),
        (None, DataError, "benchmark.json"),
    ],
)
def test_what_is_no_benchmark(tmp_path, text, error, message):
    path = tmp_path / "benchmark.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=message):
        read_benchmark(str(path))


def test_a_benchmark_that_is_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(DataError, match="it is a named pipe"):
        read_benchmark(str(tmp_path / "x"))
