"""Checkpoints: the state and the position in the data together, through Orbax."""

from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.train_state import TrainState


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

    Args:
        directory: `<workdir>/checkpoints`, relative or absolute, created if missing.
        keep: How many of the newest steps to keep.
        keep_every: Every multiple of it is kept for good; 0 for none.
        read_only: Leave the directory as it is: the run may be going on, and saving.
    """

    def __init__(
        self, directory: epath.Path, *, keep: int, keep_every: int, read_only: bool = False
    ):
        if read_only:
            # Not Orbax's own `read_only`, which warns of being that.
            options = ocp.CheckpointManagerOptions(create=False)
        else:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep, keep_period=keep_every or None, cleanup_tmp_directories=True
            )
        self._manager = ocp.CheckpointManager(
            # Orbax takes absolute paths only; a bucket's is one, and `resolve` would make it local.
            directory if directory.is_absolute() else directory.resolve(),
            options=options,
            # Named here, so that a checkpoint can be described before it is restored.
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def save(self, state: TrainState, *, step: int, samples_seen: int) -> None:
        """Starts saving; the state's memory may be given away as soon as this returns."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave({"samples_seen": samples_seen}),
        )
        self._manager.save(step, args=items)

    def restore_newest(self, template: TrainState) -> Restored | None:
        """Returns the newest checkpoint, or None where there is none.

        Args:
            template: Shapes, dtypes and shardings to restore to.

        Raises:
            ConfigError: The checkpoint is of another network or optimizer.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        self._check_tree(step, template)
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), data=ocp.args.JsonRestore()
            ),
        )
        return Restored(items.state, items.data["samples_seen"])

    def _check_tree(self, step: int, template: TrainState) -> None:
        saved = _describe(self._manager.item_metadata(step).state)
        wanted = _describe(template)
        # The network's own parameters first: their names tell most about what differs.
        names = sorted(saved.keys() | wanted.keys(), key=lambda n: (not n.startswith("params/"), n))
        for name in names:
            if saved.get(name) != wanted.get(name):
                raise ConfigError(
                    f"checkpoint {step} in {self._manager.directory} is of another model: {name} is"
                    f" {saved.get(name, 'missing')} there and {wanted.get(name, 'missing')} in this"
                    " config. Give the config it was trained with, or another --workdir"
                )


def _describe(tree: object) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
