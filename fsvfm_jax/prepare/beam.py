"""Work on many machines, as an Apache Beam pipeline (extra `beam`).

An element is a shard, or a few items of a stage: read, worked on and written where the element is,
so that no pixels travel between machines. All of them mount one file system.
"""

import contextlib
import io
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions

from fsvfm_jax.errors import ConfigError, StorageError, in_one_line


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
        ConfigError: The options cannot be understood.
        StorageError: The pipeline failed.
    """
    parsed = _parse(options)
    try:
        with apache_beam.Pipeline(options=parsed) as pipeline:
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


def _parse(options: str) -> PipelineOptions:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = PipelineOptions(shlex.split(options))
            parsed.get_all_options()  # Only now it looks at their values.
    except (SystemExit, ValueError) as error:
        why = (said.getvalue().strip() or str(error)).splitlines()[-1]
        raise ConfigError(
            f"--beam is {options!r}, which Beam does not understand: {why}"
        ) from error
    return parsed
