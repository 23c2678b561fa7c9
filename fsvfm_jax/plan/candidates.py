"""Makes the configs that `plan --compare FIELD=a,b ...` compares."""

import ast
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from fsvfm_jax.config.checks import find_field
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.convert.warm_start import with_options
from fsvfm_jax.devices.backends import compiler_options
from fsvfm_jax.devices.compilation import place
from fsvfm_jax.errors import ConfigError, nearest, short_list, shortened

MOST_CANDIDATES = 1000
MAX_REASONS = 10
# A name after this prefix is one of XLA's options. The config has no field for each.
OPTION = "compiler_options."
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Candidate(NamedTuple):
    """One of the configs to compare.

    Attributes:
        fields: The compared fields by path, with the values of this candidate.
        config: The resolved config with the settings of the devices; None if it is refused.
        refusal: Why the values are refused together; None if they are not.
    """

    fields: dict[str, Any]
    config: ConfigDict | None
    refusal: str | None = None

    @property
    def label(self) -> str:
        """Returns the fields with their values, each shortened."""
        return _label(self.fields)


def read_choices(arguments: Sequence[str], config: ConfigDict) -> dict[str, list[Any]]:
    """Returns the values to compare, by the path of their field.

    Args:
        arguments: Texts such as "model.unroll=1,12". Commas separate values, except inside brackets
            and quotes. A value is a literal of Python, such as 12, 0.5, True, None, (0.9, 0.95) or
            'a,b'; anything else is text, such as xla.
        config: The config as loaded from its file.

    Raises:
        ConfigError: A field is unknown or named twice, a value is missing, or there are more than
            `MOST_CANDIDATES` candidates.
    """
    fields = set(flatten_dict(config.to_dict(), sep=".", keep_empty_nodes=True))
    choices: dict[str, list[Any]] = {}
    for argument in arguments:
        path, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(f"--compare {shortened(argument)} has no values: write FIELD=a,b")
        is_option = path.startswith(OPTION) and path.removeprefix(OPTION).isidentifier()
        if path not in fields and not is_option:
            name = shortened(path) or "an empty name"
            raise ConfigError(
                f"--compare: {name} is no field of this config; {_suggestion(path, fields)}"
            )
        if path in choices:
            raise ConfigError(f"--compare names {path} twice: give all its values at once")
        choices[path] = [_value(value) for value in split_values(text, of=path)]
    number = math.prod(map(len, choices.values()))
    if number > MOST_CANDIDATES:
        raise ConfigError(
            f"--compare gives {number:,} candidates, more than {MOST_CANDIDATES:,}: give fewer"
        )
    return choices


def split_values(text: str, *, of: str) -> list[str]:
    """Splits a text at its commas, except inside brackets and quotes.

    Args:
        text: The text, such as "(0.9,0.95),(0.9,0.999)".
        of: The path of the field, for the message.

    Raises:
        ConfigError: A value is empty, or a bracket or quote is not closed.
    """
    values, start, open_until = [], 0, []
    for index, char in enumerate(text):
        if open_until and char == open_until[-1]:
            open_until.pop()
        elif open_until and open_until[-1] in "'\"":
            continue
        elif char in "'\"":
            open_until.append(char)
        elif char in _CLOSING:
            open_until.append(_CLOSING[char])
        elif char == "," and not open_until:
            values.append(text[start:index].strip())
            start = index + 1
    values.append(text[start:].strip())
    if open_until:
        raise ConfigError(
            f"--compare {of}={shortened(text)} has no closing {open_until[-1]}: close each bracket"
            " and quote"
        )
    if "" in values:
        raise ConfigError(f"--compare {of}={shortened(text)} has an empty value: remove a comma")
    return values


def make_candidates(
    config: ConfigDict, choices: Mapping[str, Sequence[Any]], devices: Sequence[jax.Device]
) -> list[Candidate]:
    """Returns the config for every combination of values.

    Args:
        config: The config as loaded from its file.
        choices: The result of `read_choices`.
        devices: The devices to compile for.

    Returns:
        The candidates; some may be refused because their values do not suit each other.

    Raises:
        ConfigError: A value is refused in every combination; the message names the reasons of all
            refusals, each with a candidate.
    """
    candidates, refusals, usable = [], defaultdict(list), set()
    for values in itertools.product(*choices.values()):
        fields = dict(zip(choices, values, strict=True))
        try:
            changed = _changed(config, fields, platform=devices[0].platform)
            candidates.append(Candidate(fields, place(changed, devices)[1]))
            usable |= {(path, repr(value)) for path, value in fields.items()}
        except ConfigError as error:
            candidates.append(Candidate(fields, None, str(error)))
            refusals[str(error)].append(_label(fields))
    given = {(path, repr(value)) for path, values in choices.items() for value in values}
    if given - usable:
        reasons = [
            f"{reason} (in {len(labels):,}, such as {labels[0]})"
            for reason, labels in refusals.items()
        ]
        raise ConfigError(
            f"{sum(map(len, refusals.values())):,} of {len(candidates):,} candidates are refused,"
            f" and none was compiled: {short_list(reasons, most=MAX_REASONS, rest='more reasons')}"
        )
    return candidates


def _changed(config: ConfigDict, fields: Mapping[str, Any], *, platform: str) -> ConfigDict:
    """Returns the resolved config with other values."""
    config = config.copy_and_resolve_references()
    options = {}
    for path, value in fields.items():
        if path.startswith(OPTION):
            options[path.removeprefix(OPTION)] = value
            continue
        section, name = find_field(config, path)
        with section.unlocked(), section.ignore_type():
            section[name] = value
    config = resolve(config)
    config = with_options(config, None)
    if not options:
        return config
    # The other options stay those of the config, or else of the devices.
    given = config.compiler_options
    base = compiler_options(platform) if given is None else given.to_dict()
    with config.unlocked(), config.ignore_type():
        config.compiler_options = ConfigDict(base | options)
    return resolve(config)


def _label(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{shortened(path)}={shortened(str(value))}" for path, value in fields.items())


def _suggestion(path: str, fields: set[str]) -> str:
    """Returns the end of a message: the fields with that last name, or else the nearest field."""
    same = sorted(field for field in fields if field.rpartition(".")[2] == path)
    return f"did you mean {' or '.join(same)}?" if same else nearest(path, sorted(fields))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
