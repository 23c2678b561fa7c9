"""Tests which measurements are made, and in which order."""

import argparse

import pytest

from fsvfm_jax.benchmark import step_speed
from fsvfm_jax.benchmark.measurements import SETTINGS, SIZES, Size, measurements
from fsvfm_jax.config.checks import find_field
from fsvfm_jax.devices.backends import compiler_options

GPU = {
    "platform": "gpu",
    "device_kind": "NVIDIA H200",
    "device_count": 1,
    "has_cudnn_attention": True,
    "jax": "0.10.2",
    "jaxlib": "0.10.2",
}
TPU = GPU | {"platform": "tpu", "device_kind": "TPU v6e", "has_cudnn_attention": False}
CPU = GPU | {"platform": "cpu", "device_kind": "cpu", "has_cudnn_attention": False}


def plan(sizes=SIZES, fields=(), *, devices=GPU, data=(), **options):
    return list(measurements(sizes, fields, devices=devices, data=data, steps=3, **options))


def batch(measurement) -> int | None:
    flags = [x for x in measurement.arguments if x.startswith("--batch-size=")]
    return int(flags[0].partition("=")[2]) if flags else None


def test_the_most_valuable_measurements_come_first():
    data = ["--config.data.split=train"]
    found = plan(fields=["--config.seed=1"], data=data)
    first = [(x.size, x.kind) for x in found[:8]]
    steps = [(size, "step") for size in "SBL"] + [(size, "torch") for size in "SBL"]
    assert first == [*steps, ("B", "attention"), ("S", "real")]
    assert [x.name for x in found[8:13]] == [name for name, _ in SETTINGS["gpu"]]
    others = [(x.size, batch(x)) for x in found[13:]]
    assert others == [(x.name, n) for x in SIZES for n in x.batches[1:]]
    assert all("--config.seed=1" in x.arguments for x in found)
    assert [x.kind for x in found if data[0] in x.arguments] == ["real"]
    assert len({(x.size, x.name) for x in found}) == len(found)


def test_what_a_platform_does_not_have_is_left_out():
    assert not any(x.kind in ("torch", "attention") for x in plan(devices=TPU))
    assert [x.name for x in plan(devices=TPU) if x.kind == "setting"] == [
        name for name, _ in SETTINGS["tpu"]
    ]
    kinds = {x.kind for x in plan(devices=CPU)}
    assert kinds == {"step", "torch", "real"}


def test_a_batch_has_the_images_of_all_devices():
    one, eight = plan(), plan(devices=GPU | {"device_count": 8})
    for first, second in zip(one, eight, strict=True):
        if first.kind != "attention":
            assert batch(second) == batch(first) * (1 if first.kind == "torch" else 8)


def test_command_lines_are_those_of_the_benchmark():
    parser = argparse.ArgumentParser()
    step_speed.add_arguments(parser.add_subparsers().add_parser("step"))
    for found in plan(peak_tflops=789.5):
        if found.kind != "attention":
            args, rest = parser.parse_known_args([*found.arguments])
            assert args.batch_size in dict((x.name, x.batches) for x in SIZES)[found.size]
            assert all(x.startswith("--config") for x in rest)
            assert (args.steps, args.peak_tflops) == (3, 789.5)
            step_speed.check_arguments(argparse.Namespace(**vars(args) | {"framework": "jax"}))


def test_one_config_keeps_its_batch():
    eight = GPU | {"device_count": 8}
    found = plan([Size("mine", "mine.py", (4,))], devices=eight)
    assert {x.size for x in found} == {"mine"}
    assert {x.kind: batch(x) for x in found if batch(x)} == {
        **dict.fromkeys(("step", "real", "setting"), 32),
        "torch": 4,
    }


def test_a_setting_that_is_given_is_not_changed():
    given = "--config.compiler_options={'xla_gpu_autotune_level': 0}"
    names = [x.name for x in plan(fields=[given]) if x.kind == "setting"]
    assert names == ["attention by XLA", "blocks in a loop"]


@pytest.mark.parametrize(("name", "field"), SETTINGS["gpu"] + SETTINGS["tpu"])
def test_a_setting_changes_a_field_of_every_config(name, field):
    from configs import vit_b

    path, _, value = field.removeprefix("--config.").partition("=")
    section, key = find_field(vit_b.get_config(), path)
    assert key in section and value
    if value.startswith("{'"):
        changed = dict(eval(value))
        assert changed.keys() >= compiler_options("gpu").keys()
