"""Tests the rule for the options that a set's layout takes."""

import pytest
from hypothesis import given as draw
from hypothesis import strategies as st

from fsvfm_jax.data.labelled.layouts import LAYOUTS
from fsvfm_jax.data.labelled.set_options import RENDERED, check_options, given, options_of
from fsvfm_jax.errors import ConfigError

NEEDED = {
    **{layout: {} for layout in LAYOUTS},
    "folders": {"real": ("a",), "fake": ("b",)},
    "fas": {"subset": "msu"},
    "diff": {"subset": "T2I"},
    "deepfakebench": {"list_file": "x.json"},
    RENDERED: {"name": "cam-m", "seed": 0, "videos": 2, "frames": 1},
}


def test_what_is_empty_is_not_given():
    empty = {"a": "", "b": (), "c": [], "d": None}
    assert given(empty | {"e": 0, "f": False, "g": "x"}) == {"e": 0, "f": False, "g": "x"}


@pytest.mark.parametrize("layout", NEEDED)
def test_each_layout_has_its_options_and_needs_some(layout):
    check_options(layout, NEEDED[layout])
    check_options(layout, dict.fromkeys(options_of(layout), "x"))
    for name in NEEDED[layout]:
        less = {other: value for other, value in NEEDED[layout].items() if other != name}
        with pytest.raises(ConfigError, match=rf"^the layout '{layout}' needs {name}: set it"):
            check_options(layout, less)


@draw(st.sampled_from([*NEEDED, "x"]), st.dictionaries(st.text(), st.text() | st.integers()))
def test_any_options_are_those_of_the_layout_or_one_sentence(layout, options):
    try:
        check_options(layout, options)
    except ConfigError as error:
        assert len(str(error)) < 1000
    else:
        assert options.keys() <= options_of(layout).keys()
