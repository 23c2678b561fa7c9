"""Work on many machines, as an Apache Beam pipeline (extra `beam`).

An element is a shard, or a few items of a stage: read, worked on and written where the element is,
so that no pixels travel between machines. All of them mount one file system.
"""

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions

from fsvfm_jax.errors import StorageError, in_one_line


def do(work: Callable[[Any], None], elements: Sequence[Any], *, options: str) -> None:
    """Does work(element) for every element, on whatever machines there are.

    Args:
        work: Writes its result; picklable.
        elements: Picklable.
        options: Beam's, as on a command line; "" runs it in this process.

    Raises:
        StorageError: The pipeline failed.
    """
    try:
        with apache_beam.Pipeline(options=PipelineOptions(shlex.split(options))) as pipeline:
            _ = (
                pipeline
                | apache_beam.Create(elements)
                # Without this a runner may give all of them to one machine.
                | apache_beam.Reshuffle()
                | apache_beam.Map(work)
            )
    except Exception as error:  # A runner has many ways to fail.
        # What the work raised comes last, after the runner's own stack.
        raise StorageError(
            f"the Beam pipeline failed (... {in_one_line(error)[-500:]}); once that is mended, the"
            " same command goes on where it stopped"
        ) from error
