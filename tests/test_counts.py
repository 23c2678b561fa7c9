"""Tests the whole numbers in names of topologies and in flags."""

import pytest

from fsvfm_jax.plan.counts import read_count


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("10", 10),
        ("11", None),
        ("0", None),
        ("08", None),
        ("-1", None),
        ("+1", None),
        ("1\n", None),
        ("1_0", None),
        ("", None),
        ("²", None),
        ("٣", None),  # an Arabic digit
        ("9" * 5000, None),
    ],
)
def test_a_count_is_ascii_digits_up_to_a_limit(text, number):
    assert read_count(text, most=10) == number
