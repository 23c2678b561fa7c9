"""Checks whether the libraries of an extra are installed."""

import importlib.util
from collections.abc import Collection

from fsvfm_jax.errors import ConfigError


def check_installed(modules: Collection[str], *, extra: str) -> None:
    """Checks that the modules can be imported.

    Args:
        modules: Names of the modules.
        extra: The extra that installs them, for the message.

    Raises:
        ConfigError: A module is missing; the message names the extra.
    """
    for module in sorted(modules):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"{module} is not installed: pip install '.[{extra}]' in the project's folder"
            )
