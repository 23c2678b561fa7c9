"""Writes origin.json of a workdir: the weights that a run started from, their hash and licence."""

import logging
from typing import Any

from etils import epath

from fsvfm_jax.host.storage import read_json, write_json

ORIGIN_FILE = "origin.json"
CONFIG_FILE = "config.json"
ORIGIN = ("source", "source_sha256", "license")

logger = logging.getLogger(__name__)


def save_origin(workdir: epath.PathLike, origin: dict[str, Any]) -> None:
    """Writes the origin of a run's weights: their licence also applies to the weights it produces.

    Args:
        workdir: Workdir of the run.
        origin: Values by the names in `ORIGIN`.
    """
    write_json(epath.Path(workdir) / ORIGIN_FILE, origin)


def warn_of_other_weights(workdir: epath.Path, params: str) -> None:
    """Logs a warning if a run that continues is given other starting weights than it started from.

    Args:
        workdir: Workdir of the run.
        params: `config.init.params` of this start.
    """
    file = workdir / CONFIG_FILE
    if not file.exists():
        return
    stored = read_json(file, dict[str, Any], mend="delete it; the same command writes it again")
    started_from = stored.get("init", {}).get("params", "")
    if params != started_from:
        logger.warning(
            "%s continues from its own checkpoint: config.init.params = %r has no effect; the run"
            " started from %r",
            workdir,
            params,
            started_from or "random weights",
        )
