"""Tests which measurements are made, and in which order."""

import argparse

import pytest

from fsvfm_jax.benchmark import step_speed
from fsvfm_jax.benchmark.variants import CANDIDATES, SIZES, Size, measurements
from fsvfm_jax.config.checks import find_field
from fsvfm_jax.devices.backends import compiler_options


def test_the_most_valuable_measurements_come_first():
    data = ["--config.data.split=train"]
    found = list(measurements(SIZES, ["--config.seed=1"], data=data, steps=3))
    first = [(x.size, x.kind) for x in found[:8]]
    steps = [(size, "step") for size in "SBL"] + [(size, "torch") for size in "SBL"]
    assert first == [*steps, ("B", "attention"), ("S", "real")]
    assert [x.name for x in found[8:13]] == [name for name, _ in CANDIDATES]
    others = [(x.size, x.arguments[3]) for x in found[13:]]
    assert others == [(x.name, f"--batch-size={n}") for x in SIZES for n in x.batches[1:]]
    assert all("--config.seed=1" in x.arguments for x in found)
    assert [x.kind for x in found if data[0] in x.arguments] == ["real"]
    assert len({x.arguments for x in found}) == len(found)


def test_command_lines_are_those_of_the_benchmark():
    parser = argparse.ArgumentParser()
    step_speed.add_arguments(parser.add_subparsers().add_parser("step"))
    for found in measurements(SIZES, [], data=[], steps=3):
        if found.kind != "attention":
            args, rest = parser.parse_known_args([*found.arguments])
            assert args.batch_size in dict((x.name, x.batches) for x in SIZES)[found.size]
            assert all(x.startswith("--config") for x in rest)
            assert args.steps == 3
            step_speed.check_arguments(argparse.Namespace(**vars(args) | {"framework": "jax"}))


def test_one_config_keeps_its_batch():
    found = list(measurements([Size("mine", "mine.py", (None,))], [], data=[], steps=3))
    assert {x.size for x in found} == {"mine"}
    assert not any("--batch-size" in argument for x in found for argument in x.arguments)


@pytest.mark.parametrize(("name", "field"), CANDIDATES)
def test_a_candidate_changes_a_field_of_every_config(name, field):
    from configs import vit_b

    path, _, value = field.removeprefix("--config.").partition("=")
    section, key = find_field(vit_b.get_config(), path)
    assert key in section and value
    if value.startswith("{'"):
        changed = dict(eval(value))
        assert changed.keys() >= compiler_options("gpu").keys()
