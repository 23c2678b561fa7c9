"""Reads the text after the colon of --config=FILE:ARGUMENTS: words between commas, in any order."""

import difflib
from collections.abc import Collection, Mapping
from typing import TypeVar

from fsvfm_jax.errors import ConfigError

T = TypeVar("T")
MOST_LISTED = 12  # With more words, a message names the nearest one.


def split(arg: str, known: Collection[str]) -> list[str]:
    """Returns the words of a config file's argument.

    Args:
        arg: The text after the colon, such as "l,smoke"; "" has no words.
        known: The words that the config file takes, in the order that the message lists them.

    Raises:
        ConfigError: A word is not known; the message has the nearest one, or lists all.
    """
    words = arg.split(",") if arg else []
    for word in words:
        if word not in known:
            close = difflib.get_close_matches(word, known, n=1)
            if len(known) > MOST_LISTED and close:
                hint = f"did you mean {close[0]!r}?"
            else:
                hint = f"it takes {', '.join(known)}"
            raise ConfigError(f"this config file takes no argument {word!r}; {hint}")
    return words


def pick(words: Collection[str], choices: Collection[str], *, default: str, what: str) -> str:
    """Returns the one word that is among the choices.

    Args:
        words: The words that `split` returned.
        choices: The words of which a run has exactly one.
        default: The choice if no word is among the choices.
        what: What the choices are, for the message, such as "size".

    Raises:
        ConfigError: Several words are among the choices.
    """
    named = [word for word in words if word in choices] or [default]
    if len(named) > 1:
        raise ConfigError(f"a run has one {what}, not {' and '.join(named)}")
    return named[0]


def size_and_smoke(arg: str, sizes: Mapping[str, T]) -> tuple[T, bool]:
    """Returns the entry of the size that an argument names, and whether it asks for a tiny run.

    Args:
        arg: The text after the colon: a size, "smoke", both, or "".
        sizes: The recipe of each size; the default is "b".

    Raises:
        ConfigError: A word is not known, or there are several sizes.
    """
    words = split(arg, (*sizes, "smoke"))
    return sizes[pick(words, sizes, default="b", what="size")], "smoke" in words
