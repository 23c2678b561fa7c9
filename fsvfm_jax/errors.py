"""Errors a user can mend, each with the exit code its command ends with."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

MAX_TOLD = 200  # characters of a value
MAX_NAMES = 20
MAX_NAME = 250  # characters of one of several names


class UserError(Exception):
    """A mistake in what the user gave: `main` prints its message, not a traceback, and exits."""

    exit_code = 70


class DataError(UserError):
    """A file, folder or array is missing, unreadable or of the wrong form; the message names it."""

    exit_code = 65


class NotFiniteError(UserError):
    """Loss, gradient or parameters were infinite or not a number, more often than is accepted."""

    exit_code = 72


class StorageError(UserError):
    """What the run writes to cannot be written."""

    exit_code = 73


class Preempted(UserError):
    """The run was asked to stop and has saved its state: start it again."""

    exit_code = 75


class ConfigError(UserError):
    """A configuration field, or a checkpoint of another configuration, does not fit."""

    exit_code = 78


def in_one_line(error: Exception) -> str:
    """What another library says, on one line, with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def reason_of(error: Exception) -> str:
    """Why something failed: the operating system's words, or else the error's message."""
    return getattr(error, "strerror", None) or str(error)


def told(value: Any) -> str:
    """A value for a message: in one line, and shortened."""
    try:
        shown = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # A number of thousands of digits; very deep nesting.
        return f"a value of type {type(value).__name__}"
    return shortened(shown)


def shortened(text: str) -> str:
    """The first `MAX_TOLD` characters of a text, with dots where it is longer."""
    return text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}..."


def short_list(names: Sequence[str], *, most: int = MAX_NAMES, rest: str = "more") -> str:
    """The first names of a list for a message, and the number of the others.

    Args:
        names: Of any number.
        most: How many are shown.
        rest: What follows the number of the others.
    """
    shown, left = ", ".join(names[:most]), len(names) - most
    return f"{shown} and {left} {rest}" if left > 0 else shown


def quoted(names: Sequence[str]) -> str:
    """The first names of a list for a message, in quotes; "nothing" for an empty list."""
    return short_list([repr(name[:MAX_NAME]) for name in names]) or "nothing"


def nearest(name: str, known: Iterable[str]) -> str:
    """Half a sentence that helps someone who mistyped: the nearest known name, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
