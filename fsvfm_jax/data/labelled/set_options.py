"""Which options a set's layout takes, what of them is given, and what has to be."""

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from fsvfm_jax.data.labelled.layouts import LAYOUTS
from fsvfm_jax.data.rendered.rendered_sets import RenderedFaces
from fsvfm_jax.errors import ConfigError, nearest, told

# The layout of sets that are rendered, not read.
RENDERED = "rendered"
# What reads or renders a set takes these too, and they are of every layout.
_OF_ALL = {"root", "split", "image_size"}


def options_of(layout: str) -> dict[str, Parameter]:
    """Returns the options that a layout has beside those of all sets on disk, by name."""
    parameters = signature(RenderedFaces if layout == RENDERED else LAYOUTS[layout]).parameters
    return {name: one for name, one in parameters.items() if name not in _OF_ALL}


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a set without the empty ones, which are their layout's defaults."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and (value or not isinstance(value, str | tuple | list))
    }


def check_options(layout: str, options: Mapping[str, Any], *, field: str = "") -> None:
    """Sees that the options that are given are those of a layout.

    Args:
        layout: The layout of a set.
        options: Those that are `given`, without those of all sets on disk.
        field: The field of the config that describes the set, for messages.

    Raises:
        ConfigError: There is no such layout, an option is not one of the layout's, or one that the
            layout needs is missing.
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
            f"{where}{name} = {told(value)} is no option of the layout {layout!r}{of_whom}:"
            f" {its_options}; {way_out}"
        )
    for name, parameter in known.items():
        if parameter.default is Parameter.empty and name not in options:
            raise ConfigError(f"the layout {layout!r} needs {where}{name}: set it; {its_options}")
