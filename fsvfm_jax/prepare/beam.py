"""Work on many machines, as an Apache Beam pipeline (extra `beam`).

An element is a shard, or a few items of a stage: read, worked on and written where the element is,
so that no pixels travel between machines. All of them mount one file system.
"""

import contextlib
import io
import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsvfm_jax.errors import ConfigError, StorageError, in_one_line
from fsvfm_jax.prepare.extras import check_installed

logger = logging.getLogger(__name__)

# In this process, or in several of this machine. Beam's own choice, where it is given none, first
# tries to fetch a program from the network.
DEFAULT_OPTIONS = ("--runner=FnApiRunner",)


@dataclass(frozen=True)
class _Element:
    """Beam pickles what it has no coder for; its own for text takes no names that are not UTF-8."""

    content: Any


def do(work: Callable[[Any], None], elements: Sequence[Any], *, options: str) -> None:
    """Does work(element) for every element, on whatever machines there are.

    Args:
        work: Writes its result; picklable.
        elements: Picklable.
        options: Beam's, as on a command line; "" runs it in this process.

    Raises:
        ConfigError: Beam is not installed, or the options cannot be understood.
        StorageError: The pipeline failed.
    """
    check_installed({"apache_beam"}, extra="beam")
    import apache_beam  # only where it is used: an extra

    pipeline = _make_pipeline(options)
    logger.info("by Beam's %s", type(pipeline.runner).__name__)
    try:
        with pipeline:
            _ = (
                pipeline
                | apache_beam.Create([_Element(element) for element in elements])
                # Without this a runner may give all of them to one machine.
                | apache_beam.Reshuffle()
                | "work" >> apache_beam.Map(lambda element: work(element.content))
            )
    except Exception as error:  # A runner has many ways to fail.
        # What the work raised comes last, after the runner's stack.
        raise StorageError(
            f"the Beam pipeline failed (... {in_one_line(error)[-500:]}); once that is mended, the"
            " same command goes on where it stopped"
        ) from error


def refuse_lost(names: Sequence[str], *, place: Path) -> None:
    """Raises StorageError if there are names: of what a pipeline has done, but not to be seen."""
    if names:
        raise StorageError(
            f"the pipeline ended, and of {len(names)} items, such as {names[0]}, nothing came to"
            f" {place}: are all paths the same on all machines? The same command goes on"
        )


def _make_pipeline(options: str) -> Any:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = PipelineOptions([*DEFAULT_OPTIONS, *shlex.split(options)])
            parsed.get_all_options()  # Only now it looks at their values.
            return apache_beam.Pipeline(options=parsed)
    except (SystemExit, ValueError) as error:
        why = (said.getvalue().strip() or str(error)).splitlines()[-1]
        raise ConfigError(
            f"--beam is {options!r}, which Beam does not understand: {why}"
        ) from error
