"""Licences of weights: valid identifiers, and the licence under which weights are exported."""

import logging
import re

from fsvfm_jax.errors import ConfigError

LOG = logging.getLogger(__name__)

AUTHORS_LICENSE = "cc-by-nc-4.0"
# An identifier of SPDX or of the Hub, such as "apache-2.0", "cc-by-nc-4.0", "0BSD" or "llama3.1".
LICENSE = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9.+-]{1,64}")
LICENSES = (
    "a licence is the identifier that SPDX or the Hugging Face Hub has for it, such as apache-2.0:"
    " letters (one at least), digits and . + -, at most 64 characters"
)


def is_license(value: object) -> bool:
    """Returns whether a value is the identifier of a licence."""
    return isinstance(value, str) and LICENSE.fullmatch(value) is not None


def exported_license(stored: str | None, *, given: str | None) -> str | None:
    """Returns the licence under which weights are exported, an identifier, or None if unknown.

    Args:
        stored: The licence of the weights; in older files any text, such as "CC BY 4.0".
        given: An identifier. It replaces a stored text, but not a stored identifier.

    Raises:
        ConfigError: The stored licence is another identifier, or a text and no identifier is given.
    """
    if stored is None or stored == given:
        return given
    if is_license(stored):
        if given is not None:
            raise ConfigError(f"--license: these weights are and stay under {stored}")
        return stored
    if given is None:
        raise ConfigError(
            f"the licence of these weights is stored as {stored!r}: give the identifier of the same"
            f" licence with --license; {LICENSES}"
        )
    LOG.warning("the licence %r is written as %s, which must be the same licence", stored, given)
    return given
