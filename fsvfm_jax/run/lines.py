"""The files of JSON lines in a workdir: one line for each step, epoch or validation."""

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, BinaryIO, TypedDict

from etils import epath
from msgspec import Meta

from fsvfm_jax.host.json_files import parse_json
from fsvfm_jax.host.plain_files import FileRefused, append_plain, open_plain
from fsvfm_jax.host.storage import set_aside, whole_file, written

LINES = ("metrics.jsonl", "epochs.jsonl", "validation.jsonl", "alarms.jsonl")
MAX_LINE_BYTES = 2**20
MAX_LINES_BYTES = 2**33


class _Line(TypedDict):
    """The part of every line that is read back."""

    step: Annotated[int, Meta(ge=0)]


def append_line(path: epath.Path, record: Mapping[str, Any]) -> None:
    """Appends a record as one line of JSON; a link is never followed.

    Raises:
        StorageError: The file cannot be written.
    """
    with written(path), append_plain(path) as file:
        file.write(json.dumps(record).encode() + b"\n")


def drop_later_lines(path: epath.Path, step: int) -> None:
    """Rewrites a file of JSON lines without the lines of later steps and without a torn line.

    If some of the other lines belong to no step, the old file is set aside. An entry at the path
    that is not a file is set aside too.

    Args:
        path: The file, which may be missing.
        step: The last step whose line is kept.

    Raises:
        StorageError: The file cannot be rewritten.
    """
    if not os.path.lexists(path):
        return
    with written(path):
        try:
            lines = open_plain(path, max_bytes=MAX_LINES_BYTES)
        except FileRefused as error:
            set_aside(path, error.strerror)
            return
        except FileNotFoundError:
            set_aside(path, "it is a link to a file that is missing")
            return
        # If the process is killed during the rewrite, the old file stays complete.
        with lines, whole_file(path) as kept:
            odd = copy_lines(lines, kept, step)
            if odd:
                set_aside(path, f"{odd} of its lines are no JSON of a step and are left out")


def copy_lines(lines: BinaryIO, kept: BinaryIO, step: int) -> int:
    """Copies the lines up to a step and returns the number of lines that belong to no step.

    Args:
        lines: The file to read.
        kept: The file to write.
        step: The last step whose line is copied.
    """
    odd = 0
    for line in iter(partial(lines.readline, MAX_LINE_BYTES), b""):
        try:
            record = parse_json(line, _Line)
        except ValueError:
            odd += line.endswith(b"\n")  # A killed run leaves a line without an end.
            continue
        if record["step"] <= step:
            kept.write(line.rstrip(b"\n") + b"\n")
    return odd
