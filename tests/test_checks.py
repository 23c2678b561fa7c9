"""Tests the kinds of fields, and the checks that all kinds of runs share."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from fsvfm_jax.config import checks
from fsvfm_jax.errors import ConfigError

CONFIG = ConfigDict({"a": {"b": "x", "n": 3}, "seed": 1, "task": "t"})
FIELDS = {
    "a.b": checks.choice("a letter", ("x", "y")),
    "a.n": checks.whole("how many", 3, 4),
    "seed": checks.whole("a seed"),
    "task": checks.text("a task"),
}


def test_a_field_is_found_by_its_path():
    section, name = checks.find_field(CONFIG, "a.b")
    assert section[name] == "x"
    for path in ("a.c", "b.c", "seed.x", "a.b.c"):
        with pytest.raises(
            ConfigError, match=rf"config\.{path} is missing, and config\.task = 't'"
        ):
            checks.find_field(CONFIG, path)


def test_a_wrong_value_is_named_with_its_field_what_it_can_be_and_the_meaning():
    checks.check_fields(CONFIG, FIELDS)
    wrong = FIELDS | {"a.b": checks.choice("a letter", ("y", "z"))}
    with pytest.raises(ConfigError, match=r"config\.a\.b = 'x' is unknown; known: y, z"):
        checks.check_fields(CONFIG, wrong)
    wrong = FIELDS | {"a.n": checks.whole("how many", 4, 5)}
    with pytest.raises(ConfigError, match=r"config\.a\.n = 3 must be from 4 to 5 \(how many\)"):
        checks.check_fields(CONFIG, wrong)


def test_a_field_that_no_table_has_is_refused():
    for path in ("a.n", "seed"):
        fields = {name: field for name, field in FIELDS.items() if name != path}
        with pytest.raises(ConfigError, match=rf"config\.{path} is no field of such a config"):
            checks.check_fields(CONFIG, fields)


@pytest.mark.parametrize(
    ("field", "fits", "wrong"),
    [
        (checks.whole("", 1, 5), [1, 5], [0, 6, 1.0, True, "1", None, math.nan, 2**64, [1]]),
        (checks.whole("", 0), [0, 2**31 - 1], [-1, 2**31, 2**63, 10**5000]),
        (
            checks.number("", 0, 1),
            [0, 1, 0.5],
            [-1e-9, 1.01, math.nan, math.inf, -math.inf, False, "0.5", None, 10**400],
        ),
        (checks.number("", 0, 1, above=True), [1e-300, 1], [0, -1, math.nan, math.inf]),
        (checks.flag(""), [True, False], [0, 1, "True", None]),
        (checks.text(""), ["", "a/b"], [b"a", 1, None, "a\0", "x" * 5000, ("a",)]),
        (checks.choice("", ("", "x")), ["", "x"], ["y", None, 0, ["x"], "x" * 10**6]),
        (checks.several("", checks.whole("")), [(), (1, 2), [3]], [1, "12", None, (1, "2")]),
        (checks.several("", checks.whole(""), length=2), [(1, 2)], [(), (1,), (1, 2, 3)]),
        (checks.count_or_auto(""), [1, "auto"], [0, "Auto", None, True, 1.5, "1"]),
        (checks.devices(""), [-1, 1, 8], [0, -2, True, False, 1.0, "1", None]),
        (checks.settings(""), [ConfigDict({"a": True, "b": 1})], [{}, None, ConfigDict({"a": ()})]),
        (checks.sections(""), [ConfigDict(), ConfigDict({"a": {}})], [{}, ConfigDict({"a": 1})]),
        (checks.optional(checks.whole("")), [None, 3], ["", -1]),
    ],
)
def test_kinds_take_what_they_say(field, fits, wrong):
    for value in fits:
        assert field.problem(value) is None, value
    for value in wrong:
        assert field.problem(value), checks.brief(value)


@pytest.mark.parametrize(
    "ranges",
    [
        ((3, 2),),
        ((1,),),
        ((0, 2), (1, 3)),
        ((0, 1.5),),
        7,
        ((0, 2**63),),
        ((2**64, 2**65),),
        ((-1, 2),),
        ((False, True),),
    ],
)
def test_ranges_to_skip_are_ascending_and_apart_and_int64(ranges):
    field = checks.ranges("")
    assert field.problem(((0, 2), (5, 6))) is None and field.problem(()) is None
    assert field.problem(ranges).startswith("must be pairs")


@settings(max_examples=50)
@given(st.recursive(st.none() | st.floats() | st.text() | st.binary(), st.lists, max_leaves=9))
def test_any_value_is_shown_in_one_short_line(value):
    text = checks.brief(value)
    assert len(text.splitlines()) <= 1 and len(text) < 300


def test_values_that_python_cannot_print_are_shown_by_their_type():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert checks.brief(10**5000) == "a value of type int"
    assert checks.brief(deep) == "a value of type list"
