"""Reads and writes the output file of `plan --compare`: one JSON line for each compiled program."""

import contextlib
import errno
import fcntl
import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypedDict

from msgspec import Meta

from fsvfm_jax.errors import DataError, StorageError, reason_of
from fsvfm_jax.host.json_files import parse_json
from fsvfm_jax.host.plain_files import append_plain, read_plain
from fsvfm_jax.host.storage import ELSEWHERE, written
from fsvfm_jax.plan.modules import Count, ModuleTotal, TopKernel

logger = logging.getLogger(__name__)

# A line has about 30 kB, and a command compares at most 1,000 candidates.
MAX_BYTES = 2**26
MAX_LINE = 2**20  # bytes
# Every line begins with this text, by which the beginning of a line is recognised as one.
BEGINNING = b'{"identity": "'
MEND = "free space; the same command then compiles only what is missing"

Above0 = Annotated[float, Meta(gt=0, lt=1e30)]
Positive = Annotated[int, Meta(ge=1, le=2**62)]


class StoredMemory(TypedDict):
    """The fields of `devices.memory.Memory` that the table shows."""

    temporary: Count | None
    total: Count
    available: Count | None


class Bound(TypedDict):
    """The fields of the bound that the table shows."""

    step_seconds: Above0
    images_per_second: Above0
    mfu: Above0


class Figures(TypedDict):
    """The fields of a plan that the table shows; a line has all others too.

    The fields in `COUNTED` are all None if the compiler refused the program for its memory.
    """

    batch_size: Positive
    images_per_device: Positive
    fits: bool | None
    memory: StoredMemory
    compile_seconds: Above0
    autotuned: bool
    moved_bytes: Count | None
    kernels: Count | None
    modules: list[ModuleTotal] | None
    top_kernels: list[TopKernel] | None
    bound: Bound | None


COUNTED = ("moved_bytes", "kernels", "modules", "top_kernels")


class Result(TypedDict):
    """The result of a candidate.

    Attributes:
        identity: `compare.identity_of`.
        error: The message of the compiler if it failed, or None.
        plan: The plan if it did not fail, or None.
    """

    identity: str
    error: str | None
    plan: Figures | None


class Line(Result):
    """The result of a candidate, as in a line of the file.

    Attributes:
        candidate: The compared fields with their values.
        command: The command line.
        config: The config file.
        topology: The devices.
        versions: Versions of JAX and the compilers.
        date: When it was finished.
    """

    candidate: dict[str, Any]
    command: str
    config: str
    topology: str
    versions: dict[str, str]
    date: str


def open_results(path: str) -> dict[str, Result]:
    """Returns the results in a file by identity, after a check that more can be appended.

    A last line that a killed command did not finish is removed. Blank lines are skipped.

    Args:
        path: The file, which may be missing.

    Raises:
        DataError: The file contains something else, or is damaged.
        StorageError: The file cannot be read or written.
    """
    with written(Path(path), mend=ELSEWHERE), _locked(path) as file:
        content = _content(path)
        results: dict[str, Result] = {}
        for number, line in enumerate(io.BytesIO(content), start=1):
            if not line.strip():
                continue
            try:
                result = _parse(line)
            except ValueError as error:
                if not _is_unfinished(line, error, after_results=bool(results)):
                    raise DataError(
                        f"--output={path} is damaged or no file of `plan --compare` (line"
                        f" {number}: {error}): choose another file"
                    ) from error
                logger.warning("%s: the last line is not complete and is removed", path)
                os.ftruncate(file.fileno(), len(content) - len(line))
            else:
                results[result["identity"]] = result
                if not line.endswith(b"\n"):
                    file.write(b"\n")
    return results


def append_result(path: str, line: Line) -> None:
    """Appends a result to a file as one line.

    Raises:
        DataError: The line has more than `MAX_LINE` bytes.
        StorageError: The file cannot be written.
    """
    text = json.dumps(line).encode() + b"\n"
    if len(text) > MAX_LINE:
        raise DataError(f"--output={path}: a line has {len(text):,} bytes: use a shorter command")
    with written(Path(path), mend=MEND), _locked(path) as file:
        size = os.fstat(file.fileno()).st_size
        if os.write(file.fileno(), text) < len(text):
            os.ftruncate(file.fileno(), size)  # No part of a line stays before the next line.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _locked(path: str) -> Iterator[BinaryIO]:
    """Yields the file open for appending; another command with the same file waits meanwhile."""
    with append_plain(path) as file:
        with contextlib.suppress(OSError):  # Some network disks have no locks.
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _content(path: str) -> bytes:
    try:
        return read_plain(path, max_bytes=MAX_BYTES)
    except OSError as error:
        raise StorageError(
            f"--output={path} cannot be read ({reason_of(error)}): choose another file"
        ) from error


def _parse(line: bytes) -> Result:
    """Returns the result in a line, without what only a reader of the file needs."""
    if len(line) > MAX_LINE:
        raise ValueError(f"it has more than {MAX_LINE:,} bytes")
    parsed = parse_json(line, Line)
    plan = parsed["plan"]
    if plan is not None and len({plan[name] is None for name in COUNTED}) > 1:
        raise ValueError(f"some of {', '.join(COUNTED)} are null, and others are not")
    return Result(identity=parsed["identity"], error=parsed["error"], plan=plan)


def _is_unfinished(line: bytes, error: ValueError, *, after_results: bool) -> bool:
    """Returns whether a line that cannot be parsed is the beginning of a line of this program."""
    if line.endswith(b"\n") or not isinstance(error, json.JSONDecodeError):
        return False
    return line.startswith(BEGINNING) or (after_results and BEGINNING.startswith(line))
