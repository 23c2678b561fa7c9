"""The options of each set layout, and checks of the options that a user gives."""

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from fsvfm_jax.data.labelled.layouts import LAYOUTS
from fsvfm_jax.data.rendered.rendered_sets import RenderedFaces
from fsvfm_jax.errors import ConfigError, brief, nearest

# The layout of rendered sets, which are not on disk.
RENDERED = "rendered"
# These parameters of the functions that read or render a set exist for every layout.
_OF_ALL = {"root", "split", "image_size"}


def options_of(layout: str) -> dict[str, Parameter]:
    """Returns the options of a layout by name, without those that all sets on disk have."""
    parameters = signature(RenderedFaces if layout == RENDERED else LAYOUTS[layout]).parameters
    return {name: one for name, one in parameters.items() if name not in _OF_ALL}


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a set without the empty ones, for which the layout has defaults."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and (value or not isinstance(value, str | tuple | list))
    }


def check_options(layout: str, options: Mapping[str, Any], *, field: str = "") -> None:
    """Checks that the given options are options of the layout.

    Args:
        layout: The layout of a set.
        options: The result of `given`, without the options that all sets on disk have.
        field: Name of the config's field that describes the set, for messages.

    Raises:
        ConfigError: The layout is unknown, an option does not belong to the layout, or an option
            that the layout needs is missing.
    """
    layouts = (*LAYOUTS, RENDERED)
    if layout not in layouts:
        raise ConfigError(f"there is no layout {layout!r}; {nearest(layout, layouts)}")
    known = options_of(layout)
    where = f"{field}." if field else ""
    its_options = f"its options are {', '.join(known)}"
    for name, value in options.items():
        if name in known:
            continue
        others = [repr(other) for other in layouts if name in options_of(other)]
        of_whom = f", but of {' and '.join(others)}" if others else ""
        way_out = f"leave it empty, or set {where}layout" if others else "remove it"
        raise ConfigError(
            f"{where}{name} = {brief(value)} is no option of the layout {layout!r}{of_whom}:"
            f" {its_options}; {way_out}"
        )
    for name, parameter in known.items():
        if parameter.default is Parameter.empty and name not in options:
            raise ConfigError(f"the layout {layout!r} needs {where}{name}: set it; {its_options}")
