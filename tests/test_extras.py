"""Tests that errors name an extra that is missing."""

import pytest

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.prepare.extras import check_installed


def test_a_missing_extra_is_named() -> None:
    check_installed({"json"}, extra="prepare")
    with pytest.raises(ConfigError, match=r"no_such_module is not installed: .*\[prepare\]"):
        check_installed({"json", "no_such_module"}, extra="prepare")
