"""Which saved steps can be trusted: a manifest of hashes per step, and what becomes of the others.

Orbax commits a step and never looks at its bytes again; a flipped bit would be restored as it is. A
step counts here only once `manifest.json` in it lists the SHA-256 of all its files, and only while
they are so. Markers inside a step say what else it is, since an object store can neither rename nor
delete a folder at once: what is interrupted between marking and moving is done at the next start.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from etils import epath

from fsvfm_jax.run_files import in_bucket, write_json

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
# In a step that is damaged: why. It is moved out of the way and never deleted.
QUARANTINE_FILE = "quarantined.txt"
# In a step that the retention policy gives up, while it is being deleted.
RETIRED_FILE = "retired.txt"
# Orbax's own: what it writes last, and what is in the names of folders that it has not finished.
COMMIT_FILE = "commit_success.txt"
# Beside `checkpoints`, from before a step is begun until it is valid: which.
SAVING_FILE = "saving.txt"
TEMPORARY = ".orbax-checkpoint-tmp"
MARKERS = (MANIFEST_FILE, QUARANTINE_FILE, RETIRED_FILE)
CHUNK_BYTES = 2**22
HASHING_THREADS = 4


def steps(directory: epath.Path) -> list[int]:
    """Every step that has a folder, in whatever state, ascending."""
    if not directory.exists():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def begin_step(directory: epath.Path, number: int) -> None:
    """Notes that a step is about to be saved: until it is valid, it is worth nothing."""
    (directory.parent / SAVING_FILE).write_text(str(number))


def finish_step(directory: epath.Path, number: int, *, score: float) -> None:
    """Makes a step that Orbax has committed valid.

    Args:
        directory: `<workdir>/checkpoints`.
        number: Of the step.
        score: How good it is; lower is better.
    """
    step = directory / str(number)
    write_json(step / MANIFEST_FILE, {"score": score, "files": _hashes(step)})
    (directory.parent / SAVING_FILE).unlink(missing_ok=True)


def unfinished_step(directory: epath.Path) -> int | None:
    """The step that is being saved, or that a run died saving."""
    try:
        text = (directory.parent / SAVING_FILE).read_text()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() else None  # It died writing the note.


def damage(step: epath.Path) -> str | None:
    """Why a step cannot be trusted, or None: reads and hashes all of its files."""
    try:
        for marker in (QUARANTINE_FILE, RETIRED_FILE):
            if (step / marker).exists():
                return (step / marker).read_text().strip()
        if not (step / MANIFEST_FILE).exists():
            return f"its {MANIFEST_FILE} is missing"
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
    unfinished = unfinished_step(directory)
    if unfinished is not None and (directory / str(unfinished)).exists():
        step = directory / str(unfinished)
        # It may have become valid, and the run died before it took the note away.
        if damage(step) is not None:
            step.rmtree()
    (directory.parent / SAVING_FILE).unlink(missing_ok=True)
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


def retained(
    scores: Mapping[int, float], *, keep: int, keep_every: int, keep_best: int
) -> set[int]:
    """Which steps to keep.

    Args:
        scores: By step; lower is better.
        keep: So many of the newest.
        keep_every: Every multiple of it; 0 for none.
        keep_best: So many of the best, of equals the older; one without a number is the worst.
    """
    newest = sorted(scores)[-keep:]
    multiples = [n for n in scores if keep_every and n % keep_every == 0]
    best = sorted(scores, key=lambda n: (math.isnan(scores[n]), scores[n], n))[:keep_best]
    return {*newest, *multiples, *best}


def score(step: epath.Path) -> float:
    """What was noted when the step became valid; NaN where that cannot be read any more."""
    try:
        return float(json.loads((step / MANIFEST_FILE).read_text())["score"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.nan


def _move(step: epath.Path, target: epath.Path) -> None:
    if not in_bucket(step):
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
