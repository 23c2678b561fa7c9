"""Tests plans for eight devices of the CPU, and the command."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import jax
import pytest
from commands import ForkServer
from jax.errors import JaxRuntimeError
from random_weights import describe, encoder_params

from configs import vit_l, vit_s
from fsvfm_jax.benchmark.step_times import conditions
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.convert.folder import write_folder
from fsvfm_jax.convert.warm_start import with_options
from fsvfm_jax.devices.memory import GIB, Memory
from fsvfm_jax.errors import ConfigError, UserError
from fsvfm_jax.models import build
from fsvfm_jax.plan import estimate
from fsvfm_jax.plan.__main__ import _set_up_jax
from fsvfm_jax.plan.chips import CHIPS
from fsvfm_jax.plan.estimate import Target, make_plan, summary
from fsvfm_jax.plan.flops import training_flops_per_image
from fsvfm_jax.plan.results import BEGINNING
from fsvfm_jax.plan.topology import topology_devices

ROOT = Path(__file__).parent.parent
H200 = CHIPS["h200"]
TINY = {
    "batch_size": 16,
    "model.image_size": 32,
    "model.width": 32,
    "model.depth": 2,
    "model.decoder_width": 32,
    "model.decoder_depth": 1,
}


def tiny_config(changes: dict | None = None):
    config = vit_s.get_config("smoke")
    config.update_from_flattened_dict(TINY | (changes or {}))
    return config


@pytest.fixture(scope="module")
def plan() -> dict:
    target = Target(jax.devices(), H200, num_samples=1600, price=2.0)
    return make_plan(tiny_config(), target)


@pytest.mark.e2e
def test_a_plan_says_what_a_run_is(plan):
    config = resolve(tiny_config())
    assert plan["chip"] == "h200" and plan["devices"] == 8
    assert plan["mesh"] == {"data": 8, "fsdp": 1}
    assert plan["images_per_device"] == 2
    assert plan["total_steps"] == config.epochs * 1600 / 16
    flops = training_flops_per_image(build(config.model), config.mask.mask_ratio).total
    assert plan["flops_per_image"] == flops
    assert plan["bound"]["compute_seconds"] == pytest.approx(2 * flops / 989e12)
    assert plan["autotuned"] is True
    assert json.loads(json.dumps(plan)) == plan


@pytest.mark.e2e
def test_data_parallel_training_only_reduces(plan):
    assert {row["kind"] for row in plan["collectives"]} == {"all-reduce"}
    memory = plan["memory"]
    assert plan["fits"] is True and plan["change"] is None
    assert plan["state_bytes"] < memory["argument"] < memory["total"] < memory["available"]
    # At least the state is read and written, and each of its arrays is at least once in a kernel.
    assert plan["moved_bytes"] > memory["argument"] + memory["output"] - memory["code"]
    assert plan["kernels"] > 100
    seconds = plan["moved_bytes"] / H200.hbm_bandwidth
    assert plan["bound"]["memory_seconds"] == pytest.approx(seconds)
    assert plan["mfu_bound"] == plan["bound"]["mfu"]


@pytest.mark.e2e
def test_the_estimate_is_the_bound_over_the_efficiency(plan):
    bound, estimate = plan["bound"], plan["estimate"]
    times = [bound[f"{name}_seconds"] for name in ("compute", "memory", "interconnect")]
    assert bound["step_seconds"] == max(times)
    assert estimate["efficiency_source"] == "assumed 0.35"
    assert estimate["step_seconds"] == pytest.approx(bound["step_seconds"] / 0.35)
    hours = plan["total_steps"] * estimate["step_seconds"] / 3600
    assert estimate["cost_range"] == pytest.approx([8 * 2 * hours * 0.75, 8 * 2 * hours * 1.25])


@pytest.mark.e2e
def test_the_summary_says_for_how_many_images_hours_and_cost_are(plan):
    header = {"config": "configs/vit_s.py:smoke", "topology": "h200:8"}
    text = summary(header | plan)
    assert f"recipe: {plan['total_steps']:,} steps over 1,600 images (--num-samples) in" in text
    refused = summary(header | plan | {"fits": False})
    assert "none of the changes that were tried (of model.remat, mesh.fsdp and" in refused


@pytest.mark.slow  # test_changes.py has the choice of the change
def test_what_does_not_fit_gets_a_change_that_does(plan):
    available = plan["memory"]["total"] - 1
    target = Target(jax.devices(), H200._replace(hbm_bytes=available))
    refused = make_plan(tiny_config(), target)
    assert refused["fits"] is False
    change = refused["change"]
    assert change["fits"] is True and change["memory"]["total"] <= available
    assert change["fields"]
    text = summary({"config": "configs/vit_s.py:smoke", "topology": "h200:8"} | refused)
    assert "DOES NOT FIT" in text and "autotuned" not in text
    assert f"{refused['kernels']:,} kernels" in text
    assert f"it fits with {estimate.as_flags(change['fields'])}" in text


def test_the_plan_is_that_of_the_starting_weights_network(tmp_path, monkeypatch, caplog):
    options = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "num_heads": 4}
    options["registers"] = 3
    write_folder(tmp_path / "x", encoder_params(options), describe(options))
    found = []

    def described(config, target):
        found.append(config.model.registers)
        return {"fits": True}

    monkeypatch.setattr(estimate, "describe", described)
    for weights in ("x", "gone"):
        config = tiny_config({"init.params": str(tmp_path / weights)})
        make_plan(config, Target(jax.devices(), H200))
    assert found == [3, 0]
    assert "gone' does not exist here" in caplog.text


@pytest.mark.e2e  # for the fixture
def test_a_measurement_of_the_same_network_is_recognised(plan):
    config = resolve(tiny_config())
    record = conditions(config, device_kind=H200.device_kinds[0], device_count=1, steps=1, warmup=0)
    target = Target(jax.devices(), H200, benchmark=record | {"mfu": 0.3})
    planned = with_options(config, None)
    found = estimate._predict(planned, target, plan=plan, exchanged=[], nodes=[0] * 8)
    source = found["estimate"]["efficiency_source"]
    assert source.startswith("measured") and "another" not in source


def test_a_compiler_that_fails_ends_a_plan_in_one_sentence(monkeypatch):
    def fail(config, target):
        raise JaxRuntimeError("INTERNAL: a\nb" + "c" * 1000)

    monkeypatch.setattr(estimate, "describe", fail)
    with pytest.raises(UserError, match=r"the compiler fails .*INTERNAL: a bccc") as raised:
        make_plan(tiny_config(), Target(jax.devices(), H200))
    assert len(str(raised.value)) < 500


def test_a_loop_of_unknown_length_is_named(caplog):
    step = jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 10, lambda x: x * 2, x))
    estimate._parse(step.lower(1.0).compile())
    assert "these loops run, so each is counted once: while" in caplog.text


@pytest.mark.parametrize("error", [JaxRuntimeError("INTERNAL: no"), ConfigError("no")])
def test_a_change_that_cannot_be_compiled_keeps_the_plan(monkeypatch, caplog, error):
    too_large = Memory(0, 0, 0, 0, 0, 20 * GIB, 16 * GIB)
    refused = {
        **{"fits": False, "memory": too_large._asdict(), "state_bytes": 2 * GIB},
        **{"images_per_device": 2, "accum_steps": 1, "mesh": {"data": 8, "fsdp": 1}},
    }

    def described(config, target):
        if config.model.remat == "dots":
            raise error
        return refused | {"fits": config.model.remat == "full"}

    monkeypatch.setattr(estimate, "describe", described)
    plan = make_plan(tiny_config(), Target(jax.devices(), H200))
    assert plan["fits"] is False and plan["change"]["fields"] == {"model.remat": "full"}
    assert "--config.model.remat=dots cannot be compiled" in caplog.text


def test_an_uneven_batch_is_refused():
    with pytest.raises(ConfigError, match="multiple of 8"):
        make_plan(tiny_config({"batch_size": 12}), Target(jax.devices(), H200))


def run(
    server: ForkServer, *arguments: str, config: str = "configs/vit_s.py:smoke"
) -> subprocess.CompletedProcess:
    return server.run("fsvfm_jax.plan", f"--config={config}", *arguments)


@pytest.mark.e2e
def test_the_command_prints_and_writes(fork_server, tmp_path):
    output = tmp_path / "plan.json"
    fields = [f"--config.{name}={value}" for name, value in TINY.items()]
    result = run(
        fork_server, "--topology=cpu:4", "--config.mesh.fsdp=2", f"--output={output}", *fields
    )
    assert result.returncode == 0, result.stderr
    plan = json.loads(output.read_text())
    assert plan["mesh"] == {"data": 2, "fsdp": 2}
    assert plan["config"] == "configs/vit_s.py:smoke" and plan["topology"] == "cpu:4"
    assert "--topology=cpu:4" in plan["command"]
    assert plan["versions"]["jax"] == jax.__version__
    # There is no estimate for a CPU.
    assert plan["fits"] is plan["bound"] is plan["estimate"] is None
    gathers = [row for row in plan["collectives"] if row["kind"] == "all-gather"]
    assert any(row["in_loop"] for row in gathers)
    for text in (
        *("16 = 4 devices x 4 images x 1, mesh 2 x 2", "all-gather in loops: ", "GFLOP"),
        "\nthe available memory is unknown; GiB per device: ",
    ):
        assert text in result.stdout, text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--topology=v5e:5x5"], 78, "error: --topology=v5e:5x5 is no slice"),
        (["--topology=cpu:8", "--price=-1"], 78, "error: argument --price: -1 is no number above"),
        (["--topology=cpu:8", "--price=abc"], 78, "error: argument --price: abc is no number"),
        (["--topology=cpu:8", "--price=inf"], 78, "error: argument --price: inf is no number"),
        (
            ["--topology=cpu:8", f"--num-samples=1{'0' * 400}"],
            *(78, f"error: argument --num-samples: 1{'0' * 199}... is no whole number from 1 to"),
        ),
        (
            ["--topology=cpu:8", "--price=2"],
            *(78, "error: --price has no effect, because the speed of --topology=cpu:8"),
        ),
        (["--topology=cpu:²"], 78, "error: --topology=cpu:² gives no number of devices"),
        (["--topology=cpu:8", "--output=/nowhere/plan.json"], 73, "error: /nowhere/plan.json"),
    ],
)
def test_a_mistake_ends_in_one_sentence(fork_server, arguments, code, message):
    result = run(fork_server, *arguments)
    assert result.returncode == code
    assert result.stderr.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("topology", "updates"),
    [
        ("cpu:4", {"jax_platforms": "cpu", "jax_num_cpu_devices": 4}),
        ("cpu:1025", {"jax_platforms": "cpu"}),
        ("h200:8", {"jax_platforms": "cpu"}),
        ("gpu", {}),
    ],
)
def test_only_a_topology_of_cpus_creates_devices(monkeypatch, topology, updates):
    found = {}
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    _set_up_jax(topology)
    assert found == updates


@pytest.mark.parametrize("compared", [[], ["--compare", "seed=1"]])
@pytest.mark.parametrize(
    ("config", "task"),
    [("configs/finetune/dfd.py", "finetune"), ("configs/eval/dfd.py:smoke", "evaluate")],
)
def test_another_task_is_refused(fork_server, config, task, compared):
    result = run(fork_server, "--topology=cpu:1", *compared, config=config)
    assert result.returncode == 78
    assert result.stderr.strip().splitlines() == [
        f"error: plan compiles pretraining only, and config.task is '{task}': give a pretraining"
        " config, such as configs/vit_b.py"
    ]


@pytest.mark.e2e
def test_an_output_that_is_no_plan_is_refused_before_the_work(fork_server, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "results.jsonl").write_bytes(BEGINNING + b"a")
    for name, code, message in (
        ("pipe", 73, "pipe cannot be written (it is a named pipe"),
        ("results.jsonl", 65, "results.jsonl has results of --compare"),
        (".", 73, "cannot be written (it is a folder"),
    ):
        result = run(fork_server, "--topology=cpu:1", f"--output={tmp_path / name}")
        assert result.returncode == code, result.stderr
        assert message in result.stderr and "Traceback" not in result.stderr
    assert (tmp_path / "results.jsonl").read_bytes() == BEGINNING + b"a"


@pytest.mark.e2e
def test_a_plan_that_fails_leaves_the_file_as_it_is(fork_server, tmp_path):
    output = tmp_path / "plan.json"
    output.write_text("the plan before")
    result = run(fork_server, "--topology=cpu:8", "--config.batch_size=12", f"--output={output}")
    assert result.returncode == 78, result.stderr
    assert output.read_text() == "the plan before"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install '.[plan]'"
)
def test_vit_l_for_256_chips():
    config = vit_l.get_config()
    devices, chip = topology_devices("v5e:16x16")
    plan = make_plan(config, Target(devices, chip))
    assert plan["devices"] == 256 and plan["images_per_device"] == 16
    assert plan["fits"] is True and plan["autotuned"] is True
    assert plan["compile_seconds"] < 300
    assert {row["kind"] for row in plan["collectives"]} == {"all-reduce"}
    assert 0.2 < plan["bound"]["mfu"] < 1
