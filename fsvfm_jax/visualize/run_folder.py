"""Reads the workdir of a run, which may still be training, and never writes there.

Files of the workdir may come from a stranger: they are read with limits, and no link is followed.
What cannot be read is named in the notes of the run.
"""

import contextlib
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple, TypeVar

from etils import epath

from fsvfm_jax.errors import DataError, UserError, brief, in_one_line, reason_of, shortened
from fsvfm_jax.host.json_files import MAX_JSON_BYTES, parse_json
from fsvfm_jax.host.storage import in_bucket, is_own_folder, open_bytes, read_bytes
from fsvfm_jax.run.failed_start import CONFIG_FILE
from fsvfm_jax.run.fingerprint import FINGERPRINT_FILE, StoredFingerprint
from fsvfm_jax.run.lock import LOCK_FILE, MAX_LOCK_BYTES
from fsvfm_jax.run.lock_holder import parse_holder, why_gone
from fsvfm_jax.run.origin import ORIGIN_FILE
from fsvfm_jax.run.rewind import REWINDS_FILE, Rewind
from fsvfm_jax.run.skipped_steps import DUMP_FILE
from fsvfm_jax.visualize.run_lines import (
    ALARMS,
    NUMBERS,
    Alarm,
    Lines,
    read_alarms,
    read_lines,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_ENTRIES = 100_000  # in a folder
MAX_FIELDS = 1000
_MAX_DEPTH = 8
_LARGE = 100_000_000  # bytes, which take some seconds
# The names that `run/tensorboard.py` gives to the file of each start: its time, host and step.
_EVENTS = re.compile(r"events\.out\.tfevents\.([0-9]{1,12})\..*\.([0-9]{1,15})", re.DOTALL)
_LATEST = 253_402_214_400  # the last day of the year 9999, in seconds since 1970


class Start(NamedTuple):
    """A start of the run that reached its training loop.

    Attributes:
        seconds: The time, in seconds since 1970.
        step: Number of updates done before it.
    """

    seconds: int
    step: int


class Lock(NamedTuple):
    """What the lock of a run says.

    Attributes:
        holder: The process that holds it.
        age: Seconds since it was renewed.
        gone: Why the holder is known to be gone; empty if it may be alive.
    """

    holder: str
    age: float
    gone: str


class Folder(NamedTuple):
    """The content of a workdir.

    Attributes:
        path: The workdir.
        config: The content of its config.json; empty if it cannot be read.
        fields: The fields of the config by their full name, as text.
        fingerprint: What the stream of batches depends on, by name.
        accepted: Changes of the fingerprint that a resume accepted.
        origin: The origin of the starting weights.
        rewinds: The recorded rewinds.
        not_finite: Whether the run ended because of too many skipped steps.
        lines: The files of numbers by name.
        alarms: The alarms of the run, as it wrote them.
        written: Time of the newest line, in seconds since 1970; None if there is no file of lines.
        starts: The starts of the run, by time.
        lock: The lock; None if nobody holds the workdir.
        notes: What was left out, and why.
    """

    path: epath.Path
    config: dict[str, Any]
    fields: dict[str, str]
    fingerprint: dict[str, Any]
    accepted: list[dict[str, Any]]
    origin: dict[str, Any]
    rewinds: list[Rewind]
    not_finite: bool
    lines: dict[str, Lines]
    alarms: list[Alarm]
    written: float | None
    starts: list[Start]
    lock: Lock | None
    notes: list[str]


def read_folder(path: epath.Path) -> Folder:
    """Reads a workdir.

    Args:
        path: The workdir, in a folder or in a bucket.

    Raises:
        DataError: There is no such folder, it is no workdir of a training run, or a bucket cannot
            be read.
    """
    try:
        return _read_folder(path)
    except UserError:
        raise
    except Exception as error:  # Clients of buckets raise their own types.
        if not in_bucket(path) and not isinstance(error, OSError):
            raise
        raise DataError(f"the workdir {path} cannot be read ({in_one_line(error)})") from error


def _read_folder(path: epath.Path) -> Folder:
    if not path.exists():
        raise DataError(f"the workdir {path} does not exist: give the folder of a training run")
    if not in_bucket(path) and not path.is_dir():
        raise DataError(f"{path} is no folder: give the workdir of a training run")
    notes: list[str] = []
    config = _json(path / CONFIG_FILE, dict[str, Any], {}, notes)
    lines = {name: _lines(path / name, notes) for name in NUMBERS}
    if "task" not in config and not lines["metrics.jsonl"].newest:
        reasons = f" ({'; '.join(notes[:3])})" if notes else ""
        raise DataError(
            f"{path} is no workdir of a training run: it has neither the config.json of a run nor a"
            f" line in metrics.jsonl{reasons}"
        )
    if config.get("task") == "evaluate":
        raise DataError(f"{path} is the workdir of an evaluation, which draws no curves")
    stored = _json(
        path / FINGERPRINT_FILE, StoredFingerprint, {"fingerprint": {}, "accepted": []}, notes
    )
    return Folder(
        path=path,
        config=config,
        fields=_flat(config, notes),
        fingerprint=stored["fingerprint"],
        accepted=stored["accepted"],
        origin=_json(path / ORIGIN_FILE, dict[str, Any], {}, notes),
        rewinds=_json(path / REWINDS_FILE, list[Rewind], [], notes),
        not_finite=(path / DUMP_FILE).exists(),
        lines=lines,
        alarms=_alarms(path / ALARMS, notes),
        written=_written(path),
        starts=_starts(path / "tensorboard", notes),
        lock=_lock(path / LOCK_FILE, notes),
        notes=notes,
    )


def names_in(folder: epath.Path, notes: list[str]) -> list[str]:
    """Returns the names in a folder of the workdir, in any order; a link is not followed.

    Args:
        folder: The folder, which may be missing.
        notes: Gets a note if the folder is not read, or not as a whole.
    """
    if not in_bucket(folder) and not os.path.lexists(folder):
        return []
    if not is_own_folder(folder):
        if not in_bucket(folder):
            notes.append(f"{folder.name}/ is left out: it is a link or no folder")
        return []
    with contextlib.ExitStack() as stack:
        is_local = not in_bucket(folder)
        entries = stack.enter_context(os.scandir(folder)) if is_local else folder.iterdir()
        names = [entry.name for entry in itertools.islice(entries, MAX_ENTRIES + 1)]
    if len(names) > MAX_ENTRIES:
        notes.append(f"{folder.name}/ has over {MAX_ENTRIES:,} entries: the others are left out")
    return names[:MAX_ENTRIES]


def read_own(file: epath.Path, *, max_bytes: int) -> bytes:
    """Returns the bytes of a file of the workdir, without following a link.

    Raises:
        OSError: As `host.storage.read_bytes`.
    """
    return read_bytes(file, max_bytes=max_bytes, follow_links=False)


def _json(file: epath.Path, schema: Any, missing: Any, notes: list[str]) -> Any:
    """Returns the value in a JSON file, or `missing` with a note if it cannot be read."""
    try:
        return parse_json(read_own(file, max_bytes=MAX_JSON_BYTES), schema)
    except FileNotFoundError:
        return missing
    except (OSError, ValueError) as error:
        notes.append(f"{file.name} is left out: {shortened(reason_of(error))}")
        return missing


def _lines(file: epath.Path, notes: list[str]) -> Lines:
    lines = _of_lines(file, read_lines, notes) or Lines()
    _note_left_out(file, lines.left_out, notes)
    if lines.not_finite:
        values = ", ".join(f"{name} {count:,}" for name, count in lines.not_finite.most_common(20))
        notes.append(f"not drawn of {file.name}, because they are NaN or too large: {values}")
    return lines


def _alarms(file: epath.Path, notes: list[str]) -> list[Alarm]:
    alarms, left_out = _of_lines(file, read_alarms, notes) or ([], {})
    _note_left_out(file, left_out, notes)
    return alarms


def _of_lines(file: epath.Path, read: Callable[[BinaryIO, int], T], notes: list[str]) -> T | None:
    """Returns the content of a file of lines; None if it is missing or cannot be read."""
    try:
        # A file that is too large is read in part.
        with open_bytes(file, max_bytes=sys.maxsize, follow_links=False) as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            if size > _LARGE:
                logger.info("reading %s: %d MB", file, size // 10**6)
            return read(opened, size)
    except FileNotFoundError:
        return None
    except OSError as error:
        notes.append(f"{file.name} is left out: {shortened(reason_of(error))}")
        return None


def _note_left_out(file: epath.Path, left_out: Mapping[str, int], notes: list[str]) -> None:
    for what, count in left_out.items():
        if count:
            notes.append(f"left out of {file.name}: {what}: {count:,}")


def _flat(config: Mapping[str, Any], notes: list[str]) -> dict[str, str]:
    """Returns the fields of a config by their full name, as text."""
    fields: dict[str, str] = {}

    def add(section: Mapping[str, Any], prefix: str, depth: int) -> None:
        for name, value in section.items():
            if isinstance(value, dict) and value and depth < _MAX_DEPTH:
                add(value, f"{prefix}{name}.", depth + 1)
            elif len(fields) < MAX_FIELDS:
                fields[f"{prefix}{name}"] = brief(value)

    add(config, "", 1)
    if len(fields) == MAX_FIELDS:
        notes.append(f"{CONFIG_FILE} has {MAX_FIELDS} fields or more: the others are left out")
    return fields


def _written(path: epath.Path) -> float | None:
    """Returns the time when a line was last written."""
    times = []
    for name in NUMBERS:
        try:
            times.append(float((path / name).stat().mtime))
        except OSError:
            continue
    return max(times, default=None)


def _starts(folder: epath.Path, notes: list[str]) -> list[Start]:
    found = [_EVENTS.fullmatch(name) for name in names_in(folder, notes)]
    starts = [Start(int(match[1]), int(match[2])) for match in found if match]
    return sorted(start for start in starts if start.seconds < _LATEST)


def _lock(file: epath.Path, notes: list[str]) -> Lock | None:
    try:
        content = read_own(file, max_bytes=MAX_LOCK_BYTES)
        modified = float(file.stat().mtime)
    except FileNotFoundError:
        return None
    except OSError as error:
        notes.append(f"{file.name} is left out: {shortened(reason_of(error))}")
        return None
    holder = parse_holder(content, modified)
    age = datetime.now().timestamp() - holder.renewed
    return Lock(holder.name, age, why_gone(holder))
