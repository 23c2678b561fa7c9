"""origin.json of a workdir: the weights that a run started from, with their hash and licence."""

from typing import Any

from etils import epath

from fsvfm_jax.host.storage import write_json

ORIGIN_FILE = "origin.json"
ORIGIN = ("source", "source_sha256", "license")


def save_origin(workdir: epath.PathLike, origin: dict[str, Any]) -> None:
    """Notes in a workdir what it started from: the licence of that goes with what comes of it."""
    write_json(epath.Path(workdir) / ORIGIN_FILE, origin)
