"""Finds the photographs and videos to score; every file that cannot be read keeps its place."""

import itertools
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fsvfm_jax.data.images import IMAGE_SUFFIXES
from fsvfm_jax.data.listing import HIDDEN, LeftOut, suffix_of
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare.files import (
    VIDEO_SUFFIXES,
    WANTED,
    MediaFile,
    Refusal,
    admit,
    is_list,
    lines_of,
    list_names,
    names_in,
    root_of,
    warn_of_refusals,
)

logger = logging.getLogger(__name__)

STDIN = "-"
# Files of a folder that nobody expects to be scored: hidden ones, and those of other kinds.
_HIDDEN, _OTHER_KIND = (LeftOut("", kind).reason(wanted=WANTED) for kind in (HIDDEN, ""))


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
    folder = root_of(file, root)
    return Inputs(total, _admitted(folder, list_names(file)))


def _of_folder(folder: str) -> Inputs:
    try:
        names = names_in(folder)
    except DataError as error:
        return _one(Input(folder, None, str(error)))
    reasons = [(one, _reason_not_meant(one)) for one in names]
    warn_of_refusals(
        folder, (Refusal(_name_of(one), reason) for one, reason in reasons if reason is not None)
    )
    meant = [one for one, reason in reasons if reason is None]
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


def _name_of(one: str | Refusal) -> str:
    return one.name if isinstance(one, Refusal) else one


def _reason_not_meant(one: str | Refusal) -> str | None:
    """Returns why nobody expects a file of a folder to be scored, or None."""
    if isinstance(one, Refusal):
        return one.reason if one.reason in (_HIDDEN, _OTHER_KIND) else None
    return None if suffix_of(one) in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) else _OTHER_KIND


def _input(path: str, found: MediaFile | Refusal) -> Input:
    if isinstance(found, MediaFile):
        return Input(path, found, None)
    return Input(path, None, found.reason)
