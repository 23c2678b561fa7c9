"""What a field of a config may hold, and the checks that all kinds of runs share.

A `Field` says what one field means and which values it takes; `fields.py` has the tables.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ml_collections import ConfigDict

from fsvfm_jax.devices.sharding import AUTO
from fsvfm_jax.errors import MAX_TOLD, ConfigError, nearest, told

# Largest count where no smaller one is stated: a run's step is an int32.
MAX_COUNT = 2**31 - 1
# Largest place in the stream of samples: exact in float64 and in any JSON reader.
MAX_SAMPLES = 2**53
MAX_TEXT = 4096
_NUMERALS = {2: "two", 3: "three"}

# Of a value: the end of the sentence "config.x = value ...", or None if the value fits.
Problem = Callable[[Any], str | None]


@dataclass(frozen=True)
class Field:
    """What one field of a config means, and which values it takes.

    Attributes:
        meaning: In a few words; error messages end with them.
        problem: What is wrong with a value.
    """

    meaning: str
    problem: Problem


Fields = Mapping[str, Field]


def whole(meaning: str, low: int = 0, high: int = MAX_COUNT) -> Field:
    """A whole number from `low` to `high`; True and False are not allowed."""

    def problem(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return "must be a whole number"
        return _out_of_range(value, low, high)

    return Field(meaning, problem)


def number(meaning: str, low: float | int, high: float | int, *, above: bool = False) -> Field:
    """A finite number from `low` to `high`, without `low` itself if `above`."""

    def problem(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "must be a number"
        if above:
            return None if low < value <= high else f"must be above {low} and up to {high}"
        return _out_of_range(value, low, high)

    return Field(meaning, problem)


def flag(meaning: str) -> Field:
    """True or False."""
    return Field(
        meaning, lambda value: None if isinstance(value, bool) else "must be True or False"
    )


def text(meaning: str) -> Field:
    """Text of a length that paths and names have, without null characters."""

    def problem(value: Any) -> str | None:
        if not isinstance(value, str):
            return "must be text"
        fits = len(value) <= MAX_TEXT and "\0" not in value
        return None if fits else f"must be at most {MAX_TEXT} characters, none of them null"

    return Field(meaning, problem)


def choice(meaning: str, choices: Sequence[str]) -> Field:
    """One of some names."""

    def problem(value: Any) -> str | None:
        if isinstance(value, str) and value in choices:
            return None
        name = value[:MAX_TOLD] if isinstance(value, str) else told(value)
        return f"is unknown; {nearest(name, [one for one in choices if one])}"

    return Field(meaning, problem)


def several(meaning: str, each: Field, *, length: int | None = None) -> Field:
    """A tuple or list of what fits `each`: `length` of them, or any number."""
    requirement = f"must be {_NUMERALS[length]} values" if length else "must be a tuple"

    def problem(value: Any) -> str | None:
        if not isinstance(value, tuple | list) or length not in (None, len(value)):
            return requirement
        for one in value:
            if wrong := each.problem(one):
                return f"{requirement if length else 'is wrong'}: {told(one)} {wrong}"
        return None

    return Field(meaning, problem)


def ranges(meaning: str) -> Field:
    """Pairs of places in the stream of samples: ascending, apart, and none of them empty."""
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
    """At least 1, or "auto"."""

    def problem(value: Any) -> str | None:
        fits = (isinstance(value, str) and value == AUTO) or whole("", 1).problem(value) is None
        return None if fits else f"must be 'auto' or from 1 to {MAX_COUNT}"

    return Field(meaning, problem)


def devices(meaning: str) -> Field:
    """At least 1, or -1 for the rest of the devices."""

    def problem(value: Any) -> str | None:
        fits = value is not False and whole("", -1).problem(value) is None and value != 0
        return None if fits else f"must be -1 or from 1 to {MAX_COUNT}"

    return Field(meaning, problem)


def settings(meaning: str) -> Field:
    """Another program's options by name: numbers, True, False or text."""

    def problem(value: Any) -> str | None:
        fits = isinstance(value, ConfigDict) and all(
            isinstance(name, str) and isinstance(x, bool | int | float | str)
            for name, x in value.items()
        )
        return None if fits else "must be names with numbers, True, False or text"

    return Field(meaning, problem)


def sections(meaning: str) -> Field:
    """Sections by name, each of them checked by itself."""

    def problem(value: Any) -> str | None:
        fits = isinstance(value, ConfigDict) and all(
            isinstance(name, str) and isinstance(x, ConfigDict) for name, x in value.items()
        )
        return None if fits else "must be sets by name: make each with configs.transfer.face_set"

    return Field(meaning, problem)


def optional(field: Field) -> Field:
    """The field, which may be None as well: not given."""
    return replace(field, problem=lambda value: None if value is None else field.problem(value))


def under(section: str, fields: Fields) -> dict[str, Field]:
    """The fields of a section by their paths."""
    return {f"{section}.{name}": field for name, field in fields.items()}


def check_fields(config: ConfigDict, fields: Fields, *, within: str = "") -> None:
    """Checks that a config has exactly these fields, each with a value that it can have.

    Args:
        config: All of it, or a section.
        fields: By path.
        within: The section's own path, with a dot at its end.

    Raises:
        ConfigError: The message names the field, its value, and what it can be.
    """
    for path, field in fields.items():
        section, name = find_field(config, path)
        value = section[name]
        if wrong := field.problem(value):
            raise ConfigError(f"config.{within}{path} = {told(value)} {wrong} ({field.meaning})")
    for path in _unknown(config, fields):
        raise ConfigError(
            f"config.{within}{path} is no field of such a config: remove it"
            " (fsvfm_jax/config/fields.py has all of them)"
        )


def check_stats(data: ConfigDict) -> None:
    """Raises ConfigError unless `mean` and `std` are both there, or neither is."""
    if (data.mean is None) != (data.std is None):
        raise ConfigError("give both config.data.mean and config.data.std, or neither")


def check_comparison(accum_steps: int | str, *, comparing: str | None) -> None:
    """Raises ConfigError where the devices' memory would decide what is compared with what.

    Args:
        accum_steps: The field.
        comparing: What compares the faces of a micro-batch with each other; None if nothing does.
    """
    if accum_steps == AUTO and comparing is not None:
        raise ConfigError(
            "config.accum_steps = 'auto' would let the devices' memory decide how many faces"
            f" {comparing} compares with each other: give a number"
        )


def check_weights(weights: Sequence[float | int], parts: int, *, of: str) -> None:
    """Raises ConfigError unless there are as many weights as parts of the data, or none."""
    if weights and len(weights) != parts:
        raise ConfigError(
            f"config.data.weights = {told(weights)} must be a number above 0 for each of the"
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
            f"config.{path} is missing, and config.task = {told(config.get('task'))} needs it: use"
            " a config file of that task"
        )
    return section, name


def _out_of_range(value: float | int, low: float | int, high: float | int) -> str | None:
    # No comparison holds for NaN.
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
