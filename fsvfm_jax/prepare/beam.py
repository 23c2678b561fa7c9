"""Packing on many machines, as an Apache Beam pipeline (extra `beam`).

An element is a shard: its images are read and encoded and the shard is written where the element
is, so that no pixels travel between machines. All of them mount one file system.
"""

import shlex
from pathlib import Path

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions

from fsvfm_jax.prepare.encode import pack_pairs
from fsvfm_jax.prepare.growing_set import Plan, write_packed
from fsvfm_jax.prepare.trees import Pair


def write_shards(plan: Plan, folder: Path, missing: list[int], *, options: str) -> None:
    """Writes shards of a plan; to be given to `growing_set.build`.

    Args:
        plan: What to pack.
        folder: Where they go; the same path on every machine.
        missing: Which of the shards.
        options: Beam's, as on a command line; "" runs it in this process.
    """
    shards = [(str(folder.absolute() / plan.shard_names[i]), plan.shard(i)) for i in missing]
    with apache_beam.Pipeline(options=PipelineOptions(shlex.split(options))) as pipeline:
        _ = (
            pipeline
            | apache_beam.Create(shards)
            # Without this a runner may give all shards to one machine.
            | apache_beam.Reshuffle()
            | apache_beam.Map(_write, encoding=plan.encoding, image_size=plan.image_size)
        )


def _write(shard: tuple[str, list[Pair]], *, encoding: str, image_size: int | None) -> None:
    file, pairs = shard
    packed = (
        item
        for pair in pairs
        for item in pack_pairs([pair], encoding=encoding, image_size=image_size)
    )
    write_packed(Path(file), packed)
