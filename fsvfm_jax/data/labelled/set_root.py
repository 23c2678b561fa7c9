"""The root of a labelled set: the folders and pictures in it, and what is left out."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from shlex import quote

from fsvfm_jax.data.labelled.videos import Picture
from fsvfm_jax.data.listing import LeftOut, Tally, is_system_name, walk
from fsvfm_jax.errors import DataError, quoted, reason_of


class Excluded:
    """Names of classes and folders that are left out of a set.

    Attributes:
        met: Those of them that the set has.
    """

    def __init__(self, names: Iterable[str]):
        self._names = frozenset(names)
        self.met: set[str] = set()

    def has(self, names: Iterable[str]) -> bool:
        """Whether one of these is left out."""
        met = self._names.intersection(names)
        self.met |= met
        return bool(met)

    def has_folder_of(self, path: str) -> bool:
        """Whether a folder of a path that a list names is left out."""
        return self.has(path.replace("\\", "/").split("/")[:-1])


@dataclass(frozen=True)
class SetRoot:
    """Where a set lies, and what of it is left out.

    Attributes:
        path: The set's folder.
        others: Further folders that lists may name files in.
        excluded: The classes and folders that the user leaves out.
        field: The field of the config that describes the set, such as "config.data.test.DFDC"; "".
        left_out: Counts the files and folders that are no pictures, as they are found.
    """

    path: str
    others: Sequence[str]
    excluded: Excluded
    field: str
    left_out: Tally = field(default_factory=Tally)

    def option(self, name: str) -> str:
        """Returns what messages call an option of the set: the field of the config, if any."""
        return f"{self.field}.{name}" if self.field else name

    def flag(self, option: str, value: str) -> str:
        """Returns how a user sets an option of the set.

        The value may come from a stranger's list: it is quoted for a shell.
        """
        name = self.option(option)
        return f"--{name}={quote(value)}" if self.field else f"{name}={value!r}"


def walk_pictures(root: SetRoot, path: str, folder: str, *, label: str) -> list[Picture]:
    """The pictures below a folder of the path, sorted, without those in excluded folders."""
    where = os.path.join(path, folder)
    below = os.path.relpath(where, root.path)

    def leave_out(one: LeftOut) -> None:
        root.left_out.add(one._replace(name=os.path.join(below, one.name)))

    files = walk(where, leave_out=leave_out, enter=lambda name: not root.excluded.has([name]))
    names = sorted(os.path.join(folder, file) for file in files)
    return [Picture(name, label, os.path.join(path, name), where) for name in names]


def subfolder(folder: str, *names: str) -> str:
    """Returns the path of a folder in a folder in a folder.

    Raises:
        DataError: One is not there; the message names those that are.
    """
    for name in names:
        parent, folder = folder, os.path.join(folder, name)
        if not os.path.isdir(folder):
            there = quoted(folders_in(parent))
            raise DataError(f"{folder} does not exist; in {parent} there is {there}")
    return folder


def folders_in(parent: str) -> list[str]:
    """Returns the names of its folders, sorted, without those that are hidden or of the system.

    Raises:
        DataError: It cannot be listed.
    """
    try:
        with os.scandir(parent) as found:
            names = [x.name for x in found if x.is_dir() and not is_system_name(x.name)]
    except OSError as error:
        raise DataError(
            f"{parent} cannot be listed ({reason_of(error)}); make it readable"
        ) from error
    return sorted(names)
