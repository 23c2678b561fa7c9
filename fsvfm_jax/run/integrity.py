"""Decides which saved steps are valid, by a manifest of hashes per step, and handles the others.

Orbax commits a step and never checks its bytes again; it would restore a flipped bit unnoticed.
Here a step is valid only if its `manifest.json` lists the SHA-256 of all its files and the files
still match. Markers inside a step record every other state, because an object store can neither
rename nor delete a folder at once. What is interrupted between marking and moving is completed at
the next start.
"""

import errno
import json
import logging
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, NotRequired, TypedDict

from etils import epath
from msgspec import Meta

from fsvfm_jax.errors import reason_of
from fsvfm_jax.host.hashing import sha256_of
from fsvfm_jax.host.json_files import MAX_JSON_BYTES, parse_json
from fsvfm_jax.host.plain_files import FileRefused
from fsvfm_jax.host.storage import (
    delete,
    in_bucket,
    is_own_folder,
    make_own_folder,
    open_bytes,
    read_bytes,
    set_aside,
    write_json,
    write_text,
)

logger = logging.getLogger(__name__)

STEP_MANIFEST = "manifest.json"
# In a step that is damaged: why. It is moved out of the way and never deleted.
QUARANTINE_FILE = "quarantined.txt"
# A step that is no longer retained contains this file while it is being deleted.
RETIRED_FILE = "retired.txt"
# Orbax writes this file last; the names of its unfinished folders contain `TEMPORARY`.
COMMIT_FILE = "commit_success.txt"
# This file beside `checkpoints` contains the number of the step that is being saved, until the step
# is valid.
SAVING_FILE = "saving.txt"
TEMPORARY = ".orbax-checkpoint-tmp"
MARKERS = (STEP_MANIFEST, QUARANTINE_FILE, RETIRED_FILE)
CHUNK_BYTES = 2**22
HASHING_THREADS = 4
# A step's folder is at most 3 levels deep, and has some files for each process.
MAX_DEPTH = 16
# A manifest with this many files and names of this length in JSON fits in MAX_JSON_BYTES.
MAX_FILES = 2**15
MAX_NAME = 192
MAX_FILE_BYTES = 2**42
MAX_NOTE_BYTES = 2**12
# The number of a step as it is written: 007, -7 and digits of other scripts are not steps.
_NUMBER = re.compile("0|[1-9][0-9]{0,17}")


_Name = Annotated[str, Meta(max_length=MAX_NAME)]


class Manifest(TypedDict):
    """The content of a step's manifest.

    Attributes:
        score: Score of the step; lower is better.
        files: SHA-256 of each file, in hexadecimal, by the file's path in the step's folder.
        sizes: Bytes of each file; manifests of older versions do not contain it.
    """

    score: float
    files: dict[_Name, Annotated[str, Meta(max_length=64)]]
    sizes: NotRequired[dict[_Name, Annotated[int, Meta(ge=0)]]]


def steps(directory: epath.Path) -> list[int]:
    """Returns all steps that have a folder, in ascending order, whatever their state."""
    if not directory.exists():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if _is_step(path))


def _is_step(path: epath.Path) -> bool:
    return _NUMBER.fullmatch(path.name) is not None and is_own_folder(path)


def begin_step(directory: epath.Path, number: int) -> None:
    """Records that a step is about to be saved: the step is not valid until it is finished.

    Args:
        directory: `<workdir>/checkpoints`.
        number: Number of the step.

    Raises:
        OSError: The step's folder cannot be made. Orbax would find that out too, but leaves threads
            that keep the process from ending for ten minutes.
        StorageError: The record cannot be written.
    """
    write_text(directory.parent / SAVING_FILE, str(number))
    if not in_bucket(directory):
        tried = directory / f"{number}{TEMPORARY}-tried"
        tried.mkdir(exist_ok=True)
        tried.rmdir()


