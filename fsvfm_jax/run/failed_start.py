"""A training run that fails before its first step takes back what it has written."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

from etils import epath

from fsvfm_jax.data.stats import STATS_FILE
from fsvfm_jax.errors import Preempted, UserError, in_one_line
from fsvfm_jax.host.storage import delete, in_bucket
from fsvfm_jax.run.fingerprint import FINGERPRINT_FILE
from fsvfm_jax.run.origin import ORIGIN_FILE
from fsvfm_jax.run.tracking import LINES

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
PARAMETERS_FILE = "parameters.txt"
CHECKPOINTS = "checkpoints"
# All that a run can write into its workdir before its first step, beside the lock.
_FILES = (CONFIG_FILE, PARAMETERS_FILE, STATS_FILE, FINGERPRINT_FILE, ORIGIN_FILE, *LINES)
_FOLDERS = ("tensorboard", "images")


class Start:
    """The start of a run, to be made before its workdir is.

    A start that is preempted has not failed: the same command goes on, and needs the statistics.
    After an error that `launch/restart.sh` answers with another start the statistics stay too.

    Args:
        workdir: The run's folder, or a place in a bucket.
        active: False makes one that removes nothing, for all processes but the first.
    """

    def __init__(self, workdir: epath.Path, *, active: bool) -> None:
        self._workdir = workdir
        self._undoes = active
        has_folders = active and not in_bucket(workdir)
        self._missing = _missing_folders(workdir) if has_folders else []

    def is_over(self) -> None:
        """The first step is made: from here on everything stays."""
        self._undoes = False

    @contextlib.contextmanager
    def folders(self) -> Iterator[None]:
        """Around the lock: at a failure the folders that were missing go, as far as empty."""
        try:
            yield
        except BaseException as error:
            if self._fails_with(error):
                for folder in self._missing:
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)  # not if anybody has put something there
            raise

    @contextlib.contextmanager
    def files(self) -> Iterator[None]:
        """Within the lock, so that nobody else writes there: at a failure new files go."""
        names = (*_FILES, *_FOLDERS, CHECKPOINTS) if self._undoes else ()
        new = [name for name in names if not (self._workdir / name).exists()]
        try:
            yield
        except BaseException as error:
            if self._fails_with(error):
                try:
                    self._remove([name for name in new if name not in _kept_after(error)])
                except Exception as cause:  # What ended the run is more important.
                    logger.warning("%s is not tidied up: %s", self._workdir, in_one_line(cause))
            raise

    def _fails_with(self, error: BaseException) -> bool:
        return self._undoes and not isinstance(error, Preempted)

    def _remove(self, names: list[str]) -> None:
        checkpoints = self._workdir / CHECKPOINTS
        if checkpoints.exists() and any(checkpoints.iterdir()):
            return
        for path in (self._workdir / name for name in names):
            if not path.exists():
                continue
            delete(path)


def _kept_after(error: BaseException) -> Sequence[str]:
    """The new files that stay: all faces were read for the statistics.

    `launch/restart.sh` starts the command again after code 70.
    """
    code = getattr(error, "exit_code", UserError.exit_code)
    is_retried = isinstance(error, Exception) and code == UserError.exit_code
    return (STATS_FILE,) if is_retried else ()


def _missing_folders(path: epath.Path) -> list[epath.Path]:
    """The folder and those above it that are not there yet, the deepest first."""
    missing = []
    while not os.path.exists(path) and path != path.parent:  # also if the folder cannot be read
        missing.append(path)
        path = path.parent
    return missing
