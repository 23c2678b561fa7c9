"""Errors that a user can correct, each with the exit code of the command that raises it."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

MAX_SHOWN = 200  # characters of a value in a message
MAX_NAMES = 20  # names in a message
MAX_KNOWN = 50  # names that may be meant instead of an unknown one
MAX_NAME = 250  # characters of a name in a list of names


class UserError(Exception):
    """A mistake in the user's input; a command prints its message without a traceback."""

    exit_code = 70


class DataError(UserError):
    """A file, folder or array is missing, unreadable or of the wrong form; the message names it."""

    exit_code = 65


class SomeFailed(UserError):
    """A command has done its work for some files, and not for others; its output names them."""

    exit_code = 66


class NotFiniteError(UserError):
    """Loss, gradient or parameters were infinite or not a number more often than is accepted."""

    exit_code = 72


class StorageError(UserError):
    """A file or folder that the run writes to cannot be written."""

    exit_code = 73


class Preempted(UserError):
    """The run was asked to stop and has saved its state; the same command continues it."""

    exit_code = 75


class CollapseError(UserError):
    """The network gives almost the same output for all faces, and the config ends such a run."""

    exit_code = 76


class ConfigError(UserError):
    """A configuration field, or a checkpoint of another configuration, does not fit."""

    exit_code = 78


class StepTooLarge(ConfigError):
    """The compiler refuses the training step because of its memory."""


class OutOfMemory(UserError):
    """A device's memory ran out, also if another program took it; a new start may succeed."""


def in_one_line(error: Exception) -> str:
    """Returns the message of another library's error on one line, after the type of the error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def reason_of(error: Exception) -> str:
    """Returns the operating system's description of an error, or else the error's message."""
    return getattr(error, "strerror", None) or str(error)


def brief(value: Any) -> str:
    """Returns the `repr` of a value for a message: one line of at most `MAX_SHOWN` characters."""
    try:
        shown = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # The value has too many digits or is nested too deeply.
        return f"a value of type {type(value).__name__}"
    return shortened(shown)


def shortened(text: str) -> str:
    """Returns the first `MAX_SHOWN` characters of a text, followed by dots if it is longer."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def short_list(names: Sequence[str], *, most: int = MAX_NAMES, rest: str = "more") -> str:
    """Returns the first names of a list for a message, and the number of the others.

    Args:
        names: Any number of names.
        most: The greatest number of names to show.
        rest: The word after the number of the others.
    """
    shown, left = ", ".join(names[:most]), len(names) - most
    return f"{shown} and {left:,} {rest}" if left > 0 else shown


def quoted(names: Sequence[str]) -> str:
    """Returns the first names of a list for a message, in quotes; "nothing" for an empty list."""
    return short_list([repr(name[:MAX_NAME]) for name in names]) or "nothing"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about a mistyped name: the nearest known name, or all names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {short_list(known, most=MAX_KNOWN)}"
