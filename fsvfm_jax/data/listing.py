"""Which files of a folder are data: found recursively, with what is left out counted and named.

Folders come from anyone: links may lead in circles, and programs and systems leave files of their
own among the images. Data workers import it.
"""

import contextlib
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from fsvfm_jax.data.images import IMAGE_SUFFIXES
from fsvfm_jax.errors import DataError

logger = logging.getLogger(__name__)

MAX_DEPTH = 64  # folders in each other
MAX_ENTRIES = 20_000_000  # files and folders below one
MAX_SHOWN = 20

HIDDEN = "hidden or of the system"
AGAIN = "folders that a link leads to again"
DEEP = f"folders more than {MAX_DEPTH} deep"
_REASONS = {
    HIDDEN: "it is hidden, or one of the system",
    AGAIN: "it is a link to a folder that was searched already",
    DEEP: f"it is more than {MAX_DEPTH} folders deep",
}
# In lower case. Names that begin with a dot are hidden: `.ipynb_checkpoints`, `.Trash-1000`,
# `.DS_Store`, and `._x.png`, which macOS puts beside x.png.
_SYSTEM_NAMES = {"@eadir", "__macosx", "$recycle.bin", "lost+found", "system volume information"}
_SYSTEM_NAMES |= {"thumbs.db", "ehthumbs.db", "desktop.ini", "#recycle", "#snapshot", "@tmp"}
_SYSTEM_NAMES |= {"@recently-snapshot", "icon\r", "__pycache__", "found.000", "recycler"}


class LeftOut(NamedTuple):
    """A file that is not read, or a folder that is not searched.

    Attributes:
        name: Its path relative to the folder that was searched.
        kind: HIDDEN, AGAIN, DEEP, or for any other file its suffix in lower case.
    """

    name: str
    kind: str

    def reason(self, *, wanted: str) -> str:
        """Returns why it is left out where only what is `wanted` counts, such as "image"."""
        return _REASONS.get(self.kind, f"it is no {wanted} by its name")


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name, without a path, is hidden or one of the system's."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def suffix_of(name: str) -> str:
    """A name's suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def walk(
    folder: str,
    suffixes: Sequence[str] | None = IMAGE_SUFFIXES,
    *,
    left_out: list[LeftOut] | None = None,
    follow_links: bool = True,
    enter: Callable[[str], bool] = lambda name: True,
) -> Iterator[str]:
    """Yields the path, relative to folder, of every data file below it; nothing if it is not there.

    A folder that several links lead to is searched once: under its own name if it is below folder,
    else under the first of the links.

    Args:
        folder: Where to search.
        suffixes: What data files end with; None takes every file that is not hidden.
        left_out: What is left out is added to it; if None, one line of the log says it.
        follow_links: Whether linked folders are searched; else they are yielded as files are.
        enter: Whether a folder of this name is searched; one that is not does not count.

    Raises:
        DataError: A folder cannot be listed, or there are more than MAX_ENTRIES files and folders.
    """
    if not os.path.isdir(folder):
        return
    own = [] if left_out is None else left_out
    folders, links, seen, count = [""], deque[str](), set(), 0
    while folders or links:
        relative = folders.pop() if folders else links.popleft()
        here = os.path.join(folder, relative)
        with _listed(here):
            status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            own.append(LeftOut(relative, AGAIN))
            continue
        if relative.count(os.sep) >= MAX_DEPTH:
            own.append(LeftOut(relative, DEEP))
            continue
        seen.add((status.st_dev, status.st_ino))
        with _listed(here), os.scandir(here) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        count += len(entries)
        if count > MAX_ENTRIES:
            raise DataError(
                f"{folder} has over {MAX_ENTRIES:,} files and folders; pack such a set, or name a"
                " part of it"
            )
        for entry in entries:
            name = os.path.join(relative, entry.name)
            if is_system_name(entry.name):
                own.append(LeftOut(name, HIDDEN))
            elif _is_folder(entry) and (follow_links or not entry.is_symlink()):
                if enter(entry.name):
                    (links if entry.is_symlink() else folders).append(name)
            elif suffixes is None or suffix_of(name) in suffixes:
                yield name
            else:
                own.append(LeftOut(name, suffix_of(name)))
    if left_out is None:
        warn_of_left_out(folder, own)


def warn_of_left_out(folder: str, left_out: Sequence[LeftOut]) -> None:
    """Logs in one line what is left out of a folder: how many of each kind, and the first names."""
    if not left_out:
        return
    counts = Counter(kind or "without a suffix" for _, kind in left_out).most_common(MAX_SHOWN)
    more = ", ..." if len(left_out) > MAX_SHOWN else ""
    logger.warning(
        "%s: %d left out (%s): %s%s",
        folder,
        len(left_out),
        ", ".join(f"{count} {kind}" for kind, count in counts),
        ", ".join(name for name, _ in left_out[:MAX_SHOWN]),
        more,
    )


@contextlib.contextmanager
def _listed(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the data folder {folder} cannot be listed ({error.strerror}); make it readable"
        ) from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
