"""Allows one training run per workdir: a file names the process that holds it and renews the file.

The lock is taken over only from a holder that is known to be gone: on the same host, the process
has ended or the machine has restarted; on any host, the file was not renewed for `LEASE_SECONDS`.
The clocks of hosts that share a workdir must differ by much less than that.
"""

import contextlib
import hashlib
import logging
import os
import threading
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from etils import epath

from fsvfm_jax.errors import StorageError, in_one_line, reason_of
from fsvfm_jax.host.plain_files import FileRefused, open_plain
from fsvfm_jax.host.storage import in_bucket
from fsvfm_jax.run.lock_holder import (
    CLOCKS_APART,
    LEASE_SECONDS,
    Holder,
    parse_holder,
    record,
    why_gone,
)

logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
RENEW_SECONDS = 20
# The longest time that the end of a run waits for a renewal that has begun.
_FAREWELL_SECONDS = 20
MAX_LOCK_BYTES = 2**16
# Number of attempts while other processes make and remove the file at the same time.
_TRIES = 20


class RunLock:
    """Holds `<workdir>/run.lock` from `__enter__` to `__exit__`, in process 0 of a run only.

    `__exit__` removes the file, unless it belongs to another run by then. A killed run leaves its
    file, and the next run on the same host takes it over at once, with a warning.

    Args:
        workdir: The run's folder, which must exist, or a place in a bucket `gs://...`.
    """

    def __init__(self, workdir: epath.Path) -> None:
        self._path = str(workdir / LOCK_FILE)
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=LOCK_FILE, daemon=True)
        self._renewed = 0.0
        self._lost = ""

    def __enter__(self) -> "RunLock":
        """Takes the lock.

        Raises:
            StorageError: Another run, which the message names, holds the lock, or the file cannot
                be written.
        """
        self._renewed = time.monotonic()
        try:
            self._file = _Object(self._path) if in_bucket(self._path) else _File(self._path)
            _take(self._file, record(self._token))
            self._file.tidy()
        except StorageError:
            raise
        except FileRefused as error:
            raise StorageError(
                f"the lock {self._path} is not one of a run ({reason_of(error)}): remove it, or"
                " give another --workdir"
            ) from error
        except Exception as error:  # Clients of buckets raise their own types.
            raise StorageError(
                f"the lock {self._path} cannot be written: give another --workdir, or permission"
                f" ({in_one_line(error)})"
            ) from error
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(_FAREWELL_SECONDS)
        if self._thread.is_alive():  # The thread may write the file again after its removal.
            return
        try:
            found = self._file.read()
            if found is not None and found.holder.token == self._token:
                self._file.remove(found)
        except Exception as error:  # The run's own result is more important.
            logger.warning("%s could not be removed (%s)", self._path, in_one_line(error))

    def check(self) -> None:
        """Checks that this run still holds the lock, without accessing the file.

        Raises:
            StorageError: Another run holds the lock, or it was removed, or it could not be renewed
                in time.
        """
        if self._lost:
            raise StorageError(self._lost)
        seconds = time.monotonic() - self._renewed
        if seconds > LEASE_SECONDS:
            raise StorageError(
                f"the lock {self._path} could not be renewed for {seconds:.0f} s, and another may"
                " take it: start again once the file can be written"
            )

    def _keep(self) -> None:
        while not self._lost and not self._stop.wait(RENEW_SECONDS):
            try:
                self._renew()
            except Exception as error:  # The next attempt may succeed.
                logger.warning("%s could not be renewed (%s)", self._path, in_one_line(error))

    def _renew(self) -> None:
        now = time.monotonic()  # Taken before writing, since a process may be paused at any time.
        found = self._file.read()
        if found is None:
            self._lost = f"the lock {self._path} of this run was removed: start it again"
        elif found.holder.token != self._token:
            self._lost = (
                f"the lock {self._path} of this run was taken over by {found.holder.name}, which"
                " writes there now: start this one in another --workdir"
            )
        elif self._file.replace(record(self._token), found):
            self._renewed = now


class _Found(NamedTuple):
    """The content of a lock.

    Attributes:
        holder: The process that holds the lock.
        content: The bytes of the file or object.
        version: Generation of an object in a bucket; 0 for a file.
    """

    holder: Holder
    content: bytes
    version: int


