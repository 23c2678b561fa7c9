"""Finds the data files of a folder recursively, and counts and names the files left out.

A folder may come from anyone: links may lead in circles, and programs and operating systems leave
files of their own among the images. Data workers import this module.
"""

import bisect
import contextlib
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from fsvfm_jax.data.images import IMAGE_SUFFIXES
from fsvfm_jax.errors import DataError, reason_of

logger = logging.getLogger(__name__)

MAX_DEPTH = 64  # nested folders
MAX_ENTRIES = 20_000_000  # files and folders below one folder
MAX_SHOWN = 20
MAX_KINDS = 1000

HIDDEN = "hidden or of the system"
AGAIN = "folders that a link leads to again"
DEEP = f"folders more than {MAX_DEPTH} deep"
OTHERS = "of other kinds"
_REASONS = {
    HIDDEN: "it is hidden, or one of the system",
    AGAIN: "it is a link to a folder that was searched already",
    DEEP: f"it is more than {MAX_DEPTH} folders deep",
}
# The names are in lower case. Names that begin with a dot are hidden anyway: `.ipynb_checkpoints`,
# `.Trash-1000`, `.DS_Store`, and `._x.png`, which macOS puts beside x.png.
_SYSTEM_NAMES = {"@eadir", "__macosx", "$recycle.bin", "lost+found", "system volume information"}
_SYSTEM_NAMES |= {"thumbs.db", "ehthumbs.db", "desktop.ini", "#recycle", "#snapshot", "@tmp"}
_SYSTEM_NAMES |= {"@recently-snapshot", "icon\r", "__pycache__", "found.000", "recycler"}


class LeftOut(NamedTuple):
    """A file that is not read, or a folder that is not searched.

    Attributes:
        name: Path relative to the folder that was searched.
        kind: HIDDEN, AGAIN or DEEP; for any other file its suffix in lower case.
    """

    name: str
    kind: str

    def reason(self, *, wanted: str) -> str:
        """Returns why the file is left out of a search for `wanted` files, such as "image"."""
        return _REASONS.get(self.kind, f"it is no {wanted} by its name")


class Tally:
    """Counts the files left out, in little memory however many files there are.

    Args:
        left_out: Files and folders to count at once.

    Attributes:
        kinds: Number of files of each kind. Kinds beyond the first MAX_KINDS count as OTHERS.
        first: The first MAX_SHOWN names in sorted order.
    """

    def __init__(self, left_out: Iterable[LeftOut] = ()):
        self.kinds: Counter[str] = Counter()
        self.first: list[str] = []
        for one in left_out:
            self.add(one)

    def add(self, one: LeftOut) -> None:
        """Counts a file or folder."""
        is_known = one.kind in self.kinds or len(self.kinds) < MAX_KINDS
        self.kinds[one.kind if is_known else OTHERS] += 1
        if len(self.first) < MAX_SHOWN or one.name < self.first[-1]:
            bisect.insort(self.first, one.name)
            del self.first[MAX_SHOWN:]


def is_system_name(name: str) -> bool:
    """Returns whether a name without a path is hidden or belongs to the operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def suffix_of(name: str) -> str:
    """Returns a name's suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def walk(
    folder: str,
    suffixes: Sequence[str] | None = IMAGE_SUFFIXES,
    *,
    leave_out: Callable[[LeftOut], None] | None = None,
    follow_links: bool = True,
    enter: Callable[[str], bool] = lambda name: True,
) -> Iterator[str]:
    """Yields the path of every data file below a folder, relative to the folder.

    Yields nothing if the folder does not exist. The order is arbitrary. A folder with several links
    to it is searched once: under its own name if it is below `folder`, or under the first link.

    Args:
        folder: The folder to search.
        suffixes: Suffixes of data files; None takes every file that is not hidden.
        leave_out: Called with each file or folder left out; None reports them in one log line.
        follow_links: Whether to search linked folders; otherwise they are yielded like files.
        enter: Returns whether to search a folder, given its name. A folder that is not searched
            does not count as left out.

    Raises:
        DataError: A folder cannot be listed, or there are more than MAX_ENTRIES files and folders.
    """
    if not os.path.isdir(folder):
        return
    tally = Tally()
    leave = leave_out or tally.add
    folders, links, seen, count = [""], deque[str](), set(), 0
    while folders or links:
        relative = folders.pop() if folders else links.popleft()
        here = os.path.join(folder, relative)
        with _listed(here):
            status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            leave(LeftOut(relative, AGAIN))
            continue
        if relative.count(os.sep) >= MAX_DEPTH:
            leave(LeftOut(relative, DEEP))
            continue
        seen.add((status.st_dev, status.st_ino))
        inside, linked = list[str](), list[str]()
        for entry in _entries(here):
            count += 1
            _check_count(folder, count)
            name = os.path.join(relative, entry.name)
            if is_system_name(entry.name):
                leave(LeftOut(name, HIDDEN))
            elif _is_folder(entry) and (follow_links or not entry.is_symlink()):
                if enter(entry.name):
                    (linked if entry.is_symlink() else inside).append(name)
            elif suffixes is None or suffix_of(name) in suffixes:
                yield name
            else:
                leave(LeftOut(name, suffix_of(name)))
        # Sorting makes the choice between two links to one folder depend on their names alone.
        folders += sorted(inside)
        links += sorted(linked)
    if leave_out is None:
        warn_of_left_out(folder, tally)


def warn_of_left_out(folder: str, tally: Tally) -> None:
    """Logs how many files of each kind a search left out, and the first names, in one line."""
    if not tally.kinds:
        return
    counts = [
        (kind or "without a suffix", count) for kind, count in tally.kinds.most_common(MAX_SHOWN)
    ]
    more = ", ..." if tally.kinds.total() > MAX_SHOWN else ""
    logger.warning(
        "%s: %d left out (%s): %s%s",
        folder,
        tally.kinds.total(),
        ", ".join(f"{count} {kind}" for kind, count in counts),
        ", ".join(tally.first),
        more,
    )


def _entries(folder: str) -> Iterator[os.DirEntry]:
    with _listed(folder), os.scandir(folder) as found:
        yield from found


def _check_count(folder: str, count: int) -> None:
    if count > MAX_ENTRIES:
        raise DataError(
            f"{folder} has over {MAX_ENTRIES:,} files and folders; pack such a set, or name a part"
            " of it"
        )


@contextlib.contextmanager
def _listed(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the data folder {folder} cannot be listed ({reason_of(error)}); make it readable"
        ) from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself raises this error.
        return False
