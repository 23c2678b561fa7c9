"""Finds the photographs and videos to score; every file that cannot be read keeps its place."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fsvfm_jax.data.listing import HIDDEN, LeftOut
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare.files import (
    MAX_LIST_BYTES,
    WANTED,
    MediaFile,
    Refusal,
    find_files,
    is_list,
    root_of,
    warn_of_refusals,
)

STDIN = "-"
# Files of a folder that nobody expects to be scored: hidden ones, and those of other kinds.
_NOT_MEANT = {LeftOut("", kind).reason(wanted=WANTED) for kind in (HIDDEN, "")}


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

    Files that lie in a folder and are hidden, of the system, or no image or video by their names
    are left out, and a log line counts them.

    Args:
        sources: Images, videos, folders, lists of paths (.txt), and `-` for more sources on
            standard input, one per line.
        root: Folder to which the paths in lists are relative and in which they must lie; None
            means the folder of each list.

    Raises:
        DataError: Standard input is too long, or there is nothing to score.
        ConfigError: A root is given, and no source is a list.
    """
    sources = list(_with_stdin(sources))
    if root is not None and not any(map(is_list, sources)):
        raise ConfigError(f"--root={root} is for lists of paths (.txt), and no INPUT is one")
    inputs = [found for source in sources for found in _of_source(source, root)]
    if not inputs:
        raise DataError("there is nothing to score: name images, videos, folders or lists")
    return inputs


def _with_stdin(sources: Sequence[str]) -> Iterator[str]:
    for source in sources:
        if source != STDIN:
            yield source
            continue
        if sys.stdin is None:
            raise DataError("standard input is closed, and - reads paths from it: name the files")
        content = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
        if len(content) > MAX_LIST_BYTES:
            raise DataError(f"standard input has over {MAX_LIST_BYTES:,} bytes; give fewer paths")
        lines = (line.strip() for line in content.splitlines())
        yield from (os.fsdecode(line) for line in lines if line)


def _of_source(source: str, root: str | None) -> list[Input]:
    """Returns the files of one source, or the source itself if it cannot be read."""
    if "\0" in source:
        return [Input(source, None, "its name has a NUL")]
    try:
        found = find_files(source, root=root if is_list(source) else None)
    except DataError as error:
        return [Input(source, None, str(error))]
    is_folder = os.path.isdir(source)
    if not is_folder and not is_list(source):
        return [_input(source, one) for one in found]
    if is_folder:
        warn_of_refusals(source, filter(_is_not_meant, found))
        found = [one for one in found if not _is_not_meant(one)]
    if not found:
        return [Input(source, None, "it has no image or video")]
    folder = root_of(source, root)
    return [_input(os.path.join(folder, one.name), one) for one in found]


def _is_not_meant(found: MediaFile | Refusal) -> bool:
    return isinstance(found, Refusal) and found.reason in _NOT_MEANT


def _input(path: str, found: MediaFile | Refusal) -> Input:
    if isinstance(found, MediaFile):
        return Input(path, found, None)
    return Input(path, None, found.reason)
