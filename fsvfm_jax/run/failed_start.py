"""Removes the new files of a training run that fails before its first step."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

from etils import epath

from fsvfm_jax.data.stats import STATS_FILE
from fsvfm_jax.errors import Preempted, UserError, in_one_line
from fsvfm_jax.host.storage import delete, in_bucket
from fsvfm_jax.run.fingerprint import FINGERPRINT_FILE
from fsvfm_jax.run.lines import LINES
from fsvfm_jax.run.origin import ORIGIN_FILE
from fsvfm_jax.run.wandb_run import RUN_FILE

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
PARAMETERS_FILE = "parameters.txt"
STEP_FILE = "step.json"
CHECKPOINTS = "checkpoints"
# All files that a run can write into its workdir before its first step, except the lock.
_FILES = (CONFIG_FILE, PARAMETERS_FILE, STEP_FILE, STATS_FILE, FINGERPRINT_FILE, ORIGIN_FILE)
_FILES += (RUN_FILE, *LINES)
_FOLDERS = ("tensorboard", "images", "wandb")


class Start:
    """Removes the new files of a start that fails; it must be created before the workdir is made.

    A preempted start has not failed: the same command continues it and needs the statistics. The
    statistics are also kept after an error after which `launch/restart.sh` starts the command
    again.

    Args:
        workdir: The run's folder, or a place in a bucket.
        active: Whether failures remove files; False for all processes but the first.
    """

    def __init__(self, workdir: epath.Path, *, active: bool) -> None:
        self._workdir = workdir
        self._undoes = active
        has_folders = active and not in_bucket(workdir)
        self._missing = _missing_folders(workdir) if has_folders else []

    def is_over(self) -> None:
        """Marks the first step as done: from then on nothing is removed."""
        self._undoes = False

    @contextlib.contextmanager
    def folders(self) -> Iterator[None]:
        """Removes the new folders after a failure, if they are empty; entered before the lock."""
        try:
            yield
        except BaseException as error:
            if self._fails_with(error):
                for folder in self._missing:
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)  # It fails if the folder is not empty.
            raise

    @contextlib.contextmanager
    def files(self) -> Iterator[None]:
        """Removes the new files after a failure; entered under the lock, so no other run writes."""
        names = (*_FILES, *_FOLDERS, CHECKPOINTS) if self._undoes else ()
        new = [name for name in names if not (self._workdir / name).exists()]
        try:
            yield
        except BaseException as error:
            if self._fails_with(error):
                try:
                    self._remove([name for name in new if name not in _kept_after(error)])
                except Exception as cause:  # The run's own error is more important.
                    logger.warning(
                        "the new files in %s were not removed: %s",
                        self._workdir,
                        in_one_line(cause),
                    )
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
    """Returns the new files to keep: the statistics, for which all faces were read.

    `launch/restart.sh` starts the command again after code 70.
    """
    code = getattr(error, "exit_code", UserError.exit_code)
    is_retried = isinstance(error, Exception) and code == UserError.exit_code
    return (STATS_FILE,) if is_retried else ()


def _missing_folders(path: epath.Path) -> list[epath.Path]:
    """Returns those of the folder and its parents that do not exist, the deepest first."""
    missing = []
    while not os.path.exists(path) and path != path.parent:  # It works for unreadable folders too.
        missing.append(path)
        path = path.parent
    return missing
