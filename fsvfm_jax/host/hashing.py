"""Hashes files by SHA-256: a file, local or in a bucket, and the code in a folder."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 2**22


def sha256_of(opened: BinaryIO, *, after_block: Callable[[], None] = lambda: None) -> str:
    """Returns the SHA-256 of an opened file from its current position to its end, in hexadecimal.

    Args:
        opened: The file, opened for reading bytes.
        after_block: Called after every block of `BLOCK_BYTES`; hashing ends if it raises an error.
    """
    digest = hashlib.sha256()
    while block := opened.read(BLOCK_BYTES):
        digest.update(block)
        after_block()
    return digest.hexdigest()


def sha256_of_code(folder: Path) -> str:
    """Returns a hash, in hexadecimal, that changes with any line of the Python files in a folder.

    Args:
        folder: A folder of this package, whose subfolders count too.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
