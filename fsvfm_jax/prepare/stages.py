"""The items of a stage done, here or on many machines, each with its lines in the manifest."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.prepare.manifest import Line, Manifest, keep_lines
from fsvfm_jax.progress import progress

# Does items, in any order, and yields each one's lines once its files are written.
Work = Callable[[Sequence[Any]], Iterator[list[Line]]]


def do_stage(
    manifest: Manifest,
    items: Sequence[Any],
    work: Work,
    *,
    beam: str | None,
    at_once: int,
) -> None:
    """Does all items of a stage.

    Args:
        manifest: The stage's, open.
        items: Those that are not done yet; picklable.
        work: Does them; picklable.
        beam: Options of the Apache Beam pipeline that does it; None does it here.
        at_once: Items of one element of that pipeline.

    Raises:
        ConfigError: Beam is not installed.
        StorageError: The pipeline failed, or the tree cannot be written.
    """
    if beam is None:
        for lines in progress(work(items), total=len(items), description=manifest.stage):
            manifest.add(lines)
        return
    check_installed({"apache_beam"}, extra="beam")
    from fsvfm_jax.prepare.beam import do  # only where it is used: an extra

    elements = [items[first : first + at_once] for first in range(0, len(items), at_once)]
    tree = manifest.tree.absolute()
    part = functools.partial(_do_part, tree=tree, stage=manifest.stage, work=work)
    do(part, elements, options=beam)
    manifest.collect()


def _do_part(items: Sequence[Any], *, tree: Path, stage: str, work: Work) -> None:
    keep_lines(tree, stage, list(work(items)))
