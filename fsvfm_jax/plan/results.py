"""Reads and writes the output file of `plan --compare`: one JSON line for each compiled program."""

import json
import logging
import os
from pathlib import Path
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from fsvfm_jax.errors import DataError, StorageError, reason_of
from fsvfm_jax.host.json_files import parse_json
from fsvfm_jax.host.plain_files import append_plain, read_plain
from fsvfm_jax.host.storage import ELSEWHERE, written
from fsvfm_jax.plan.modules import ModuleTotal, TopKernel

logger = logging.getLogger(__name__)

MAX_BYTES = 2**28
# Every line begins with this text, by which the beginning of a line is recognised as one.
BEGINNING = b'{"identity": "'
MEND = "free space; the same command then compiles only what is missing"

Count = Annotated[int, Meta(ge=0, le=2**62)]
Positive = Annotated[int, Meta(ge=1, le=2**62)]


class StoredMemory(TypedDict):
    """The fields of `devices.memory.Memory` that the table shows."""

    temporary: Count | None
    total: Count
    available: Count | None


class Bound(TypedDict):
    """The fields of the bound that the table shows."""

    step_seconds: float
    images_per_second: float
    mfu: float


class Figures(TypedDict):
    """The fields of a plan that the table shows; a line has all others too."""

    batch_size: Positive
    images_per_device: Positive
    fits: bool | None
    memory: StoredMemory
    compile_seconds: float
    autotuned: bool
    moved_bytes: Count | None
    kernels: Count | None
    modules: list[ModuleTotal] | None
    top_kernels: list[TopKernel] | None
    bound: Bound | None


class Result(TypedDict):
    """The result of a candidate, as in a line of the file.

    Attributes:
        identity: `compare.identity_of`.
        candidate: The compared fields with their values.
        command: The command line.
        config: The config file.
        topology: The devices.
        versions: Versions of JAX and the compilers.
        date: When it was finished.
        error: The message of the compiler if it failed, or None.
        plan: The plan if it did not fail, or None.
    """

    identity: str
    candidate: dict[str, Any]
    command: str
    config: str
    topology: str
    versions: dict[str, str]
    date: str
    error: str | None
    plan: Figures | None


def open_results(path: str) -> dict[str, Result]:
    """Returns the results in a file by identity, after a check that more can be appended.

    A line that a killed command did not finish is removed.

    Args:
        path: The file, which may be missing.

    Raises:
        DataError: The file contains something else, or is damaged.
        StorageError: The file cannot be read or written.
    """
    try:
        content = read_plain(path, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise StorageError(
            f"--output={path} cannot be read ({reason_of(error)}): choose another file"
        ) from error
    *lines, rest = content.split(b"\n")
    results = {}
    for number, line in enumerate(lines, start=1):
        try:
            result = parse_json(line, Result)
        except ValueError as error:
            raise DataError(
                f"--output={path} is damaged or no file of `plan --compare` (line {number}:"
                f" {error}): choose another file"
            ) from error
        results[result["identity"]] = result
    if not (rest.startswith(BEGINNING) or BEGINNING.startswith(rest)):
        raise DataError(f"--output={path} is no file of `plan --compare`: choose another file")
    with written(Path(path), mend=ELSEWHERE), append_plain(path):
        if rest:
            logger.warning("%s: the last line is not complete and is removed", path)
            os.truncate(path, len(content) - len(rest))
    return results


def append_result(path: str, result: Result) -> None:
    """Appends a result to a file as one line.

    Raises:
        StorageError: The file cannot be written.
    """
    with written(Path(path), mend=MEND), append_plain(path) as file:
        file.write(json.dumps(result).encode() + b"\n")
