"""Sends a run's numbers and pictures to Weights & Biases, beside the files that a run writes.

Without a network set WANDB_MODE=offline: the run is then written to `<workdir>/wandb/`, and
`wandb sync` sends it later.
"""

import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypedDict

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from ml_collections import ConfigDict
from msgspec import Meta

from fsvfm_jax.devices import distributed
from fsvfm_jax.errors import ConfigError, UserError, in_one_line
from fsvfm_jax.host.storage import in_bucket, read_stored_json, write_json
from fsvfm_jax.prepare.extras import check_installed

logger = logging.getLogger(__name__)

RUN_FILE = "wandb.json"
PROJECT = "fsvfm_jax"


class StoredRun(TypedDict):
    """The content of the file: the id that all starts of the run share."""

    id: Annotated[str, Meta(pattern="^[a-z0-9]{1,64}$")]


class WandbRun:
    """The run at Weights & Biases. An error of the service is logged, and ends no training.

    Args:
        workdir: The run's folder, whose name is the run's name.
        config: The resolved config, which is sent too.

    Raises:
        ConfigError: Weights & Biases refuses the run, for example without a login.
        StorageError: The file with the run's id is damaged or cannot be written.
    """

    def __init__(self, workdir: epath.Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._make_picture = wandb.Image
        folder = tempfile.mkdtemp(prefix="fsvfm-") if in_bucket(workdir) else str(workdir)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=workdir.name,
                id=_run_id(workdir),
                resume="allow",
                dir=folder,
                config=dict(config),
                allow_val_change=True,
                # Standard output stays the command's own, and no code is sent.
                settings=wandb.Settings(console="off", silent=True, disable_git=True),
            )
        except (wandb.Error, OSError) as error:
            raise ConfigError(
                "config.tracking.also = ('wandb',): Weights & Biases refuses the run"
                f" ({in_one_line(error)}): log in with `wandb login`, set WANDB_MODE=offline, or"
                " leave the field out"
            ) from error
        # A restart repeats the steps since its checkpoint, and `wandb` drops repeated steps of its
        # own counter.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends numbers by their names."""
        self._send(lambda: {"step": step, **values})

    def image(self, step: int, tag: str, grid: UInt8[np.ndarray, "H W 3"]) -> None:
        """Sends a picture."""
        self._send(lambda: {"step": step, tag: self._make_picture(grid)})

    def close(self) -> None:
        """Sends what is not sent yet."""
        try:
            self._run.finish()
        except Exception as error:
            logger.error("Weights & Biases: %s", in_one_line(error))

    def _send(self, make_content: Callable[[], dict[str, Any]]) -> None:
        try:
            self._run.log(make_content())
        except Exception as error:  # Days of training matter more than a tracker.
            logger.error("Weights & Biases: %s", in_one_line(error))


def check_trackers(config: ConfigDict) -> None:
    """Raises ConfigError if a tracker of `config.tracking.also` is not installed."""
    for name in config.tracking.also:
        check_installed({name}, extra=name)


@contextlib.contextmanager
def open_others(config: ConfigDict, workdir: epath.Path) -> Iterator[Sequence[WandbRun]]:
    """Opens the trackers that `config.tracking.also` names, on the first process alone.

    Raises:
        UserError: The first process cannot open them. Every process raises it, so that none waits
            for another.
    """
    opened, error = [], None
    if config.tracking.also and jax.process_index() == 0:
        try:
            opened = [WandbRun(workdir, config.to_dict())]
        except UserError as refused:
            error = refused
    if distributed.number_of_processes(error is not None):
        raise error or ConfigError("process 0 cannot open config.tracking.also: see its message")
    try:
        yield opened
    finally:
        for other in opened:
            other.close()


def _run_id(workdir: epath.Path) -> str:
    """Returns the id of the run at Weights & Biases, which the first start draws and stores."""
    file = workdir / RUN_FILE
    if not file.exists():
        write_json(file, StoredRun(id=secrets.token_hex(8)))
    mend = "put back a copy of it, or remove it: the run then appears as a new one"
    return read_stored_json(file, StoredRun, mend=mend)["id"]
