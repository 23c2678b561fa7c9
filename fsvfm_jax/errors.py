"""Errors a user can mend, each with the exit code its command ends with."""

import difflib
from collections.abc import Iterable
from typing import Any

MAX_TOLD = 200  # characters


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


def told(value: Any) -> str:
    """A value for a message: in one line, and shortened."""
    try:
        shown = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # A number of thousands of digits; very deep nesting.
        return f"a value of type {type(value).__name__}"
    return shown if len(shown) <= MAX_TOLD else f"{shown[:MAX_TOLD]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """Half a sentence that helps someone who mistyped: the nearest known name, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
