"""Going back to an earlier checkpoint: once, however often the command asks for it."""

import logging
from collections.abc import Sequence
from typing import TypedDict

from etils import epath
from jax.experimental import multihost_utils

from fsvfm_jax.devices import distributed
from fsvfm_jax.host.storage import read_json, write_json
from fsvfm_jax.run.checkpoint import Checkpoints

logger = logging.getLogger(__name__)

REWINDS_FILE = "rewinds.json"


class Rewind(TypedDict):
    """One entry of the file: the checkpoint that was gone back to, and the samples left out."""

    step: int
    skip_ranges: list[list[int]]


def rewind(
    workdir: epath.Path,
    checkpoints: Checkpoints,
    *,
    step: int | None,
    skip_ranges: Sequence[tuple[int, int]],
) -> None:
    """Makes `step` the newest checkpoint, unless that was done already with the same ranges.

    Args:
        workdir: Of the run; what was done is noted in its `rewinds.json`.
        checkpoints: Of the run.
        step: The config's `resume.step`; None does nothing.
        skip_ranges: The config's `data.skip_ranges`.

    Raises:
        ConfigError: There is no such checkpoint, or it is damaged.
    """
    if step is None:
        return
    file = workdir / REWINDS_FILE
    mend = "put back a copy of it, or remove it: the run then goes back once more"
    done = read_json(file, list[Rewind], mend=mend) if file.exists() else []
    wanted = Rewind(step=step, skip_ranges=[list(ends) for ends in skip_ranges])
    # Only what was done last: someone may go to and fro.
    if wanted in done[-1:]:
        logger.info("config.resume.step = %d: gone back to already, see %s", step, file)
        return
    checkpoints.rewind(step)
    # Nobody may still be reading.
    multihost_utils.sync_global_devices("gone back")
    distributed.on_first_process(
        lambda: write_json(file, [*done, wanted]), refusal=f"{file} cannot be written"
    )
