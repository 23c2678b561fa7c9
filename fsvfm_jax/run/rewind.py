"""Goes back to an earlier checkpoint once, even if a command asks for it repeatedly."""

import logging
from collections.abc import Sequence
from typing import TypedDict

from etils import epath
from jax.experimental import multihost_utils

from fsvfm_jax.devices import distributed
from fsvfm_jax.host.storage import read_stored_json, write_json
from fsvfm_jax.run.checkpoint import Checkpoints

logger = logging.getLogger(__name__)

REWINDS_FILE = "rewinds.json"


class Rewind(TypedDict):
    """One entry of the file: the checkpoint that the run went back to, and the skipped samples."""

    step: int
    skip_ranges: list[list[int]]


def rewind(
    workdir: epath.Path,
    checkpoints: Checkpoints,
    *,
    step: int | None,
    skip_ranges: Sequence[tuple[int, int]],
) -> None:
    """Makes `step` the newest checkpoint, unless the last rewind had the same step and ranges.

    Args:
        workdir: Workdir of the run; its `rewinds.json` records the rewind.
        checkpoints: Checkpoints of the run.
        step: The config's `resume.step`; None does nothing.
        skip_ranges: The config's `data.skip_ranges`.

    Raises:
        ConfigError: There is no such checkpoint, or it is damaged.
        StorageError: `rewinds.json` cannot be written.
    """
    if step is None:
        return
    file = workdir / REWINDS_FILE
    mend = "put back a copy of it, or remove it: the run then goes back once more"
    done = read_stored_json(file, list[Rewind], mend=mend) if file.exists() else []
    wanted = Rewind(step=step, skip_ranges=[list(ends) for ends in skip_ranges])
    # Only the last rewind counts: a user may go back and forth between two checkpoints.
    if wanted in done[-1:]:
        logger.info("config.resume.step = %d: the run went back to it before, see %s", step, file)
        return
    checkpoints.rewind(step)
    # All processes must have read the file before it is replaced.
    multihost_utils.sync_global_devices("gone back")
    distributed.on_first_process(
        lambda: write_json(file, [*done, wanted]), refusal=f"{file} cannot be written"
    )
