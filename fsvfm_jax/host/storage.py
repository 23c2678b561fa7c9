"""Reads and writes files so that a file is either complete or absent.

A folder that the user names may be a link to a folder, such as one on a larger disk. In that folder
no link is followed: a file that is written replaces it, and `make_own_folder` sets it aside.
"""

import contextlib
import errno
import io
import itertools
import json
import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from etils import epath

from fsvfm_jax.errors import StorageError, reason_of
from fsvfm_jax.host.json_files import MAX_JSON_BYTES, parse_json
from fsvfm_jax.host.plain_files import FileRefused, open_plain

logger = logging.getLogger(__name__)

# What the user can do if a file cannot be written.
CONTINUE = (
    "free space, or give permission; the same command then goes on from the newest checkpoint"
)
ELSEWHERE = "free space, or choose a folder that is writable"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # errors of a disk without hard links
_BUFFER_BYTES = 2**20
UNFINISHED = ".unfinished"  # ending of a file that is being written


def in_bucket(path: epath.PathLike) -> bool:
    """Returns whether the path is in an object store.

    An object is always written as a whole and cannot be renamed, and a store never becomes full.
    """
    return "://" in str(path)


@contextlib.contextmanager
def written(path: epath.PathLike, *, mend: str = CONTINUE) -> Iterator[None]:
    """Wraps code that writes a file, and names the file in the error if writing fails.

    Args:
        path: The file that is written.
        mend: The end of the error sentence: what the user can do.

    Raises:
        StorageError: The file cannot be written, for example without space or permission.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({reason_of(error)}): {mend}") from error


def write_json(file: epath.Path, content: Any) -> None:
    """Writes a JSON file as a whole; if the process is killed, the previous file is unchanged.

    Args:
        file: The file.
        content: A value that `json` can write.

    Raises:
        StorageError: The file cannot be written.
    """
    write_text(file, json.dumps(content, indent=1) + "\n")


def write_text(file: epath.Path, text: str) -> None:
    """Writes a UTF-8 text file as a whole; raises StorageError like `write_json`."""
    write_bytes(file, text.encode())


def write_bytes(file: epath.Path, content: bytes) -> None:
    """Writes bytes to a file as a whole; raises StorageError like `write_json`."""
    with written(file):
        replace_bytes(file, content)


def replace_bytes(file: epath.Path, content: bytes) -> None:
    """Writes bytes to any file as a whole; replaces a link instead of following it.

    Raises:
        OSError: The file cannot be written.
    """
    if in_bucket(file):
        file.write_bytes(content)
        return
    with whole_file(file) as opened:
        opened.write(content)


@contextlib.contextmanager
def whole_file(file: Path | epath.Path, *, is_new: bool = False) -> Iterator[BinaryIO]:
    """Yields a new open file, which gets its name when the `with` statement ends.

    The file is complete or unchanged, even if the process is killed; a killed process leaves only
    `.<number>.unfinished` behind. No other file is changed, and several processes may write the
    same file at the same time: the last one wins.

    Args:
        file: A local file, which may exist already; a link of that name is replaced.
        is_new: Whether nothing may be replaced, not even what appears under the name while the
            file is written.

    Raises:
        OSError: The file cannot be written or replaced, or is there already (`is_new`).
    """
    temporary = file.with_name(f".{uuid.uuid4().hex}{UNFINISHED}")
    with open(temporary, "xb") as opened:  # An existing file or link is never opened.
        try:
            yield opened
            opened.close()
            if is_new:
                _name_new(temporary, file)
            else:
                temporary.replace(file)
        except BaseException:
            with contextlib.suppress(OSError):  # The first error is more important.
                temporary.unlink(missing_ok=True)
            raise


def _name_new(temporary: Path | epath.Path, file: Path | epath.Path) -> None:
    """Gives a file its name, unless something has the name already."""
    try:
        os.link(temporary, file)  # It never replaces anything.
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(file):
            raise
        temporary.replace(file)
    else:
        temporary.unlink()


def check_folder(folder: Path, *, flag: str) -> None:
    """Checks before the work that files can be written into a folder, which may be missing.

    Args:
        folder: A local folder, or a link to one.
        flag: The flag that names the folder, for the message.

    Raises:
        StorageError: The folder cannot be created, or takes no file.
    """
    reason = None
    if os.path.lexists(folder):
        if not folder.is_dir():
            reason = "it is a link to nothing" if not folder.exists() else "it is no folder"
    else:
        folder = next(x for x in folder.absolute().parents if os.path.lexists(x))
        if not folder.is_dir():
            reason = f"{folder} is no folder"
    if reason is None and not os.access(folder, os.W_OK | os.X_OK):
        reason = f"there is no permission to write into {folder}"
    if reason is not None:
        raise StorageError(f"{flag} cannot be written ({reason}): choose another folder")


def read_stored_json(file: epath.Path, schema: Any, *, mend: str) -> Any:
    """Returns the value in a JSON file of a run.

    Args:
        file: A file of the workdir, which may be in a bucket.
        schema: Type of the value, as `host.json_files.parse_json` takes it.
        mend: The end of the error sentence: what the user can do if the file is damaged.

    Raises:
        StorageError: The file is missing, not a plain file, or damaged.
    """
    try:
        content = read_bytes(file, max_bytes=MAX_JSON_BYTES)
        return parse_json(content, schema)
    except OSError as error:
        raise StorageError(f"{file} cannot be read ({reason_of(error)}): {mend}") from error
    except ValueError as error:
        raise StorageError(f"{file} is damaged ({error}): {mend}") from error


def read_bytes(file: epath.Path, *, max_bytes: int, follow_links: bool = True) -> bytes:
    """Returns the bytes of a file of a run, in a folder or in a bucket.

    Args:
        file: The file.
        max_bytes: The largest size that such a file can have.
        follow_links: Whether the file may be a symbolic link.

    Raises:
        OSError: The file is missing, not a plain file, or has more than `max_bytes`.
    """
    with open_bytes(file, max_bytes=max_bytes, follow_links=follow_links) as opened:
        content = opened.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise FileRefused(errno.EFBIG, f"it has more than {max_bytes:,} bytes", str(file))
    return content


def open_bytes(file: epath.Path, *, max_bytes: int, follow_links: bool = True) -> BinaryIO:
    """Opens a file of a run for reading bytes; raises the errors of `read_bytes`."""
    if not in_bucket(file):
        return open_plain(file, max_bytes=max_bytes, follow_links=follow_links)
    size = file.stat().length
    if size > max_bytes:
        raise FileRefused(errno.EFBIG, f"it has {size:,} bytes, more than {max_bytes:,}", str(file))
    # The client's own file reads no line up to a limit.
    return io.BufferedReader(file.open("rb"), _BUFFER_BYTES)


def is_own_folder(path: epath.Path) -> bool:
    """Returns whether the path is a folder and not a link, which could lead anywhere."""
    return path.is_dir() and (in_bucket(path) or not os.path.islink(path))


def make_own_folder(path: epath.Path) -> None:
    """Creates a folder. Renames anything else at the path, including a link to a folder.

    Raises:
        OSError: The folder cannot be created.
        StorageError: The existing entry cannot be renamed.
    """
    if in_bucket(path):  # A bucket has no folders.
        return
    if os.path.lexists(path) and not is_own_folder(path):
        is_link = os.path.islink(path)
        set_aside(path, "it is a link, which is not followed" if is_link else "it is no folder")
    path.mkdir(parents=True, exist_ok=True)


def delete(path: epath.Path) -> None:
    """Deletes a folder with its content, or any other entry; a link is removed, not its target.

    Raises:
        OSError: The entry cannot be deleted.
    """
    if is_own_folder(path):
        path.rmtree()
    else:
        path.unlink()


def set_aside(path: epath.Path, reason: str) -> None:
    """Renames an unreadable entry that the run can do without to `<name>.odd-1`, `-2`, ...

    Args:
        path: A file, or anything in its place, in a local folder.
        reason: Why the entry cannot be read, for the log.

    Raises:
        StorageError: The entry cannot be renamed.
    """
    names = (f"{path.name}.odd-{count}" for count in itertools.count(1))
    target = next(path.with_name(name) for name in names if not os.path.lexists(path.parent / name))
    with written(target):
        path.rename(target)
    logger.warning("%s is set aside as %s: %s", path, target.name, reason)
