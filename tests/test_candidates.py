"""Tests the candidates of `plan --compare`: how values are read, and which are refused."""

import jax
import pytest

from configs import vit_s
from fsvfm_jax.devices.backends import compiler_options
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.plan import candidates
from fsvfm_jax.plan.candidates import make_candidates, read_choices


def choices(*arguments: str) -> dict:
    return read_choices(arguments, vit_s.get_config("smoke"))


def made(*arguments: str, changes: dict | None = None) -> list[candidates.Candidate]:
    config = vit_s.get_config("smoke")
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(changes or {})
    return make_candidates(config, read_choices(arguments, config), jax.devices())


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("model.unroll=1,12", [1, 12]),
        ("model.attention=None,xla", [None, "xla"]),
        ("model.attention= xla , 'xla'", ["xla", "xla"]),
        ("accum_steps=1,auto", [1, "auto"]),
        ("mesh.data=-1", [-1]),
        ("optimizer.betas=(0.9,0.95),[0.9,0.999]", [(0.9, 0.95), [0.9, 0.999]]),
        ("init.params='a,b',\"c)\",d", ["a,b", "c)", "d"]),
        ("loss.norm_pix=True,False", [True, False]),
        ("compiler_options={'xla_a': 1, 'xla_b': 2},None", [{"xla_a": 1, "xla_b": 2}, None]),
        ("compiler_options.xla_gpu_enable_triton_gemm=True,False", [True, False]),
        ("data.split=a=b", ["a=b"]),
    ],
)
def test_values_are_literals_or_text(argument, values):
    assert choices(argument) == {argument.partition("=")[0]: values}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.unroll"], "model.unroll has no values: write FIELD=a,b"),
        (["unroll=1"], "unroll is no field of this config; did you mean model.unroll?"),
        (["model.unrol=1"], "did you mean 'model.unroll'?"),
        (["model=1"], "model is no field"),
        (["=1"], "an empty name is no field"),
        (["compiler_options.=1"], "is no field"),
        (["compiler_options.xla.a=1"], "is no field"),
        (["model.unroll=", "batch_size=1"], "model.unroll= has an empty value"),
        (["model.unroll=1,,2"], "has an empty value"),
        (["optimizer.betas=(0.9,0.95"], "has no closing )"),
        (["init.params='a"], "has no closing '"),
        (["model.unroll=1", "model.unroll=2"], "names model.unroll twice"),
        ([f"seed={','.join('7' * 1001)}"], "gives 1,001 candidates, more than 1,000"),
        (["x" * 10_000 + "=1"], "is no field"),
    ],
)
def test_a_mistake_is_one_short_sentence(arguments, message):
    with pytest.raises(ConfigError) as caught:
        choices(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2000


def test_every_combination_is_a_candidate():
    found = made("model.unroll=1,2", "batch_size=16,32")
    assert [one.fields for one in found] == [
        {"model.unroll": unroll, "batch_size": size} for unroll in (1, 2) for size in (16, 32)
    ]
    assert [(one.config.model.unroll, one.config.batch_size) for one in found] == [
        (1, 16),
        (1, 32),
        (2, 16),
        (2, 32),
    ]
    assert found[0].label == "model.unroll=1 batch_size=16"
    # What is not compared has the settings of the devices.
    assert all(one.config.model.attention == "xla" for one in found)


def test_an_option_is_added_to_those_of_the_config_or_the_devices(monkeypatch):
    argument = "compiler_options.xla_b=True,0.5"
    of_config = made(argument, changes={"compiler_options": {"xla_a": 1}})
    assert [one.config.compiler_options.to_dict() for one in of_config] == [
        {"xla_a": 1, "xla_b": True},
        {"xla_a": 1, "xla_b": 0.5},
    ]
    monkeypatch.setattr(candidates, "compiler_options", lambda kind: compiler_options("gpu"))
    of_device = made(argument)[0].config.compiler_options.to_dict()
    assert of_device == compiler_options("gpu") | {"xla_b": True}
    whole = made("compiler_options.xla_b=True", "compiler_options={'xla_a':1},None")
    assert whole[0].config.compiler_options.to_dict() == {"xla_a": 1, "xla_b": True}


def test_a_value_that_never_fits_refuses_all_and_every_reason_is_reported():
    with pytest.raises(ConfigError) as caught:
        made("model.remat=none,some", "batch_size=12,16", "model.unroll=1,2")
    text = str(caught.value)
    assert text.startswith("6 of 8 candidates are refused, and none was compiled: ")
    assert "config.model.remat = 'some'" in text and "multiple of 8" in text
    assert "(in 2, such as model.remat=none batch_size=12 model.unroll=1)" in text
    assert "(in 4, such as model.remat=some batch_size=12 model.unroll=1)" in text


def test_values_that_do_not_suit_each_other_refuse_one_candidate():
    found = made("batch_size=8,16", "accum_steps=1,2")
    assert [one.config is None for one in found] == [False, True, False, False]
    assert "multiple of" in found[1].refusal and found[0].refusal is None


@pytest.mark.parametrize(
    "argument",
    [
        "batch_size='many'",
        "batch_size=1e999",
        "seed={1,2}",
        "seed=b'1'",
        "model.dtype=...",
        "compiler_options=3",
        "compiler_options.xla_a=None",
        "compiler_options.xla_a=(1,2)",
        "model.attention=cudnn",
        "seed=" + "(" * 150 + ")" * 150,
    ],
)
def test_a_value_of_another_kind_is_refused(argument):
    with pytest.raises(ConfigError, match="1 of 1 candidates are refused"):
        made(argument)
