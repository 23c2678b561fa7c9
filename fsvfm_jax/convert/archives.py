"""Opens zip archives from untrusted sources: their directory is checked before it is read."""

import io
import zipfile
from typing import BinaryIO

# The largest network with its optimizer has 2,200 arrays and a directory of about 250 kB.
MAX_DIRECTORY_BYTES = 2**22
MAX_ENTRIES = 20_000


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """Opens a zip archive whose directory is not larger than any checkpoint's.

    Args:
        file: The archive; it must have a file descriptor.

    Returns:
        The open archive.

    Raises:
        zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError: The archive is
            damaged or too large, or has entries of the same name.
    """
    # zipfile reads a directory of any length with one call, which `_SmallReads` limits.
    with _SmallReads(io.FileIO(file.fileno(), closefd=False)) as careful:
        zipfile.ZipFile(careful).close()
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"it has {len(entries)} entries, and a checkpoint {MAX_ENTRIES} at most")
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("it has entries of the same name")
    return archive


class _SmallReads(io.BufferedReader):
    """A file that refuses large reads."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise ValueError(f"its directory of {size} bytes is no checkpoint's")
        return super().read(size)
