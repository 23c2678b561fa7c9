"""Describes what a file or folder contains, for `convert inspect`; nothing in it is executed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from fsvfm_jax.convert import reference
from fsvfm_jax.convert.entries import networks_in
from fsvfm_jax.convert.folder_config import read_description
from fsvfm_jax.convert.measures import UnknownHeads
from fsvfm_jax.convert.safetensors import read_header
from fsvfm_jax.convert.sharded import read_headers, read_index
from fsvfm_jax.convert.weights import LoadedWeights, UnknownNetwork, is_exported
from fsvfm_jax.errors import UserError


def describe(path: Path, *, read: Callable[[], LoadedWeights]) -> dict[str, Any]:
    """Returns what a workdir, folder or file contains, for JSON with `default=str`.

    Args:
        path: The workdir, folder or file.
        read: Reads its network; see `read_source`.

    Raises:
        UserError: It cannot be read; an error of a subclass.
    """
    if path.suffix in (".safetensors", ".json"):
        return _of_safetensors(path, read)
    if is_exported(path):
        ours = read_description(path)
        return {"kind": "detector" if ours["label_names"] else "encoder", **ours}
    try:
        source = read()
    except UnknownHeads as error:
        return {**error.file, "kind": error.kind, "model": error.measures, "heads": str(error)}
    except UnknownNetwork as error:
        return {**error.file, "problem": str(error)}
    return {
        **source.file,
        "kind": reference.kind(source.params),
        "model": source.model,
        "parameters": sum(x.size for x in jax.tree.leaves(source.params)),
        **{name: getattr(x, "_asdict", lambda x=x: x)() for name, x in source.facts.items()},
    }


def _of_safetensors(path: Path, read: Callable[[], LoadedWeights]) -> dict[str, Any]:
    """Returns the header of a safetensors file, or of all files in an index, and the network."""
    is_index = path.suffix == ".json"
    names = sorted(read_index(path)[0]) if is_index else [path.name]
    headers = read_headers(path) if is_index else read_header(path)
    shapes = {name: x["shape"] for name, x in headers.items() if name != "__metadata__"}
    about = {"files": names, "prefixes": networks_in(shapes), "arrays": shapes}
    try:
        source = read()
    except UserError as error:
        return {"format": "safetensors", "problem": str(error), **about}
    return {"format": "safetensors", **source.file, "model": source.model, **about}
