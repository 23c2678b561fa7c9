"""Tests under which licence weights are exported; test_card.py tests the identifiers."""

import pytest

from fsvfm_jax.convert.licenses import LICENSES, exported_license
from fsvfm_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("stored", "given", "exported"),
    [
        (None, None, None),
        (None, "mit", "mit"),
        ("mit", None, "mit"),
        ("mit", "mit", "mit"),
        ("CC BY 4.0", "cc-by-4.0", "cc-by-4.0"),
    ],
)
def test_the_licence_is_the_stored_or_the_given_identifier(stored, given, exported):
    assert exported_license(stored, given=given) == exported


@pytest.mark.parametrize(
    ("stored", "given", "message"),
    [
        ("cc-by-nc-4.0", "mit", "are and stay under cc-by-nc-4.0"),
        ("CC BY 4.0", None, f"stored as 'CC BY 4.0': give the identifier .*; {LICENSES[:20]}"),
    ],
)
def test_an_identifier_is_never_replaced_and_a_text_never_exported(stored, given, message):
    with pytest.raises(ConfigError, match=message):
        exported_license(stored, given=given)