class _File:
    """A lock in a folder. Files with names like `run.lock.*` exist beside it for short times."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> _Found | None:
        try:
            with open_plain(self.path, max_bytes=MAX_LOCK_BYTES) as file:
                content, modified = file.read(MAX_LOCK_BYTES), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        return _Found(parse_holder(content, modified), content, version=0)

    def create(self, content: bytes) -> bool:
        """Makes the file if it does not exist; other processes never see a partly written file."""
        complete = self._write_beside(content)
        try:
            os.link(complete, self.path)
        except FileExistsError:
            return False
        except OSError:  # Without hard links, others see an empty file for a moment.
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL, 0o666))
            except FileExistsError:
                return False
            os.replace(complete, self.path)
        finally:
            complete.unlink(missing_ok=True)
        return True

    def replace(self, content: bytes, found: _Found) -> bool:
        """Writes the file if it has not changed since it was read.

        To replace the content, a process first takes a second lock, whose name is a hash of that
        content. A process that gets the second lock too late finds that the file has changed.
        """
        turn = _File(f"{self.path}.{hashlib.sha256(found.content).hexdigest()[:16]}")
        _take(turn, content)
        try:
            unchanged = self.read() == found
            if unchanged:
                os.replace(self._write_beside(content), self.path)
            return unchanged
        finally:
            ours = turn.read()
            if ours is not None and ours.content == content:
                turn.remove(ours)

    def remove(self, found: _Found) -> None:
        if self.read() == found:
            Path(self.path).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes files that killed processes have left; only the holder of the lock calls it."""
        for path in Path(self.path).parent.glob(f"{Path(self.path).name}.*"):
            left = _File(str(path))
            try:
                found = left.read()
            except FileRefused as error:  # No run has made this file.
                logger.warning("%s is left where it is: %s", path, reason_of(error))
                continue
            if found is not None and why_gone(found.holder):
                left.remove(found)

    def _write_beside(self, content: bytes) -> Path:
        path = Path(f"{self.path}.{uuid.uuid4().hex}")
        try:
            path.write_bytes(content)
        except OSError:  # For example, the disk is full.
            path.unlink(missing_ok=True)
            raise
        return path


class _Object:
    """A lock in a bucket, where a write can be made conditional on the current generation."""

    def __init__(self, path: str) -> None:
        from google.api_core import exceptions
        from google.cloud import storage
        from google.cloud.storage.retry import DEFAULT_RETRY

        self.path = path
        self._missing, self._changed = exceptions.NotFound, exceptions.PreconditionFailed
        bucket, self._name = path.split("/", 3)[2:]
        self._bucket = storage.Client().bucket(bucket)
        self._patience = {"timeout": 5, "retry": DEFAULT_RETRY.with_timeout(10)}

    def read(self) -> _Found | None:
        blob = self._bucket.get_blob(self._name, **self._patience)
        if blob is None:
            return None
        try:
            content = blob.download_as_bytes(**self._patience)
        except self._missing:  # This generation no longer exists.
            return None
        return _Found(parse_holder(content, blob.updated.timestamp()), content, blob.generation)

    def create(self, content: bytes) -> bool:
        return self._write(content, version=0)

    def replace(self, content: bytes, found: _Found) -> bool:
        return self._write(content, version=found.version)

    def remove(self, found: _Found) -> None:
        with contextlib.suppress(self._missing, self._changed):
            blob = self._bucket.blob(self._name)
            blob.delete(if_generation_match=found.version, **self._patience)

    def tidy(self) -> None:
        """Does nothing: an object is always written as a whole, without files beside it."""

    def _write(self, content: bytes, *, version: int) -> bool:
        blob = self._bucket.blob(self._name)
        try:
            blob.upload_from_string(content, if_generation_match=version, **self._patience)
        except self._changed:
            return False
        return True


def _take(file: _File | _Object, content: bytes) -> None:
    """Makes the file, or replaces the file of a holder that is gone.

    Raises:
        StorageError: The holder may be alive.
    """
    for _ in range(_TRIES):
        if file.create(content):
            return
        found = file.read()
        if found is None:  # It was released in the meantime.
            continue
        if found.content == content:  # A write succeeded, but its answer was lost and it retried.
            return
        holder, age = found.holder, time.time() - found.holder.renewed
        reason = why_gone(holder)
        if not reason and age < -CLOCKS_APART:
            raise StorageError(
                f"the lock {file.path} is of a time in the future: if no run is using the workdir,"
                " remove the lock; or give another --workdir"
            )
        if not reason:
            raise StorageError(
                f"the workdir is in use by {holder.name}, which renewed {file.path} {age:.0f} s"
                f" ago: give another --workdir, or stop it; if it is gone already, its lease ends"
                f" in {LEASE_SECONDS - age:.0f} s"
            )
        if file.replace(content, found):
            logger.warning(
                "%s belonged to %s, which renewed it %.0f s ago: it is taken over, since %s",
                *(file.path, holder.name, age, reason),
            )
            return
    raise StorageError(f"others make and remove the lock {file.path} all the time: stop them")
