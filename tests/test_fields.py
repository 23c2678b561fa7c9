"""Tests that the tables have the configs' fields, and that no value causes a traceback."""

import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from fsvfm_jax.config.downstream_fields import (
    EVALUATION,
    FINETUNING,
    OF_LAYOUTS,
    RENDERED,
    set_fields,
)
from fsvfm_jax.config.fields import PRETRAINING, TASK_NAMES
from fsvfm_jax.config.resolve import resolve, to_json
from fsvfm_jax.errors import ConfigError

CONFIGS = Path(__file__).parent.parent / "configs"
TABLES = dict(zip(TASK_NAMES, (PRETRAINING, FINETUNING, EVALUATION), strict=True))
SHARED = {"arguments", "common", "comparison", "evaluation", "face_sets", "offline", "sets"}
SHARED |= {"spoofing", "transfer"}
NAMES = [
    ".".join(path.relative_to(CONFIGS).with_suffix("").parts)
    for path in sorted(CONFIGS.rglob("*.py"))
    if path.parent.name != "compare" and (path.parent != CONFIGS or path.stem not in SHARED)
]
BY_TASK = {"pretrain": "vit_s", "finetune": "finetune.dfd", "evaluate": "eval.rendered"}


def get_config(name: str, arg: str = "smoke") -> ConfigDict:
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    if config.task == "evaluate":
        config.init.params = "RUN"
    return config


def paths(section: ConfigDict, table, prefix: str = "") -> set[str]:
    """Returns the paths of all fields; a set of faces is one field."""
    found = set()
    for name, value in section.items():
        if isinstance(value, ConfigDict) and prefix + name not in table:
            found |= paths(value, table, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def put(config: ConfigDict, path: str, value) -> None:
    *sections, name = path.split(".")
    for one in sections:
        config = config[one]
    with config.unlocked():
        # The field is deleted first, since ConfigDict converts a value to the type of the old one.
        if name in config:
            del config[name]
        config[name] = value


@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_every_config_file_is_in_its_table_and_no_other(name):
    for arg in ("", "smoke"):
        config = get_config(name, arg)
        table = TABLES[config.task]
        assert paths(config, table) == set(table)
        for kind in ("train", "val", "test"):
            for one in config.data.get(kind, {}).values():
                known = set_fields(one.layout).keys()
                assert known <= set(one) <= known | (OF_LAYOUTS.keys() - {RENDERED}), name


def test_every_field_has_a_meaning():
    for table in TABLES.values():
        for path, field in table.items():
            assert len(field.meaning) > 8 and field.meaning[0] != " ", path


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([31, 63, 64, 1300, 16_000]).map(lambda bits: 2**bits)
    | st.floats()
    | st.sampled_from(["1", "auto", "full", "student", "real", ""])
    | st.text(max_size=20)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "data", "layout"]), inner, max_size=2)
    ),
    max_leaves=5,
)
PLACES = [(task, path) for task, table in TABLES.items() for path in table]
SECTIONS = [
    (task, section)
    for task, table in TABLES.items()
    for section in sorted({path.split(".")[0] for path in table if "." in path})
]


@settings(max_examples=250)
@given(st.sampled_from([*PLACES, *SECTIONS]), VALUES)
def test_any_value_in_any_field_resolves_or_is_one_sentence(place, value):
    task, path = place
    config = get_config(BY_TASK[task])
    put(config, path, value)
    resolve_or_refuse(config)


@settings(max_examples=200)
@given(
    st.sampled_from(["vit_s", "finetune.dfd", "eval.rendered"]),
    st.lists(st.tuples(st.sampled_from(["layout", "split", *OF_LAYOUTS, "x"]), VALUES), max_size=3),
    VALUES,
)
def test_any_set_resolves_or_is_one_sentence(name, changes, labels):
    config = get_config(name)
    if config.task == "pretrain":
        config = get_config("finetune.diff", "")
        config.data.paths = ("DIR",)
    kind = "test" if config.task == "evaluate" else "train"
    one = next(iter(config.data[kind].values()))
    for field, value in [*changes, ("labels", labels)]:
        put(one, field, value)
    resolve_or_refuse(config)


def resolve_or_refuse(config: ConfigDict) -> None:
    try:
        to_json(resolve(config))
    except ConfigError as error:
        text = str(error)
        assert text and len(text.splitlines()) == 1 and len(text) < 3000


@pytest.mark.parametrize(
    ("task", "path", "value", "message"),
    [
        ("pretrain", "compiler_options", {"a": 2**63}, r"names with numbers below 2\^63"),
        ("pretrain", "compiler_options", {"a": float("nan")}, r"names with numbers below 2\^63"),
        ("pretrain", "optimizer.lr", -1.0, r"optimizer\.lr = -1\.0 must be above 0"),
        ("pretrain", "optimizer.blr", float("nan"), r"optimizer\.blr = nan must be from 0 to 1000"),
        ("pretrain", "optimizer.weight_decay", float("inf"), "weight_decay = inf must be from 0"),
        ("pretrain", "optimizer.betas", (0.9,), r"betas = \(0\.9,\) must be two values"),
        ("pretrain", "optimizer.betas", (0.9, 1.0), r"betas = .*: 1\.0 must be from 0 to 0\.9"),
        ("pretrain", "optimizer.min_lr", 1.0, r"min_lr = 1\.0 is above the learning rate"),
        ("finetune", "optimizer.min_lr", 1.0, r"min_lr = 1\.0 is above the learning rate 0\.0005"),
        ("pretrain", "resume.step", -1, r"resume\.step = -1 must be from 0 to"),
        ("pretrain", "resume.step", "last", r"resume\.step = 'last' must be a whole number"),
        ("pretrain", "data.num_samples", 2**63, r"num_samples = 9223372036854775808 must be from"),
        ("pretrain", "data.num_samples", True, r"num_samples = True must be a whole number"),
        ("pretrain", "data.skip_ranges", ((0, 2**63),), r"skip_ranges = .* must be pairs"),
        ("pretrain", "schedule_epochs", float("nan"), r"schedule_epochs = nan must be from 1"),
        ("pretrain", "schedule_epochs", "800", r"schedule_epochs = '800' must be a number"),
        ("pretrain", "data.weights", (1.0,), "must be a number above 0 for each of the 0 config"),
        (
            "finetune",
            "data.weights",
            (1, 2),
            r"weights = \(1, 2\) must be a number above 0 for .* 1",
        ),
        (
            "finetune",
            "optimizer.layer_decay",
            float("nan"),
            r"layer_decay = nan must be from 0 to 1",
        ),
        ("evaluate", "init.labels", ("real",), r"init\.labels = \('real',\) must name each class"),
        ("evaluate", "mesh.data", 0, r"mesh\.data = 0 must be -1 or from 1"),
    ],
)
def test_fields_that_had_no_range_have_one(task, path, value, message):
    config = get_config(BY_TASK[task])
    put(config, path, value)
    with pytest.raises(ConfigError, match=message):
        resolve(config)
