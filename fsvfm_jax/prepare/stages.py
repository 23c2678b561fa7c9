"""Runs a stage on its items, here or on many machines, and records each item in the manifest."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fsvfm_jax.host.progress import progress
from fsvfm_jax.prepare.beam import do, refuse_lost
from fsvfm_jax.prepare.manifest import Line, Manifest, keep_lines

# Processes items in any order, and yields the lines of each item when its files are written.
Work = Callable[[Sequence[Any]], Iterator[list[Line]]]


def do_stage(
    manifest: Manifest,
    items: Mapping[str, Any],
    work: Work,
    *,
    beam: str | None,
    at_once: int,
) -> None:
    """Processes the items of a stage that are not done yet.

    Args:
        manifest: The open manifest of the stage.
        items: All items, picklable, by the names in their lines.
        work: Processes items; picklable.
        beam: Options of the Apache Beam pipeline that processes the items; None processes them
            here.
        at_once: Number of items in one element of that pipeline.

    Raises:
        ConfigError: Beam is not installed.
        StorageError: The pipeline failed, or the tree cannot be written.
    """
    todo = [item for name, item in items.items() if name not in manifest]
    if beam is None:
        for lines in progress(work(todo), total=len(todo), description=manifest.stage):
            manifest.add(lines)
        return
    elements = [todo[first : first + at_once] for first in range(0, len(todo), at_once)]
    if not elements:
        return
    tree = manifest.tree.absolute()
    part = functools.partial(_do_part, tree=tree, stage=manifest.stage, work=work)
    do(part, elements, options=beam)
    manifest.collect()
    lost = [name for name in items if name not in manifest]
    refuse_lost(lost, place=tree)


def _do_part(items: Sequence[Any], *, tree: Path, stage: str, work: Work) -> None:
    keep_lines(tree, stage, list(work(items)))
