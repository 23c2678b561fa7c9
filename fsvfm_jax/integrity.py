"""Which saved steps can be trusted: a manifest of hashes per step, and what becomes of the others.

Orbax commits a step and never looks at its bytes again; a flipped bit would be restored as it is. A
step counts here only once `manifest.json` in it lists the SHA-256 of all its files, and only while
they are so. Markers inside a step say what else it is, since an object store can neither rename nor
delete a folder at once: what is interrupted between marking and moving is done at the next start.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from etils import epath

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
# In a step that is damaged: why. It is moved out of the way and never deleted.
QUARANTINE_FILE = "quarantined.txt"
# In a step that the retention policy gives up, while it is being deleted.
RETIRED_FILE = "retired.txt"
# Orbax's own: what it writes last, and what is in the names of folders that it has not finished.
COMMIT_FILE = "commit_success.txt"
TEMPORARY = ".orbax-checkpoint-tmp"
MARKERS = (MANIFEST_FILE, QUARANTINE_FILE, RETIRED_FILE)
UNFINISHED = f"it has no {MANIFEST_FILE}: the run died while saving it, or the file was removed"
CHUNK_BYTES = 2**22
HASHING_THREADS = 4


def steps(directory: epath.Path) -> list[int]:
    """Every step that has a folder, in whatever state, ascending."""
    if not directory.exists():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def write_manifest(step: epath.Path) -> None:
    """Makes a committed step valid."""
    content = {"files": _hashes(step)}
    (step / MANIFEST_FILE).write_text(json.dumps(content, indent=1) + "\n")


def damage(step: epath.Path) -> str | None:
    """Why a step cannot be trusted, or None: reads and hashes all of its files."""
    for marker in (QUARANTINE_FILE, RETIRED_FILE):
        if (step / marker).exists():
            return (step / marker).read_text().strip()
    if not (step / MANIFEST_FILE).exists():
        return UNFINISHED
    try:
        expected = json.loads((step / MANIFEST_FILE).read_text())["files"]
        found = _hashes(step)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read ({type(error).__name__}: {error})"
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} was added"
        if found[name] != expected[name]:
            return f"{name} has changed since it was written"
    return None


def quarantine(step: epath.Path, reason: str) -> None:
    """Marks a step as one that is never restored."""
    logger.warning("checkpoint %s is quarantined: %s", step, reason)
    (step / QUARANTINE_FILE).write_text(reason + "\n")


def retire(step: epath.Path) -> None:
    """Deletes a step in an order that leaves no half of it valid."""
    (step / RETIRED_FILE).write_text("of no more use\n")
    step.rmtree()


def tidy(directory: epath.Path) -> None:
    """Finishes what a killed run began: moves marked steps out of the way, deletes unwritten ones.

    Args:
        directory: `<workdir>/checkpoints`; what is quarantined goes to `<workdir>/quarantine`.
    """
    for path in list(directory.iterdir()) if directory.exists() else []:
        if TEMPORARY in path.name:
            path.rmtree()
    for number in steps(directory):
        step = directory / str(number)
        # Where Orbax cannot rename, a step has its name from the beginning.
        unwritten = not any((step / name).exists() for name in (COMMIT_FILE, *MARKERS))
        if unwritten or (step / RETIRED_FILE).exists():
            step.rmtree()
        elif (step / QUARANTINE_FILE).exists():
            room = directory.parent / "quarantine"
            taken = {path.name for path in room.iterdir()} if room.exists() else set()
            names = (f"{number}-{count}" for count in range(1, len(taken) + 2))
            _move(step, room / next(name for name in names if name not in taken))


def retained(numbers: list[int], *, keep: int, keep_every: int) -> set[int]:
    """Of ascending steps the `keep` newest, and every multiple of `keep_every` unless that is 0."""
    return {n for n in numbers if n in numbers[-keep:] or (keep_every and n % keep_every == 0)}


def _move(step: epath.Path, target: epath.Path) -> None:
    if "://" not in str(step):
        target.parent.mkdir(parents=True, exist_ok=True)
        step.rename(target)
        return
    # A bucket has no folders to rename.
    for name in [*_walk(step, ""), *(name for name in MARKERS if (step / name).exists())]:
        with (step / name).open("rb") as source, (target / name).open("wb") as copy:
            shutil.copyfileobj(source, copy, CHUNK_BYTES)
    step.rmtree()


def _hashes(step: epath.Path) -> dict[str, str]:
    names = sorted(_walk(step, ""))
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return dict(zip(names, pool.map(partial(_hash, step), names), strict=True))


def _walk(folder: epath.Path, prefix: str) -> Iterator[str]:
    """Relative paths of all files but our own markers."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _walk(path, f"{prefix}{path.name}/")
        elif prefix or path.name not in MARKERS:
            yield prefix + path.name


def _hash(step: epath.Path, name: str) -> str:
    digest = hashlib.sha256()
    with (step / name).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
