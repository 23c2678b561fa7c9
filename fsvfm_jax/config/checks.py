"""The kinds of config fields with their allowed values, and the checks that all tasks share.

A `Field` contains the meaning of one field and the values it takes; `fields.py` has the tables.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ml_collections import ConfigDict

from fsvfm_jax.devices.sharding import AUTO
from fsvfm_jax.errors import MAX_SHOWN, ConfigError, brief, nearest

# Largest count, unless a field has a smaller limit: the step of a run is an int32.
MAX_COUNT = 2**31 - 1
MAX_SETTING = 2**63  # XLA's whole numbers have 64 bits.
# Largest place in the stream of samples: float64 and every JSON reader represent it exactly.
MAX_SAMPLES = 2**53
MAX_TEXT = 4096
_NUMERALS = {2: "two", 3: "three"}

# Returns the end of the sentence "config.x = value ..." for a value, or None if the value fits.
Problem = Callable[[Any], str | None]


@dataclass(frozen=True)
class Field:
    """The meaning of one config field, and the values it takes.

    Attributes:
        meaning: What the field means, in a few words; error messages end with it.
        problem: Returns what is wrong with a value, or None.
    """

    meaning: str
    problem: Problem


Fields = Mapping[str, Field]


def whole(meaning: str, low: int = 0, high: int = MAX_COUNT) -> Field:
    """Returns a field for a whole number from `low` to `high`; True and False are not allowed."""

    def problem(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return "must be a whole number"
        return _out_of_range(value, low, high)

    return Field(meaning, problem)


def number(meaning: str, low: float | int, high: float | int, *, above: bool = False) -> Field:
    """Returns a field for a finite number from `low` to `high`; `above` excludes `low` itself."""

    def problem(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "must be a number"
        if above:
            return None if low < value <= high else f"must be above {low} and up to {high}"
        return _out_of_range(value, low, high)

    return Field(meaning, problem)


def flag(meaning: str) -> Field:
    """Returns a field for True or False."""
    return Field(
        meaning, lambda value: None if isinstance(value, bool) else "must be True or False"
    )


def text(meaning: str) -> Field:
    """Returns a field for text of at most `MAX_TEXT` characters, without null characters."""

    def problem(value: Any) -> str | None:
        if not isinstance(value, str):
            return "must be text"
        fits = len(value) <= MAX_TEXT and "\0" not in value
        return None if fits else f"must be at most {MAX_TEXT} characters, none of them null"

    return Field(meaning, problem)


def choice(meaning: str, choices: Sequence[str]) -> Field:
    """Returns a field for one of several names."""

    def problem(value: Any) -> str | None:
        if isinstance(value, str) and value in choices:
            return None
        name = value[:MAX_SHOWN] if isinstance(value, str) else brief(value)
        return f"is unknown; {nearest(name, [one for one in choices if one])}"

    return Field(meaning, problem)


def several(meaning: str, each: Field, *, length: int | None = None) -> Field:
    """Returns a field for a tuple or list whose items fit `each`.

    Args:
        meaning: What the field means.
        each: The field that every item must fit.
        length: Number of items; None for any number.
    """
    requirement = f"must be {_NUMERALS[length]} values" if length else "must be a tuple"

    def problem(value: Any) -> str | None:
        if not isinstance(value, tuple | list) or length not in (None, len(value)):
            return requirement
        for one in value:
            if wrong := each.problem(one):
                return f"{requirement if length else 'is wrong'}: {brief(one)} {wrong}"
        return None

    return Field(meaning, problem)


def ranges(meaning: str) -> Field:
    """Returns a field for pairs of places in the stream of samples.

    The pairs are ascending, not empty, and do not touch each other.
    """
    pairs = several(meaning, several("", whole("", 0, MAX_SAMPLES), length=2))

    def problem(value: Any) -> str | None:
        if pairs.problem(value) is None:
            ends = [end for pair in value for end in pair]
            if all(a < b for a, b in itertools.pairwise(ends)):
                return None
        return (
            "must be pairs of samples of the stream, first and one past the last, ascending and"
            f" apart and up to {MAX_SAMPLES}, such as ((4096, 8192),)"
        )

    return Field(meaning, problem)


def count_or_auto(meaning: str) -> Field:
    """Returns a field for a whole number from 1, or "auto"."""

    def problem(value: Any) -> str | None:
        fits = (isinstance(value, str) and value == AUTO) or whole("", 1).problem(value) is None
        return None if fits else f"must be 'auto' or from 1 to {MAX_COUNT}"

    return Field(meaning, problem)


def devices(meaning: str) -> Field:
    """Returns a field for a whole number from 1, or -1 for the remaining devices."""

    def problem(value: Any) -> str | None:
        fits = value is not False and whole("", -1).problem(value) is None and value != 0
        return None if fits else f"must be -1 or from 1 to {MAX_COUNT}"

    return Field(meaning, problem)


def settings(meaning: str) -> Field:
    """Returns a field for another program's options by name: numbers, True, False or text."""

    def problem(value: Any) -> str | None:
        fits = isinstance(value, ConfigDict) and all(
            isinstance(name, str) and _is_setting(x) for name, x in value.items()
        )
        return None if fits else "must be names with numbers below 2^63, True, False or text"

    return Field(meaning, problem)


