"""The SHA-256 of a file, local or in a bucket."""

import hashlib
from collections.abc import Callable
from typing import BinaryIO

BLOCK_BYTES = 2**22


def sha256_of(opened: BinaryIO, *, after_block: Callable[[], None] = lambda: None) -> str:
    """Returns the SHA-256 of an opened file from where it stands to its end, in hexadecimal.

    Args:
        opened: The file, open to read bytes.
        after_block: Called after every block of `BLOCK_BYTES`; what it raises ends the hashing.
    """
    digest = hashlib.sha256()
    while block := opened.read(BLOCK_BYTES):
        digest.update(block)
        after_block()
    return digest.hexdigest()
