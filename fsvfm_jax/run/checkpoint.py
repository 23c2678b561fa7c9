"""Checkpoints: the state and the position in the data together, through Orbax."""

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
MAX_SHOWN = 300  # characters of what another library says
MAX_NAMED = 20  # damaged checkpoints


class Restored(NamedTuple):
    """A checkpoint's content.

    Attributes:
        state: The state, placed as its template said.
        samples_seen: Images of the endless stream that training has consumed.
    """

    state: TrainState
    samples_seen: int


class Checkpoints:
    """The steps saved under one directory; saving goes on in the background while training does.

    Orbax writes and commits a step, then its manifest is written (`integrity.py`): only then does
    it count, and only then are older ones given up.

    Args:
        directory: `<workdir>/checkpoints`, relative or absolute, created if missing.
        keep: How many of the newest steps to keep.
        keep_every: Every multiple of it is kept for good; 0 for none.
        keep_best: How many of those with the lowest score to keep.
        read_only: Leave the directory as it is: the run may be going on, and saving.
        watchdog: Ends the process if a save takes longer than `save_seconds`.
        save_seconds: From the start of a save until it counts; 0 is no limit.

    Raises:
        StorageError: What a killed run left cannot be cleaned up.
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
        # Orbax takes absolute paths only; a bucket's is one, and `abspath` would make it local.
        # Links stay: what is written beside the folder belongs in the workdir.
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
                # Not Orbax's own `read_only`, which warns of being that; nor its deletion of old
                # steps, which knows no manifest, and of temporary ones, which is still going on
                # afterwards.
                options=ocp.CheckpointManagerOptions(create=not read_only),
                # Named here, so that a checkpoint can be described before it is restored.
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
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
        """Waits for the save that is going on; its failure is raised unless another error is."""
        self._join()
        if self._failure is None:
            self._manager.close()
        elif kind is None:
            self.check()
        else:
            logger.error("%s", self._failure)

    def save(
        self, state: TrainState, *, step: int, samples_seen: int, score: float = math.nan
    ) -> None:
        """Starts saving; the state's memory may be given away as soon as this returns.

        Args:
            state: What is saved.
            step: Its number.
            samples_seen: Images of the endless stream that training has consumed.
            score: How good it is, for `keep_best`; lower is better.

        Raises:
            StorageError: The one before has failed, or there is no room for this one.
        """
        self.wait()
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
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
        except Exception as error:  # Storage has many ways to fail.
            raise _storage_error(self._directory, step, error) from error
        self._finishing = threading.Thread(
            target=self._finish, args=(step,), kwargs={"score": score}, name="checkpoint"
        )
        self._finishing.start()

    def check(self) -> None:
        """Raises StorageError if a save has failed since; to be called after every step."""
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Waits until the last save counts; raises StorageError if it failed."""
        self._join()
        self.check()

    def restore_newest_valid(self, template: TrainState) -> Restored | None:
        """Returns the newest checkpoint whose files are as written, or None where there is none.

        Newer ones that are damaged are quarantined, with a warning.

        Args:
            template: Shapes, dtypes and shardings to restore to.

        Raises:
            ConfigError: The checkpoint is of another network or optimizer.
            StorageError: There are steps, and all of them are damaged.
        """
        step = self._newest_valid()
        return None if step is None else self._read(step, template)

    def restore(self, template: TrainState, *, step: int) -> Restored:
        """Returns the checkpoint of a step.

        Args:
            template: Shapes, dtypes and shardings to restore to.
            step: Which.

        Raises:
            ConfigError: There is none, it is damaged, or it is of another network or optimizer.
        """
        self._check_step(step)
        return self._read(step, template)

    def _read(self, step: int, template: TrainState) -> Restored:
        try:
            self._check_tree(step, template)
            items = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(template), data=ocp.args.JsonRestore()
                ),
            )
            samples_seen = _samples_seen(items.data)
        # What Orbax raises where files are gone or hold something else than their manifest says.
        # Any other error may come from a version of Orbax that does not fit a good checkpoint.
        except (OSError, ValueError) as error:
            raise StorageError(
                f"checkpoint {step} in {self._directory} cannot be restored"
                f" ({in_one_line(error)[:MAX_SHOWN]}): move it away, and the same command goes on"
                " from the one before"
            ) from error
        return Restored(items.state, samples_seen)

    def rewind(self, step: int) -> None:
        """Makes a step the newest one: those after it are quarantined.

        Raises:
            ConfigError: There is no such step, or it is damaged; nothing is changed then.
        """
        directory = self._directory
        # Looked at by all, whose answers agree: files are as they are.
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
        """Found by process 0 for all; whoever may write has the damaged ones moved away."""
        newest, reasons = NONE, {}

        def look() -> None:
            nonlocal newest
            # Left to whoever only reads: a step that somebody else is saving.
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
        """In the background: waits for Orbax, then makes the step valid and older ones go."""
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
        except Exception as error:  # Of whatever kind, the main thread must hear of it.
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
        # Together or not at all: saving waits for everybody.
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
        # The network's own parameters first: their names tell most about what differs.
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
