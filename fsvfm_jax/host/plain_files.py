"""Opens files that may come from a stranger: only plain files, and only up to a given size.

Opening a named pipe waits for a writer, reading a device never ends, and a sparse file of 50 GB
takes a minute to hash. Every reader of this package therefore opens local files with this module.
"""

import contextlib
import errno
import os
import stat
import sys
from typing import BinaryIO

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FileRefused(OSError):
    """The file exists but is not opened; `strerror` is the reason, as the end of a sentence."""


def open_plain(
    path: str | os.PathLike[str], *, max_bytes: int, follow_links: bool = True
) -> BinaryIO:
    """Opens a local file for reading bytes, and never waits.

    Args:
        path: The file.
        max_bytes: The largest size that such a file can have.
        follow_links: Whether the file may be a symbolic link. Links among the folders of its path
            are always followed.

    Raises:
        FileRefused: The path is a folder, named pipe, socket or device, the file has more than
            `max_bytes`, or the path is a link and links are not followed.
        OSError: The file is missing or cannot be opened.
    """
    path = os.fspath(path)
    # This check comes first because opening a device can have side effects.
    _check_plain(path, os.stat(path, follow_symlinks=follow_links), max_bytes=max_bytes)
    return _open(path, os.O_RDONLY, "rb", max_bytes=max_bytes, follow_links=follow_links)


def append_plain(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a local file for adding bytes at its end, and never waits. Creates a missing file.

    Raises:
        FileRefused: The path is a link, folder, named pipe, socket or device.
        OSError: The file cannot be opened.
    """
    path = os.fspath(path)
    with contextlib.suppress(FileNotFoundError):
        _check_plain(path, os.lstat(path), max_bytes=sys.maxsize)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    return _open(path, flags, "ab", max_bytes=sys.maxsize, follow_links=False)


def read_plain(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Returns the bytes of a local file.

    Args:
        path: The file.
        max_bytes: The largest size that such a file can have.

    Raises:
        FileRefused: As `open_plain`.
        OSError: As `open_plain`.
    """
    with open_plain(path, max_bytes=max_bytes) as opened:
        content = opened.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise _too_large(os.fspath(path), "more", max_bytes)
    return content


def _open(path: str, flags: int, mode: str, *, max_bytes: int, follow_links: bool) -> BinaryIO:
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow_links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, 0o666)
    try:
        # Another file may have replaced the one that was checked before.
        _check_plain(path, os.fstat(descriptor), max_bytes=max_bytes)
        return os.fdopen(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def _check_plain(path: str, status: os.stat_result, *, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no plain file")
        raise FileRefused(errno.EINVAL, f"it is {kind}, not a plain file", path)
    if status.st_size > max_bytes:
        raise _too_large(path, f"{status.st_size:,}", max_bytes)


def _too_large(path: str, size: str, max_bytes: int) -> FileRefused:
    reason = f"it has {size} bytes; such a file has at most {max_bytes:,}"
    return FileRefused(errno.EFBIG, reason, path)
