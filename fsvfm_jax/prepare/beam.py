"""Runs work on many machines as an Apache Beam pipeline (extra `beam`).

An element is a shard, or a few items of a stage. It is read, processed and written on one machine,
so no pixels travel between machines. All machines mount one file system.
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

# This runner uses this process, or several processes of this machine. Beam's default runner first
# tries to fetch a program from the network.
DEFAULT_OPTIONS = ("--runner=FnApiRunner",)


@dataclass(frozen=True)
class _Element:
    """Wraps an element, so that Beam pickles it: Beam's coder of text accepts valid UTF-8 only."""

    content: Any


def do(work: Callable[[Any], None], elements: Sequence[Any], *, options: str) -> None:
    """Calls work(element) for every element, on the machines of the pipeline.

    Args:
        work: Processes an element and writes the result; picklable.
        elements: Picklable elements.
        options: Beam's options as on a command line; "" runs the pipeline in this process.

    Raises:
        ConfigError: Beam is not installed, or does not understand the options.
        StorageError: The pipeline failed.
    """
    check_installed({"apache_beam"}, extra="beam")
    import apache_beam  # It is an extra, and therefore imported only here.

    pipeline = _make_pipeline(options)
    logger.info("Beam runs the work by its %s", type(pipeline.runner).__name__)
    try:
        with pipeline:
            _ = (
                pipeline
                | apache_beam.Create([_Element(element) for element in elements])
                # Without this step a runner may give all elements to one machine.
                | apache_beam.Reshuffle()
                | "work" >> apache_beam.Map(lambda element: work(element.content))
            )
    except Exception as error:  # A runner can fail in many ways.
        # The message of the work's own exception comes last, after the runner's stack.
        raise StorageError(
            f"the Beam pipeline failed (... {in_one_line(error)[-500:]}); once that is mended, the"
            " same command goes on where it stopped"
        ) from error


def refuse_lost(names: Sequence[str], *, place: Path) -> None:
    """Raises StorageError if results of a pipeline's machines are not visible here.

    Args:
        names: Names of the items without visible results.
        place: The folder in which the results should be.
    """
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
            parsed.get_all_options()  # Beam checks the values only in this call.
            return apache_beam.Pipeline(options=parsed)
    except (SystemExit, ValueError) as error:
        why = (said.getvalue().strip() or str(error)).splitlines()[-1]
        raise ConfigError(
            f"--beam is {options!r}, which Beam does not understand: {why}"
        ) from error
