"""Finds the photographs and videos to score; every file that cannot be read keeps its place."""

import itertools
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fsvfm_jax.data.listing import HIDDEN
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare.files import (
    MediaFile,
    Refusal,
    admit,
    is_list,
    is_of_other_kind,
    lines_of,
    list_names,
    names_in,
    refused_by_name,
    root_of,
    warn_of_refusals,
)

logger = logging.getLogger(__name__)

STDIN = "-"


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


class Inputs(NamedTuple):
    """The files of all sources.

    Attributes:
        total: Their number; None if standard input names some of them.
        each: The files, in the order of the sources. Each is examined when its turn comes, so that
            any number of them fits into memory.
    """

    total: int | None
    each: Iterator[Input]


def find_inputs(sources: Sequence[str], *, root: str | None = None) -> Inputs:
    """Returns the files of all sources, in the order of the sources.

    Files that lie in a folder and are hidden, of the system, or no image or video by their names
    are left out, and a log line counts them.

    Args:
        sources: Images, videos, folders, lists of paths (.txt), and `-` for more sources on
            standard input, one per line.
        root: Folder to which the paths in lists are relative and in which they must lie; None
            means the folder of each list.

    Raises:
        DataError: Standard input is closed, or there is nothing to score.
        ConfigError: A root is given, and no source is a list.
    """
    if root is not None and STDIN not in sources and not any(map(is_list, sources)):
        raise ConfigError(f"--root={root} is for lists of paths (.txt), and no INPUT is one")
    if STDIN in sources and sys.stdin is None:
        raise DataError("standard input is closed, and - reads paths from it: name the files")
    found = [_of_stdin(root) if one == STDIN else _of_source(one, root) for one in sources]
    totals = [one.total for one in found]
    each = itertools.chain.from_iterable(one.each for one in found)
    first = next(each, None)
    if first is None:
        raise DataError("there is nothing to score: name images, videos, folders or lists")
    return Inputs(None if None in totals else sum(totals), itertools.chain([first], each))


def _of_stdin(root: str | None) -> Inputs:
    def each() -> Iterator[Input]:
        for source in lines_of(sys.stdin.buffer):
            yield from _of_source(source, root).each

    return Inputs(None, each())


def _of_source(source: str, root: str | None) -> Inputs:
    """Returns the files of one source, or the source itself if it cannot be read."""
    if "\0" in source:
        return _one(Input(source, None, "its name has a NUL"))
    if is_list(source):
        return _of_list(source, root)
    if os.path.isdir(source):
        return _of_folder(source)
    if os.path.isfile(source):
        folder, name = os.path.split(source)
        return _one(_input(source, admit(name, os.path.realpath(folder))))
    if os.path.lexists(source):
        return _one(Input(source, None, "it is neither a folder nor a plain file"))
    return _one(Input(source, None, "it does not exist"))


def _of_list(file: str, root: str | None) -> Inputs:
    try:
        total = sum(1 for _ in list_names(file))
    except DataError as error:
        return _one(Input(file, None, str(error)))
    if not total:
        return _one(Input(file, None, "it is a list without a path"))
    logger.info("%s is read as a list of %s paths", file, f"{total:,}")

    def each() -> Iterator[Input]:
        found = 0
        try:
            for one in _admitted(root_of(file, root), list_names(file)):
                found += 1
                yield one
        except DataError as error:
            yield Input(file, None, str(error))
            return
        if found != total:
            what = f"it was changed while it was read: first it had {total:,} paths, then {found:,}"
            yield Input(file, None, what)

    return Inputs(total, each())


def _of_folder(folder: str) -> Inputs:
    try:
        names = names_in(folder)
    except DataError as error:
        return _one(Input(folder, None, str(error)))
    found = [one if isinstance(one, Refusal) else refused_by_name(one) or one for one in names]
    meant = [one for one in found if not _is_unexpected(one)]
    warn_of_refusals(folder, filter(_is_unexpected, found))
    if not meant:
        return _one(Input(folder, None, "it has no image or video"))
    return Inputs(len(meant), _admitted(folder, meant))


def _one(found: Input) -> Inputs:
    return Inputs(1, iter([found]))


def _admitted(folder: str, names: Iterable[str | Refusal]) -> Iterator[Input]:
    """Yields the files of a folder, each of which is examined when its turn comes."""
    real = os.path.realpath(folder)
    for one in names:
        found = one if isinstance(one, Refusal) else admit(one, real)
        yield _input(os.path.join(folder, found.name), found)


def _is_unexpected(one: str | Refusal) -> bool:
    """Returns whether a file of a folder is hidden or of another kind, and needs no record."""
    return isinstance(one, Refusal) and (one.kind == HIDDEN or is_of_other_kind(one))


def _input(path: str, found: MediaFile | Refusal) -> Input:
    if isinstance(found, MediaFile):
        return Input(path, found, None)
    return Input(path, None, found.reason)
