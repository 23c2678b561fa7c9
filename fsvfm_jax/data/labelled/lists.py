"""Reads lists of faces as people provide them: lines of text, JSON, and the paths in them.

A list may come from a stranger or from another machine. It is opened only as a plain file of
limited size, and no path in it leads out of the folders that the user has named.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fsvfm_jax.data.labelled.set_root import SetRoot
from fsvfm_jax.errors import DataError, quoted, reason_of
from fsvfm_jax.host.json_files import read_json
from fsvfm_jax.host.plain_files import read_plain

# This is a million lines of 250 characters.
MAX_LIST_BYTES = 2**28
MAX_PATH = 4096
_MAX_LINE = 2 * MAX_PATH
_MAX_STRIPPED_PARTS = 64
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}


def read_lines(file: str) -> Iterator[tuple[str, str]]:
    """Yields the lines of a list that are neither blank nor comments, each with its place.

    Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. Other bytes are kept as they are,
    since they may be part of a file's name.

    Raises:
        DataError: The file cannot be opened, is not text, or has a line that is too long.
    """
    for number, line in enumerate(re.split(r"\r\n|\r|\n", _read_text(file)), start=1):
        text, where = line.strip(), f"{file} line {number}"
        if len(text) > _MAX_LINE:
            raise DataError(
                f"{where} has {len(text):,} characters; a line of a list has a path and a label,"
                f" and at most {_MAX_LINE:,} characters"
            )
        if text and not text.startswith("#"):
            yield text, where


def load_json(file: str, schema: Any = Any) -> Any:
    """Returns the content of a list in JSON.

    Args:
        file: The list.
        schema: Type of the content, as for `json_files.parse_json`.

    Raises:
        DataError: The file cannot be opened, is not JSON, or does not match the schema.
    """
    try:
        return read_json(file, schema, max_bytes=MAX_LIST_BYTES)
    except OSError as error:
        raise _refused(file, error) from error
    except ValueError as error:
        raise DataError(f"{file} is no JSON that can be read ({error}); fetch it anew") from error


def entries(value: Any, where: str) -> Sequence[tuple[str, Any]]:
    """Returns the entries of a JSON object.

    Args:
        value: The value that should be an object.
        where: Place of the value, for the message.

    Raises:
        DataError: The value is not an object.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where} is {type(value).__name__}, not an object; fetch the list anew")
    return list(value.items())


def entry(value: Any, key: str, where: str) -> Any:
    """Returns an entry of a JSON object.

    Args:
        value: The value that should be an object.
        key: Key of the entry.
        where: Place of the value, for the message.

    Raises:
        DataError: The value is not an object or has no such entry; the message names its entries.
    """
    by_key: Mapping[str, Any] = dict(entries(value, where))
    if key not in by_key:
        raise DataError(f"{where} has no {key!r}; it has {quoted(list(by_key))}")
    return by_key[key]


def find_picture(
    name: str, root: SetRoot, where: str, *, strip_prefix: str = ""
) -> tuple[str, str]:
    r"""Returns the file that a list names, and its path, which is relative if it is below the root.

    Args:
        name: The name in the list; `\` counts as `/`.
        root: The root of the set.
        where: Place in the list, for the message.
        strip_prefix: Beginning to remove from names.

    Raises:
        DataError: The path leads out of the root and of the other roots, has a drive, or is not a
            valid path (`check_name`).
    """
    name, prefix = name.replace("\\", "/"), strip_prefix.replace("\\", "/")
    if prefix and name.startswith(prefix):
        name = name.removeprefix(prefix).lstrip("/")
    check_name(name, where, advice=lambda: propose_prefix(name, root))
    path = os.path.normpath(name)
    has_drive = re.match(r"[A-Za-z]:", path)
    roots = [os.path.join(one, "") for one in (root.path, *root.others)]
    if has_drive or (os.path.isabs(path) and not path.startswith(tuple(roots))):
        advice = propose_prefix(name, root) or (
            "; a list names files below that folder or below one of config.data.paths, and"
            f" {root.flag('strip_prefix', 'BEGINNING/')} removes the beginning of its paths"
        )
        raise DataError(f"{where} names {name!r}, which is not below {root.path}{advice}")
    relative = path.removeprefix(roots[0])
    return os.path.join(root.path, relative), relative


def check_name(name: str, where: str, *, advice: Callable[[], str] = str) -> None:
    """Checks that a name in a list can be a path that stays below its folder.

    Args:
        name: The name in the list.
        where: Place in the list, for the message.
        advice: Returns the end of the message about "..".

    Raises:
        DataError: The name contains "..", NUL, or a surrogate that does not stand for a byte of a
            file name, or is longer than a path can be.
    """
    if len(name) > MAX_PATH:
        raise DataError(f"{where} names a path of {len(name):,} characters; {MAX_PATH:,} are most")
    if "\0" in name or ".." in name.replace("\\", "/").split("/"):
        reason = "a path may hold neither '..' nor NUL"
        raise DataError(f"{where} names {name!r}; {reason}{advice()}")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} names {name!r}, which has half of a surrogate pair and can be no file's name;"
            " correct it"
        ) from error


def propose_prefix(name: str, root: SetRoot) -> str:
    """Returns the end of a message: the prefix without which a list's path is a file, or ""."""
    parts = name.split("/")
    for start in range(1, min(len(parts), _MAX_STRIPPED_PARTS)):
        rest = parts[start:]
        if ".." not in rest and rest[0] and os.path.isfile(os.path.join(root.path, *rest)):
            prefix = "/".join(parts[:start]) + "/"
            found = "/".join(rest)
            return f"; {root.path} has {found!r}: give {root.flag('strip_prefix', prefix)}"
    return ""


def _read_text(file: str) -> str:
    try:
        content = read_plain(file, max_bytes=MAX_LIST_BYTES)
    except OSError as error:
        raise _refused(file, error) from error
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            try:
                return content.removeprefix(mark).decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"the list {file} begins as {encoding} and is not ({error.reason}); save it as"
                    " UTF-8"
                ) from error
    beginning = content[:4096]
    # In UTF-16 without a byte order mark every ASCII character has a NUL beside it.
    if 4 * beginning.count(0) > len(beginning):
        raise DataError(f"the list {file} is UTF-16 or no text at all; save it as UTF-8")
    return os.fsdecode(content.removeprefix(b"\xef\xbb\xbf"))


def _refused(file: str, error: OSError) -> DataError:
    there = ""
    if error.errno == errno.ENOENT:
        there = f"; beside it there is {quoted(_lists_beside(file))}"
    return DataError(
        f"the list {file} cannot be read ({reason_of(error)}); name the file that says what belongs"
        f" to the set{there}"
    )


def _lists_beside(file: str) -> list[str]:
    folder, suffix = os.path.dirname(file) or os.curdir, os.path.splitext(file)[1]
    try:
        return sorted(name for name in os.listdir(folder) if suffix and name.endswith(suffix))
    except OSError:
        return []
