"""Writes origin.json of a workdir: the weights that a run started from, their hash and licence."""

from typing import Any

from etils import epath

from fsvfm_jax.host.storage import write_json

ORIGIN_FILE = "origin.json"
ORIGIN = ("source", "source_sha256", "license")


def save_origin(workdir: epath.PathLike, origin: dict[str, Any]) -> None:
    """Writes the origin of a run's weights: their licence also applies to the weights it produces.

    Args:
        workdir: Workdir of the run.
        origin: Values by the names in `ORIGIN`.
    """
    write_json(epath.Path(workdir) / ORIGIN_FILE, origin)
