"""Tests reading JSON by a schema."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.host.json_files import parse_json, read_json


class Place(NamedTuple):
    name: str
    size: float


class Record(TypedDict):
    step: Annotated[int, msgspec.Meta(ge=0)]
    places: list[Place]


def test_value_by_its_schema(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text('{"step": 3, "places": [["a", 1]], "more": null}')
    assert read_json(file, Record) == {"step": 3, "places": [Place("a", 1.0)]}
    assert math.isnan(parse_json("NaN", float))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{",
        b"\xff\xfe\xfd",
        b'{"step": 1}',
        b'{"step": -1, "places": []}',
        b'{"step": true, "places": []}',
        b'{"step": 1.5, "places": []}',
        b'{"step": "1", "places": []}',
        b'{"step": 1, "places": [["a"]]}',
        b'{"step": 1, "places": {"a": 1}}',
        b'{"step": ' + b"9" * 5000 + b', "places": []}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_refuses_any_other(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_json(text, Record)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a.mp4": "REAL", "a.mp4": "FAKE"}', "'a.mp4'"),
        ('[{"x": {"b": 1, "a": 2, "b": 1}}]', "'b'"),
        ('{"\\u0061": 1, "a": 2}', "'a'"),
        ('{"' + "k" * 1000 + '": 1, "' + "k" * 1000 + '": 2}', "'" + "k" * 80 + "'"),
        ('{"\\n": 1, "\\n": 2}', r"'\n'"),
    ],
)
def test_a_key_that_occurs_twice_is_named(text: str, key: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_json(text, Any)
    assert str(error.value) == f"the key {key} occurs twice in one object"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_any_json_is_a_value_or_an_error_in_one_line(value: Any) -> None:
    try:
        parsed = parse_json(json.dumps(value), Record)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert parsed["step"] >= 0