def finish_step(directory: epath.Path, number: int, *, score: float) -> None:
    """Makes a step that Orbax has committed valid.

    Args:
        directory: `<workdir>/checkpoints`.
        number: Number of the step.
        score: Score of the step; lower is better.
    """
    step = directory / str(number)
    sizes = _sizes(step)
    manifest = Manifest(score=score, files=_hashes(step, sizes), sizes=sizes)
    write_json(step / STEP_MANIFEST, manifest)
    (directory.parent / SAVING_FILE).unlink(missing_ok=True)


def unfinished_step(directory: epath.Path) -> int | None:
    """Returns the step that a run is saving, or was saving when it died; None if it is unknown."""
    try:
        text = read_bytes(directory.parent / SAVING_FILE, max_bytes=MAX_NOTE_BYTES).decode()
    except (OSError, ValueError):
        return None
    return int(text) if _NUMBER.fullmatch(text) else None


def damage(step: epath.Path) -> str | None:
    """Returns why a step is not valid, or None; it reads and hashes all files of the step."""
    try:
        if (step / QUARANTINE_FILE).exists():
            return _read_reason(step / QUARANTINE_FILE)
        if (step / RETIRED_FILE).exists():
            return "it was being deleted"
        if not (step / STEP_MANIFEST).exists():
            return f"its {STEP_MANIFEST} is missing"
        manifest = _read_manifest(step)
        return _difference(step, manifest["files"], manifest.get("sizes"))
    except (OSError, ValueError) as error:
        return f"it cannot be read ({reason_of(error)})"


def _read_manifest(step: epath.Path) -> Manifest:
    return parse_json(read_bytes(step / STEP_MANIFEST, max_bytes=MAX_JSON_BYTES), Manifest)


def _read_reason(marker: epath.Path) -> str:
    try:
        text = read_bytes(marker, max_bytes=MAX_NOTE_BYTES).decode(errors="replace").strip()
    except OSError as error:
        text = f"{marker.name} cannot be read ({reason_of(error)})"
    return text or "it was marked so"


def _difference(
    step: epath.Path, expected: Mapping[str, str], sizes: Mapping[str, int] | None
) -> str | None:
    """Returns the first difference from the manifest, or None.

    Names and sizes are compared before anything is hashed. The names in the manifest are never
    opened: they are only compared with the names of the files found.
    """
    found = _sizes(step)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} was added"
        if sizes is not None and sizes.get(name) != found[name]:
            return f"{name} has changed since it was written: it has {found[name]:,} bytes"
    hashes = _hashes(step, found)
    for name in sorted(found):
        if hashes[name] != expected[name]:
            return f"{name} has changed since it was written"
    return None


def quarantine(step: epath.Path, reason: str) -> None:
    """Marks a step as never to be restored, and records the reason."""
    logger.warning("checkpoint %s is quarantined: %s", step, reason)
    write_text(step / QUARANTINE_FILE, reason + "\n")


def retire(step: epath.Path) -> None:
    """Deletes a step in an order in which a partly deleted step is never valid."""
    write_text(step / RETIRED_FILE, "of no more use\n")
    delete(step)


def tidy(directory: epath.Path) -> None:
    """Completes what a killed run began: moves marked steps away and deletes incomplete ones.

    Args:
        directory: `<workdir>/checkpoints`; quarantined steps are moved to `<workdir>/quarantine`.
    """
    for path in list(directory.iterdir()) if directory.exists() else []:
        if TEMPORARY in path.name:
            delete(path)
        elif path.name.isdigit() and not _is_step(path):
            # Orbax would treat it as a step, perhaps as the newest one. A link itself is moved, and
            # nothing is written to its target.
            logger.warning("%s is no checkpoint: it is moved to quarantine", path)
            _put_away(path)
    unfinished = unfinished_step(directory)
    if unfinished is not None and (directory / str(unfinished)).exists():
        step = directory / str(unfinished)
        # The step may be valid if the run died before it removed the record.
        if damage(step) is not None:
            delete(step)
    _remove_note(directory.parent / SAVING_FILE, odd=unfinished is None)
    for number in steps(directory):
        step = directory / str(number)
        # In a store without renaming, Orbax writes a step under its final name from the start.
        unwritten = not any((step / name).exists() for name in (COMMIT_FILE, *MARKERS))
        if unwritten or (step / RETIRED_FILE).exists():
            delete(step)
        elif (step / QUARANTINE_FILE).exists():
            _put_away(step)


