"""The root of a labelled set: its folders and pictures, and the names that are left out."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from shlex import quote

from fsvfm_jax.data.labelled.videos import Picture
from fsvfm_jax.data.listing import LeftOut, Tally, is_system_name, walk
from fsvfm_jax.errors import DataError, quoted, reason_of


class Excluded:
    """Names of classes and folders that are left out of a set.

    Args:
        names: The names.

    Attributes:
        met: The names that were found in the set.
    """

    def __init__(self, names: Iterable[str]):
        self._names = frozenset(names)
        self.met: set[str] = set()

    def has(self, names: Iterable[str]) -> bool:
        """Returns whether one of these names is left out."""
        met = self._names.intersection(names)
        self.met |= met
        return bool(met)

    def has_folder_of(self, path: str) -> bool:
        """Returns whether a folder of a path in a list is left out."""
        return self.has(path.replace("\\", "/").split("/")[:-1])


@dataclass(frozen=True)
class SetRoot:
    """The folder of a set, and the names that are left out of it.

    Attributes:
        path: Folder of the set.
        others: Further folders that may contain files of lists.
        excluded: The classes and folders that the user leaves out.
        field: Name of the config's field that describes the set, such as "config.data.test.DFDC",
            or "" if there is none.
        left_out: Counts the files and folders that are not pictures, as they are found.
    """

    path: str
    others: Sequence[str]
    excluded: Excluded
    field: str
    left_out: Tally = field(default_factory=Tally)

    def option(self, name: str) -> str:
        """Returns an option's name for messages, with the field of the config if there is one."""
        return f"{self.field}.{name}" if self.field else name

    def flag(self, option: str, value: str) -> str:
        """Returns the text by which a user sets an option of the set.

        Args:
            option: Name of the option.
            value: Its value. It may come from a stranger's list, and is therefore quoted for a
                shell.
        """
        name = self.option(option)
        return f"--{name}={quote(value)}" if self.field else f"{name}={value!r}"


def walk_pictures(root: SetRoot, path: str, folder: str, *, label: str) -> list[Picture]:
    """Returns the sorted pictures below a folder, without those in excluded folders.

    Args:
        root: The set.
        path: Folder to which the names of the pictures are relative.
        folder: Folder to search, relative to `path`.
        label: Name of the class of the pictures.
    """
    where = os.path.join(path, folder)
    below = os.path.relpath(where, root.path)

    def leave_out(one: LeftOut) -> None:
        root.left_out.add(one._replace(name=os.path.join(below, one.name)))

    files = walk(where, leave_out=leave_out, enter=lambda name: not root.excluded.has([name]))
    names = sorted(os.path.join(folder, file) for file in files)
    return [Picture(name, label, os.path.join(path, name), where) for name in names]


def subfolder(folder: str, *names: str) -> str:
    """Returns the path of a nested folder.

    Args:
        folder: The outermost folder.
        names: Names of the folders inside it, from outer to inner.

    Raises:
        DataError: A folder is missing; the message names the folders that exist.
    """
    for name in names:
        parent, folder = folder, os.path.join(folder, name)
        if not os.path.isdir(folder):
            folders, files = folders_in(parent), len(os.listdir(parent))
            there = quoted(folders) if folders or not files else f"no folder, only {files:,} files"
            above, last = os.path.split(os.path.normpath(parent))
            hint = f"; the folder above, {above}, may be meant" if last == name else ""
            raise DataError(f"{folder} does not exist; in {parent} there is {there}{hint}")
    return folder


def folders_in(parent: str) -> list[str]:
    """Returns the sorted names of the folders in a folder, without hidden and system folders.

    Raises:
        DataError: The folder cannot be listed.
    """
    try:
        with os.scandir(parent) as found:
            names = [x.name for x in found if x.is_dir() and not is_system_name(x.name)]
    except OSError as error:
        raise DataError(
            f"{parent} cannot be listed ({reason_of(error)}); make it readable"
        ) from error
    return sorted(names)
