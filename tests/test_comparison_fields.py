"""Tests that comparisons have the fields of their table, and their runs those of their own."""

import pytest
from test_fields import TABLES, paths

from configs.compare import dfd, rendered
from fsvfm_jax.config.comparison_fields import COMPARISON, ENCODER


@pytest.mark.parametrize("make", [dfd.get_config, rendered.get_config])
@pytest.mark.parametrize("arg", ["", "smoke"])
def test_every_field_of_every_comparison_is_in_its_table_and_no_other(make, arg):
    config = make(arg)
    assert paths(config, COMPARISON) == set(COMPARISON)
    for encoder in config.encoders.values():
        assert paths(encoder, ENCODER) == set(ENCODER)
    for one in (*config.train.values(), config.test):
        assert paths(one, TABLES[one.task]) == set(TABLES[one.task])


def test_every_field_has_a_meaning():
    for name, field in (COMPARISON | ENCODER).items():
        assert len(field.meaning) > 10, name