def _remove_note(note: epath.Path, *, odd: bool) -> None:
    """Removes the record of a save; logs an invalid record and sets a folder aside."""
    if not note.exists():
        return
    if note.is_dir():
        set_aside(note, "it is a folder")
        return
    if odd:
        logger.warning("%s names no step: it is removed", note)
    note.unlink(missing_ok=True)


def _put_away(path: epath.Path) -> None:
    """Moves a step to the folder quarantine, under an unused name."""
    room = path.parent.parent / "quarantine"
    make_own_folder(room)
    taken = {other.name for other in room.iterdir()} if room.exists() else set()
    names = (f"{path.name}-{count}" for count in range(1, len(taken) + 2))
    _move(path, room / next(name for name in names if name not in taken))


def retained(
    scores: Mapping[int, float], *, keep: int, keep_every: int, keep_best: int
) -> set[int]:
    """Returns the steps to keep.

    Args:
        scores: Score of each step; lower is better.
        keep: Number of newest steps to keep.
        keep_every: Keep the steps that are a multiple of it; 0 for none.
        keep_best: Number of best steps to keep. The older of two equal steps is the better one; a
            step whose score is NaN is the worst.
    """
    newest = sorted(scores)[-keep:]
    multiples = [n for n in scores if keep_every and n % keep_every == 0]
    best = sorted(scores, key=lambda n: (math.isnan(scores[n]), scores[n], n))[:keep_best]
    return {*newest, *multiples, *best}


def score(step: epath.Path) -> float:
    """Returns the score in the manifest of a step; NaN if the manifest cannot be read."""
    try:
        return _read_manifest(step)["score"]
    except (OSError, ValueError):
        return math.nan


def _move(step: epath.Path, target: epath.Path) -> None:
    if not in_bucket(step):
        step.rename(target)
        return
    # A bucket has no folders to rename.
    for name in [*_sizes(step), *(name for name in MARKERS if (step / name).exists())]:
        with (step / name).open("rb") as source, (target / name).open("wb") as copy:
            shutil.copyfileobj(source, copy, CHUNK_BYTES)
    delete(step)


def _hashes(step: epath.Path, sizes: Mapping[str, int]) -> dict[str, str]:
    names = sorted(sizes)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return dict(zip(names, pool.map(partial(_hash, step), names), strict=True))


def _hash(step: epath.Path, name: str) -> str:
    with open_bytes(step / name, max_bytes=MAX_FILE_BYTES) as file:
        return sha256_of(file)


def _sizes(step: epath.Path) -> dict[str, int]:
    """Returns the bytes of all files except our own markers, by their relative paths."""
    sizes: dict[str, int] = {}
    for name in _walk(step, "", depth=0):
        sizes[name] = (step / name).stat().length
        if len(sizes) > MAX_FILES:
            raise FileRefused(errno.E2BIG, f"it has more than {MAX_FILES:,} files", str(step))
    return sizes


def _walk(folder: epath.Path, prefix: str, *, depth: int) -> Iterator[str]:
    """Yields the relative paths of all files except our own markers.

    Links to files are included, because a store may keep the contents elsewhere. A link to a folder
    could lead anywhere and is refused.
    """
    if depth > MAX_DEPTH:
        raise FileRefused(errno.ELOOP, f"{prefix} is too deep", str(folder))
    for path in folder.iterdir():
        name = prefix + path.name
        if len(json.dumps(name)) > MAX_NAME:
            raise FileRefused(errno.ENAMETOOLONG, f"the name {name} is too long", str(path))
        if path.is_dir():
            if not is_own_folder(path):
                raise FileRefused(errno.ELOOP, f"{name} is a link to a folder", str(path))
            yield from _walk(path, f"{name}/", depth=depth + 1)
        elif prefix or name not in MARKERS:
            yield name