def _is_setting(value: Any) -> bool:
    if isinstance(value, bool | str):
        return True
    return isinstance(value, int | float) and abs(value) < MAX_SETTING


def section(meaning: str) -> Field:
    """Returns a field for one section, which is checked separately."""

    def problem(value: Any) -> str | None:
        return None if isinstance(value, ConfigDict) else "must be a section"

    return Field(meaning, problem)


def sections(meaning: str, *, made_by: str = "configs.transfer.face_set") -> Field:
    """Returns a field for sections by name; every section is checked separately.

    Args:
        meaning: What the sections are.
        made_by: The function that makes one.
    """

    def problem(value: Any) -> str | None:
        fits = isinstance(value, ConfigDict) and all(
            isinstance(name, str) and isinstance(x, ConfigDict) for name, x in value.items()
        )
        return None if fits else f"must be sections by name: make each with {made_by}"

    return Field(meaning, problem)


def optional(field: Field) -> Field:
    """Returns the same field, which may also be None."""
    return replace(field, problem=lambda value: None if value is None else field.problem(value))


def under(section: str, fields: Fields) -> dict[str, Field]:
    """Returns the fields of a section by their paths."""
    return {f"{section}.{name}": field for name, field in fields.items()}


def check_fields(config: ConfigDict, fields: Fields, *, within: str = "") -> None:
    """Checks that a config has exactly the given fields, each with an allowed value.

    Args:
        config: The whole config, or a section.
        fields: The fields by path.
        within: The path of the section with a dot at its end; empty for the whole config.

    Raises:
        ConfigError: A field is missing, unknown or has a wrong value. The message names the field,
            its value and its allowed values.
    """
    found = {path: find_field(config, path) for path in fields}
    for path, field in fields.items():
        section, name = found[path]
        value = section[name]
        if wrong := field.problem(value):
            raise ConfigError(f"config.{within}{path} = {brief(value)} {wrong} ({field.meaning})")
    for path in _unknown(config, fields):
        raise ConfigError(
            f"config.{within}{path} is no field of such a config: remove it"
            " (fsvfm_jax/config/fields.py has all of them)"
        )


def check_stats(data: ConfigDict) -> None:
    """Raises ConfigError if only one of `mean` and `std` is given."""
    if (data.mean is None) != (data.std is None):
        raise ConfigError("give both config.data.mean and config.data.std, or neither")


def check_comparison(accum_steps: int | str, *, comparing: str | None) -> None:
    """Raises ConfigError if the devices' memory would decide which faces a loss compares.

    Args:
        accum_steps: The value of the field.
        comparing: What compares the faces of a micro-batch with each other; None if nothing does.
    """
    if accum_steps == AUTO and comparing is not None:
        raise ConfigError(
            "config.accum_steps = 'auto' would let the devices' memory decide how many faces"
            f" {comparing} compares with each other: give a number"
        )


def check_weights(weights: Sequence[float | int], parts: int, *, of: str) -> None:
    """Raises ConfigError if weights are given, but not one weight for each part of the data.

    Args:
        weights: The weights; empty if none are given.
        parts: Number of parts.
        of: What the parts are, for the message.
    """
    if weights and len(weights) != parts:
        raise ConfigError(
            f"config.data.weights = {brief(weights)} must be a number above 0 for each of the"
            f" {parts} {of}"
        )


def find_field(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    """The section that holds a field, and the field's own name.

    Raises:
        ConfigError: The config has no such field.
    """
    *names, name = path.split(".")
    section: Any = config
    for one in names:
        section = section.get(one) if isinstance(section, ConfigDict) else None
    if not isinstance(section, ConfigDict) or name not in section:
        raise ConfigError(
            f"config.{path} is missing, and config.task = {brief(config.get('task'))} needs it: use"
            " a config file of that task"
        )
    return section, name


def _out_of_range(value: float | int, low: float | int, high: float | int) -> str | None:
    # This form refuses NaN too: a comparison with NaN is false.
    return None if low <= value <= high else f"must be from {low} to {high}"


def _unknown(section: ConfigDict, fields: Fields, prefix: str = "") -> Iterator[str]:
    for name, value in section.items():
        path = f"{prefix}{name}"
        if path in fields:
            continue
        if isinstance(value, ConfigDict) and any(one.startswith(f"{path}.") for one in fields):
            yield from _unknown(value, fields, f"{path}.")
        else:
            yield path
