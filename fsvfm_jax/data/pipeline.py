"""From a source to an endless, reproducible stream of NumPy batches.

The stream is one sequence of samples: a permutation of the source per epoch, the next beginning
where the last ends. Global batch k is its samples k * B to (k + 1) * B (less what is left out, by
`skip_ranges`). It depends on the source, the seed and nothing else: not on the number of processes,
workers or restarts.

Nothing here uses JAX. Grain imports it wherever it is installed, in workers too, but starts no
backend there, so a worker holds no memory of an accelerator.
"""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence

import grain

from fsvfm_jax.data.segments import name_segments_after, remove_orphans
from fsvfm_jax.data.sources import Source
from fsvfm_jax.data.transforms import to_batch_element
from fsvfm_jax.errors import ConfigError


def make_iterator(
    source: Source,
    *,
    global_batch_size: int,
    patch_size: int,
    seed: int,
    start_sample: int = 0,
    skip_ranges: Sequence[tuple[int, int]] = (),
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    prefetch: int = 2,
) -> grain.DatasetIterator:
    """Returns this process's rows of every global batch, without end.

    A batch is {"image": uint8 [b, S, S, 3], "classes": uint16 [b, N]} with b = global_batch_size /
    process_count; process h has rows h * b to (h + 1) * b of the global batch. Close the iterator
    to end its threads and worker processes. An error in a worker is raised here as it was there.

    Args:
        source: Faces; at least one.
        global_batch_size: Samples in a batch over all processes.
        patch_size: Side of a patch in pixels.
        seed: Seed of the permutations, at least 0.
        start_sample: Number of samples of the stream that all processes together have consumed
            already; k * global_batch_size continues with batch k.
        skip_ranges: Samples of the stream that are left out, as (first, one past the last),
            ascending and apart.
        process_index: This process, from 0.
        process_count: Number of processes that share a global batch.
        num_workers: Worker processes, each making whole batches; with 0, threads make them.
        prefetch: Batches made ahead, per worker, or in as many threads without workers.

    Raises:
        ConfigError: The batch does not divide over the processes.
    """
    remove_orphans()
    if global_batch_size % process_count:
        raise ConfigError(
            f"config.batch_size is {global_batch_size}, which does not divide over"
            f" {process_count} processes; choose a multiple of {process_count}"
        )
    samples = grain.MapDataset.source(source)
    batches = (
        _stream(samples, seed=seed, start=start_sample, skip_ranges=skip_ranges)
        # Whatever is done to a sample is done before processes and workers divide the stream.
        .map(functools.partial(to_batch_element, patch_size=patch_size))
        # The stream has no remainder to drop; without this, Grain rounds its length as a float.
        .batch(global_batch_size // process_count, drop_remainder=True)
        .slice(slice(process_index, None, process_count))
    )
    threads = 0 if num_workers else prefetch
    return iter(
        batches.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        ).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=prefetch),
            worker_init_fn=_start_worker,
        )
    )


def advance(position: int, count: int, *, skip_ranges: Sequence[tuple[int, int]] = ()) -> int:
    """Where the stream is after `count` more samples from `position` that are not left out."""
    for first, end in _kept_ranges(position, skip_ranges):
        if end is None or count <= end - first:
            return first + count
        count -= end - first
    raise AssertionError("the last range has no end")


def sample_indices(
    num_samples: int,
    *,
    seed: int,
    start: int,
    count: int,
    skip_ranges: Sequence[tuple[int, int]] = (),
) -> list[int]:
    """Which of the source's samples the stream holds at `count` places from `start` on."""
    indices = grain.MapDataset.range(num_samples)
    stream = _stream(indices, seed=seed, start=start, skip_ranges=skip_ranges)
    return [int(stream[place]) for place in range(count)]


def _stream(
    samples: grain.MapDataset, *, seed: int, start: int, skip_ranges: Sequence[tuple[int, int]]
) -> grain.MapDataset:
    """The endless stream, another permutation in every epoch, from `start` on."""
    stream = samples.seed(seed).shuffle().repeat()
    kept = [stream.slice(slice(first, end)) for first, end in _kept_ranges(start, skip_ranges)]
    return kept[0] if len(kept) == 1 else grain.MapDataset.concatenate(kept)


def _kept_ranges(
    start: int, skip_ranges: Sequence[tuple[int, int]]
) -> list[tuple[int, int | None]]:
    """What is left of the stream from `start` on; the last range has no end."""
    kept = []
    for first, end in skip_ranges:
        if start < first:
            kept.append((start, first))
        start = max(start, end)
    return [*kept, (start, None)]


def _start_worker(index: int, count: int) -> None:
    """Makes a worker end when the trainer closes it or is gone, and for no other reason.

    A signal to the process group must not take the batches from a trainer that still wants to
    save; and workers of a trainer that was killed would otherwise stay, with their memory.
    """
    del index, count
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        name_segments_after(trainer.pid)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
    os._exit(1)
