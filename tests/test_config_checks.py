"""Checks that all kinds of runs share."""

import pytest
from ml_collections import ConfigDict

from fsvfm_jax import config_checks
from fsvfm_jax.errors import ConfigError

CONFIG = ConfigDict({"a": {"b": "x", "n": 3}, "seed": 1})


def test_a_field_is_found_by_its_path():
    section, name = config_checks.locate(CONFIG, "a.b")
    assert section[name] == "x"


def test_choices_and_ranges_name_the_field():
    config_checks.check_choices(CONFIG, {"a.b": ("x", "y")})
    config_checks.check_ranges(CONFIG, {"a.n": (3, 3), "seed": (0, float("inf"))})
    with pytest.raises(ConfigError, match=r"config\.a\.b = 'x' is unknown; known: y, z"):
        config_checks.check_choices(CONFIG, {"a.b": ("y", "z")})
    with pytest.raises(ConfigError, match=r"config\.a\.n = 3 must be from 4 to 5"):
        config_checks.check_ranges(CONFIG, {"a.n": (4, 5)})
    with pytest.raises(ConfigError, match=r"config\.a\.n = 3 must be at least 4"):
        config_checks.check_ranges(CONFIG, {"a.n": (4, float("inf"))})


@pytest.mark.parametrize("ranges", [((3, 2),), ((1,),), ((0, 2), (1, 3)), ((0, 1.5),), 7])
def test_ranges_to_skip_are_ascending_and_apart(ranges):
    config_checks.check_skip_ranges(((0, 2), (5, 6)))
    with pytest.raises(ConfigError, match=r"skip_ranges = .* must be pairs"):
        config_checks.check_skip_ranges(ranges)
