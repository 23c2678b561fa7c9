"""Libraries that come with an extra: whether they are there."""

import importlib.util
from collections.abc import Collection

from fsvfm_jax.errors import ConfigError


def check_installed(modules: Collection[str], *, extra: str) -> None:
    """Raises ConfigError, naming the extra, unless the modules can be imported."""
    for module in sorted(modules):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"{module} is not installed: pip install '.[{extra}]' in the project's folder"
            )
