"""Finds the photographs and videos to score; every file that cannot be read keeps its place."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fsvfm_jax.data.listing import HIDDEN, LeftOut, Tally, warn_of_left_out
from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.files import (
    MAX_LIST_BYTES,
    WANTED,
    MediaFile,
    Refusal,
    find_files,
    is_list,
    root_of,
)

STDIN = "-"
_HIDDEN_REASON = LeftOut("", HIDDEN).reason(wanted=WANTED)


class Input(NamedTuple):
    """A file to score, or one that cannot be read.

    Attributes:
        path: The path under which the user finds the file.
        media: The photograph or video; None if it cannot be read.
        error: Why it cannot be read; None if nothing is known yet.
    """

    path: str
    media: MediaFile | None
    error: str | None


def find_inputs(sources: Sequence[str], *, root: str | None = None) -> list[Input]:
    """Returns the files of all sources, in the order of the sources.

    Hidden files of a folder and those of the system are left out, and a log line counts them.

    Args:
        sources: Images, videos, folders, lists of paths (.txt), and `-` for more sources on
            standard input, one per line.
        root: Folder to which the paths in lists are relative and in which they must lie; None
            means the folder of each list.

    Raises:
        DataError: Standard input is too long, or there is nothing to score.
    """
    inputs = [found for source in _with_stdin(sources) for found in _of_source(source, root)]
    if not inputs:
        raise DataError("there is nothing to score: name images, videos, folders or lists")
    return inputs


def _with_stdin(sources: Sequence[str]) -> Iterator[str]:
    for source in sources:
        if source != STDIN:
            yield source
            continue
        content = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
        if len(content) > MAX_LIST_BYTES:
            raise DataError(f"standard input has over {MAX_LIST_BYTES:,} bytes; give fewer paths")
        yield from (os.fsdecode(line) for line in content.splitlines() if line.strip())


def _of_source(source: str, root: str | None) -> list[Input]:
    """Returns the files of one source, or the source itself if it cannot be read."""
    if "\0" in source:
        return [Input(source, None, "its name has a NUL")]
    try:
        found = find_files(source, root=root if is_list(source) else None)
    except DataError as error:
        return [Input(source, None, str(error))]
    is_folder = os.path.isdir(source)
    if all(map(_is_hidden, found)) and (is_folder or is_list(source)):
        return [Input(source, None, "it has no image or video")]
    if not is_folder and not is_list(source):
        return [_input(source, one) for one in found]
    folder = root_of(source, root)
    hidden = {one for one in found if is_folder and _is_hidden(one)}
    warn_of_left_out(source, Tally(LeftOut(one.name, HIDDEN) for one in hidden))
    return [_input(os.path.join(folder, one.name), one) for one in found if one not in hidden]


def _is_hidden(found: MediaFile | Refusal) -> bool:
    return isinstance(found, Refusal) and found.reason == _HIDDEN_REASON


def _input(path: str, found: MediaFile | Refusal) -> Input:
    if isinstance(found, MediaFile):
        return Input(path, found, None)
    return Input(path, None, found.reason)
