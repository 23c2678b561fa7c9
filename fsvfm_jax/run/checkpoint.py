"""Saves and restores checkpoints, the state with the position in the data, through Orbax."""

import contextlib
import itertools
import logging
import math
import os
import shutil
import threading
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from fsvfm_jax.devices import distributed
from fsvfm_jax.errors import ConfigError, StorageError, in_one_line, reason_of
from fsvfm_jax.host.processes import give_back_memory
from fsvfm_jax.host.storage import in_bucket
from fsvfm_jax.run import integrity
from fsvfm_jax.run.faults import fault
from fsvfm_jax.run.watchdog import Watchdog
from fsvfm_jax.train_state import TrainState

logger = logging.getLogger(__name__)

NONE = -1
MAX_SHOWN = 300  # characters of another library's error message
MAX_NAMED = 20  # damaged checkpoints in an error message

# Replicas of an array share the work of writing it if each writes 1 MiB or more. Orbax compiles a
# program for each part of each array, which takes longer than to write a small array whole.
ARRAYS = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=1 << 20))
)


class Restored(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        state: The state, with the shardings of the template.
        samples_seen: Number of images of the endless stream that training has consumed.
    """

    state: TrainState
    samples_seen: int


class Checkpoints:
    """Saves the steps of a run under one directory, in the background while training continues.

    Orbax writes and commits a step, and then the manifest of the step is written (`integrity.py`).
    The step is valid from then on, and older steps are deleted only after that.

    Args:
        directory: `<workdir>/checkpoints`, relative or absolute, created if missing.
        keep: Number of the newest steps to keep.
        keep_every: Steps that are multiples of it are never deleted; 0 for none.
        keep_best: Number of steps with the lowest scores to keep.
        read_only: Whether to change nothing in the directory, as another process may save there.
        watchdog: Ends the process if a save takes longer than `save_seconds`.
        save_seconds: Seconds from the start of a save until the step is valid; 0 is no limit.

    Raises:
        StorageError: The files that a killed run has left cannot be cleaned up.
    """

    def __init__(
        self,
        directory: epath.Path,
        *,
        keep: int,
        keep_every: int = 0,
        keep_best: int = 0,
        read_only: bool = False,
        watchdog: Watchdog | None = None,
        save_seconds: float | int = 0,
    ):
        # Orbax takes absolute paths only. `abspath` would make the path of a bucket a local one.
        # Links are not resolved: the files beside the folder must be written in the workdir.
        is_absolute = directory.is_absolute()
        self._directory = directory if is_absolute else epath.Path(os.path.abspath(directory))
        self._policy = {"keep": keep, "keep_every": keep_every, "keep_best": keep_best}
        self._read_only = read_only
        self._watchdog, self._save_seconds = watchdog, save_seconds
        self._finishing: threading.Thread | None = None
        self._failure: Exception | None = None
        if not read_only:
            distributed.on_first_process(
                lambda: integrity.tidy(self._directory),
                refusal=f"what a killed run left in {directory} cannot be cleaned up",
            )
        try:
            self._manager = ocp.CheckpointManager(
                self._directory,
                # Orbax's own `read_only` is not used, because it logs a warning. Its deletion of
                # old steps is not used, because it ignores the manifests, and its deletion of
                # temporary steps is not used, because it is still running when this returns.
                options=ocp.CheckpointManagerOptions(create=not read_only),
                # With these handlers a checkpoint can be described before it is restored.
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(type_handler_registry=ARRAYS),
                    "data": ocp.JsonCheckpointHandler(),
                },
            )
        except OSError as error:
            raise StorageError(
                f"{directory} cannot be opened ({reason_of(error)}): remove it or give"
                " permission, or give another --workdir"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """Waits for the running save; if another error is raised, its failure is only logged."""
        self._join()
        if self._failure is None:
            self._manager.close()
            return
        # At the end of the process, Orbax's other tasks of the failed save would print tracebacks
        # below the sentence that says what failed.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        if kind is None:
            self.check()
        else:
            logger.error("%s", self._failure)

    def save(
        self, state: TrainState, *, step: int, samples_seen: int, score: float = math.nan
    ) -> None:
        """Starts saving a step; the arrays of the state may be donated as soon as this returns.

        Args:
            state: The state to save.
            step: The step's number.
            samples_seen: Number of images of the endless stream that training has consumed.
            score: The step's score for `keep_best`; lower is better.

        Raises:
            StorageError: The save before has failed, or there is no room for this one.
        """
        self.wait()
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            data=ocp.args.JsonSave({"samples_seen": samples_seen}),
        )
        try:
            with self._limit(step):
                self._check_space(state, step)
                fault("save", step, process=jax.process_index())
                if jax.process_index() == 0:
                    integrity.begin_step(self._directory, step)
                self._manager.save(step, args=items)
        except StorageError:
            raise
        except Exception as error:  # Each storage raises errors of its own types.
            raise _storage_error(self._directory, step, error) from error
        self._finishing = threading.Thread(
            target=self._finish, args=(step,), kwargs={"score": score}, name="checkpoint"
        )
        self._finishing.start()

    def check(self) -> None:
        """Raises StorageError if the last save has failed; it is called after every step."""
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Waits until the last saved step is valid; raises StorageError if the save has failed."""
        self._join()
        self.check()

    def restore_newest_valid(self, template: TrainState) -> Restored | None:
        """Returns the newest checkpoint with undamaged files, or None if there is no checkpoint.

        Newer checkpoints that are damaged are quarantined, with a warning.

        Args:
            template: Shapes, dtypes and shardings of the restored state.

        Raises:
            ConfigError: The checkpoint is of another network or optimizer.
            StorageError: There are checkpoints, and all of them are damaged.
        """
        step = self._newest_valid()
        return None if step is None else self._read(step, template)

    def restore(self, template: TrainState, *, step: int) -> Restored:
        """Returns the checkpoint of a step.

        Args:
            template: Shapes, dtypes and shardings of the restored state.
            step: The step's number.

        Raises:
            ConfigError: The checkpoint is missing, damaged, or of another network or optimizer.
        """
        self._check_step(step)
        return self._read(step, template)

    def _read(self, step: int, template: TrainState) -> Restored:
        try:
            self._check_tree(step, template)
            items = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(
                        template, ocp.checkpoint_utils.construct_restore_args(template)
                    ),
                    data=ocp.args.JsonRestore(),
                ),
            )
            samples_seen = _samples_seen(items.data)
        # Orbax raises these where files are missing or have a content that it does not expect.
        # Any other error may come from a version of Orbax that cannot read a good checkpoint.
        except (OSError, ValueError) as error:
            raise StorageError(
                f"checkpoint {step} in {self._directory} cannot be restored"
                f" ({in_one_line(error)[:MAX_SHOWN]}): move it away, and the same command goes on"
                " from the one before"
            ) from error
        return Restored(items.state, samples_seen)

    def rewind(self, step: int) -> None:
        """Makes a step the newest one: quarantines the steps after it.

        Raises:
            ConfigError: There is no such step, or it is damaged. Nothing is changed then.
        """
        directory = self._directory
        # All processes check the same files, so that they come to the same answer.
        self._check_step(step)
        numbers = integrity.steps(directory)

        def quarantine() -> None:
            for newer in (number for number in numbers if number > step):
                integrity.quarantine(directory / str(newer), f"the run went back to step {step}")
            integrity.tidy(directory)

        distributed.on_first_process(quarantine, refusal=f"{directory} cannot be written")
        self._manager.reload()

    def _check_step(self, step: int) -> None:
        numbers = integrity.steps(self._directory)
        damage = integrity.damage(self._directory / str(step)) if step in numbers else "not there"
        if damage is not None:
            raise ConfigError(
                f"checkpoint {step} in {self._directory} cannot be used: {damage}; there are"
                f" {', '.join(map(str, numbers)) or 'none'}"
            )

    def _newest_valid(self) -> int | None:
        """Finds the newest valid step in process 0; quarantines damaged ones unless read-only."""
        newest, reasons = NONE, {}

        def look() -> None:
            nonlocal newest
            # A reader may see a step that another process is saving: it is not damaged.
            unfinished = integrity.unfinished_step(self._directory)
            for step in reversed(integrity.steps(self._directory)):
                reason = integrity.damage(self._directory / str(step))
                if reason is None:
                    newest = step
                    break
                if step == unfinished:
                    continue
                reasons[step] = reason
                if not self._read_only:
                    integrity.quarantine(self._directory / str(step), reason)
            if reasons and not self._read_only:
                integrity.tidy(self._directory)

        distributed.on_first_process(look, refusal=f"{self._directory} cannot be read or tidied")
        newest = int(multihost_utils.broadcast_one_to_all(np.int64(newest)))
        if distributed.number_of_processes(bool(reasons)):
            self._manager.reload()
            if newest == NONE:
                named = dict(itertools.islice(reasons.items(), MAX_NAMED))
                raise StorageError(
                    f"no checkpoint in {self._directory} can be trusted: {named}. The next"
                    " training start moves them to the folder quarantine; another --workdir starts"
                    " anew"
                )
        return None if newest == NONE else newest

    def _finish(self, step: int, *, score: float) -> None:
        """Waits in a thread for Orbax, then makes the step valid and deletes older ones."""
        process = jax.process_index()
        try:
            with self._limit(step):
                fault("commit", step, process=process)
                self._manager.wait_until_finished()
                fault("manifest", step, process=process)
                if process == 0:
                    integrity.finish_step(self._directory, step, score=score)
                    self._retire()
                give_back_memory()
        except Exception as error:  # The main thread raises any error of this thread.
            self._failure = _storage_error(self._directory, step, error)

    def _limit(self, step: int) -> contextlib.AbstractContextManager[None]:
        if self._watchdog is None:
            return contextlib.nullcontext()
        what = f"saving checkpoint {step} (config.watchdog.save_seconds)"
        return self._watchdog.limit(what, self._save_seconds)

    def _retire(self) -> None:
        steps = integrity.steps(self._directory)
        scores = {number: integrity.score(self._directory / str(number)) for number in steps}
        for number in scores.keys() - integrity.retained(scores, **self._policy):
            integrity.retire(self._directory / str(number))

    def _join(self) -> None:
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None

    def _check_space(self, state: TrainState, step: int) -> None:
        if in_bucket(self._directory):  # A bucket is never full.
            return
        # All processes fail together, because a save waits for every process.
        if distributed.number_of_processes(not self._directory.is_dir()):
            raise StorageError(
                f"{self._directory} is no longer there, or no folder: step {step} was not saved."
                " Put it back, and the same command goes on from the newest checkpoint in it"
            )
        free = shutil.disk_usage(self._directory).free
        needed = sum(x.nbytes for x in jax.tree.leaves(state))
        if distributed.number_of_processes(free < needed):
            raise StorageError(
                f"{self._directory} has {free / 1e6:.1f} MB left and a checkpoint takes"
                f" {needed / 1e6:.1f}: it was not saved. Free some space, or lower"
                " config.checkpoint.keep; the same command goes on from the newest checkpoint"
            )

    def _check_tree(self, step: int, template: TrainState) -> None:
        saved = _describe(self._manager.item_metadata(step).state)
        wanted = _describe(template)
        # The parameters come first, because their names show best how the models differ.
        names = sorted(saved.keys() | wanted.keys(), key=lambda n: (not n.startswith("params/"), n))
        for name in names:
            if saved.get(name) != wanted.get(name):
                raise ConfigError(
                    f"checkpoint {step} in {self._directory} is of another model: {name} is"
                    f" {saved.get(name, 'missing')} there and {wanted.get(name, 'missing')} in this"
                    " config. Give the config it was trained with, or another --workdir"
                )


def _samples_seen(data: object) -> int:
    found = data.get("samples_seen") if isinstance(data, dict) else None
    if type(found) is not int or found < 0:
        raise ValueError(f"samples_seen is {found!r}")
    return found


def _describe(tree: object) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _storage_error(directory: epath.Path, step: int, error: Exception) -> StorageError:
    return StorageError(
        f"checkpoint {step} could not be saved in {directory} ({in_one_line(error)[:MAX_SHOWN]}):"
        " older ones are as they were. Once this is mended, the same command goes on from them"
    )
