"""Turns a source into an endless, reproducible stream of NumPy batches.

The stream is one sequence of samples: one permutation of the source per epoch, each following the
one before, or a mixture of such sequences, one per set. Global batch k consists of samples k * B to
(k + 1) * B, counted without those of `skip_ranges`. The stream depends only on the source and the
seed, not on the number of processes, workers or restarts. The augmentation of a sample depends only
on the seed and on the sample's place in the stream.

A batch is read in chunks, each by one worker or thread: storage receives requests for a whole
chunk, and shared memory holds chunks, not batches. A worker writes its chunk there once.

This module does not use JAX. Grain imports JAX wherever it is installed, in workers too, but starts
no backend there, so a worker holds no memory of an accelerator.
"""

import dataclasses
import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from fsvfm_jax.data import segments
from fsvfm_jax.data.sources import Source
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.host.processes import available_cores, end_with_parent
from fsvfm_jax.host.streams import drop_what_cannot_be_written

logger = logging.getLogger(__name__)

CHUNK = 64  # samples
MAX_THREADS = 16
SECONDS_TO_CLOSE = 30.0  # Grain itself waits up to 25 s for each worker to finish its chunk.
# The number of faces that are tried in place of a damaged one.
MAX_TRIES = 100

HostBatch = dict[str, np.ndarray]
# Turns a source's face into a row of a batch. The second argument, (seed, place in the stream), is
# the key of all random draws.
Element = Callable[[Mapping[str, Any], tuple[int, int]], Mapping[str, Any]]


class Batches(Iterator[HostBatch]):
    """This process's rows of every global batch, without end.

    Attributes:
        replaced: Number of damaged samples so far that other samples replaced.
    """

    def __init__(self, chunks: grain.IterDataset, *, skip_corrupt: int):
        self._iterator = iter(chunks)
        self._skip_corrupt = skip_corrupt
        self.replaced = 0

    def __next__(self) -> HostBatch:
        batch = next(self._iterator)
        self.replaced += int(batch.pop("replaced").sum())
        if self.replaced > self._skip_corrupt:
            raise DataError(
                f"{self.replaced} samples were damaged since the start, each named above, of which"
                f" config.data.skip_corrupt = {self._skip_corrupt} are accepted: mend the data"
            )
        return batch

    def close(self) -> None:
        """Ends threads and worker processes.

        Grain waits for its thread, which may wait for room in a queue that nobody empties any more.
        Therefore this method stops waiting after SECONDS_TO_CLOSE.
        """
        closing = threading.Thread(target=self._iterator.close, daemon=True)
        closing.start()
        closing.join(SECONDS_TO_CLOSE)
        if closing.is_alive():
            logger.warning(
                "the data threads and workers still run after %g s: they end with this process",
                SECONDS_TO_CLOSE,
            )


def make_iterator(
    source: Source,
    *,
    element: Element,
    global_batch_size: int,
    seed: int,
    weights: Sequence[float | int] = (),
    shuffle: bool = True,
    start_sample: int = 0,
    skip_ranges: Sequence[tuple[int, int]] = (),
    skip_corrupt: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Returns this process's rows of every global batch, without end.

    A batch has b = global_batch_size / process_count elements, stacked by name; process h has rows
    h * b to (h + 1) * b of the global batch. Close the iterator to end its threads and worker
    processes. An error in a worker is raised here unchanged.

    Args:
        source: At least one face.
        element: Turns a face into a row of the batch. Every worker receives it.
        global_batch_size: Number of samples in a batch over all processes.
        seed: Seed of the permutations and of the draws of `element`, at least 0.
        weights: Proportions in which the faces of the sets of a `JoinedSets` occur. Without
            weights, every face of every set occurs once per epoch.
        shuffle: Whether to shuffle. False yields the faces in their order, again and again.
        start_sample: Number of samples of the stream that all processes together have already
            consumed; k * global_batch_size continues with batch k.
        skip_ranges: Samples to leave out, as (first, one past the last), ascending and disjoint.
        skip_corrupt: Number of damaged samples that are replaced by the source's next sample, with
            a warning, before a `DataError`.
        process_index: Number of this process, from 0.
        process_count: Number of processes that share a global batch.
        num_workers: Number of worker processes; with 0, threads read and decode.
        prefetch: Number of batches to make ahead.

    Raises:
        ConfigError: The batch does not divide over the processes.
    """
    segments.remove_orphans()
    segments.name_semaphores()
    rows = _rows_per_process(global_batch_size, process_count)
    reader = _ChunkReader(
        source=source,
        element=element,
        order=_order(_sizes(source), seed=seed, weights=weights, shuffle=shuffle),
        kept=_kept_ranges(start_sample, skip_ranges),
        global_batch_size=global_batch_size,
        first_row=process_index * rows,
        rows=rows,
        seed=seed,
        replace=skip_corrupt > 0,
        share=num_workers > 0,
    )
    batches = _read_ahead(reader, num_workers=num_workers, prefetch=prefetch)
    return Batches(batches, skip_corrupt=skip_corrupt)


def _rows_per_process(global_batch_size: int, process_count: int) -> int:
    if global_batch_size % process_count:
        raise ConfigError(
            f"config.batch_size is {global_batch_size}, which does not divide over"
            f" {process_count} processes; choose a multiple of {process_count}"
        )
    return global_batch_size // process_count


def advance(position: int, count: int, *, skip_ranges: Sequence[tuple[int, int]] = ()) -> int:
    """Returns the position in the stream after `count` more samples.

    Args:
        position: Place in the stream from which to count.
        count: Number of samples that are not left out.
        skip_ranges: As in `make_iterator`.
    """
    if count == 0:
        return position
    return _places(_kept_ranges(position, skip_ranges), count - 1, 1)[0] + 1


def sample_indices(
    source: Source,
    *,
    seed: int,
    start: int,
    count: int,
    skip_ranges: Sequence[tuple[int, int]] = (),
    weights: Sequence[float | int] = (),
) -> list[int]:
    """Returns the source's indices of the samples at `count` places of the stream.

    Args:
        source: As in `make_iterator`.
        seed: As in `make_iterator`.
        start: First place in the stream.
        count: Number of samples that are not left out.
        skip_ranges: As in `make_iterator`.
        weights: As in `make_iterator`.
    """
    order = _order(_sizes(source), seed=seed, weights=weights)
    return [int(order[place]) for place in _places(_kept_ranges(start, skip_ranges), 0, count)]


def read_faces(
    source: Source, indices: Sequence[int], *, replace: bool
) -> tuple[list[Mapping[str, Any]], list[bool]]:
    """Reads faces, and replaces damaged ones by the next of the source if `replace` is set.

    Args:
        source: The faces.
        indices: Indices of the faces to read.
        replace: Whether to replace damaged faces.

    Returns:
        The faces, and for each whether another face replaced it.

    Raises:
        DataError: A face is damaged and may not be replaced, or too many in a row are damaged.
    """
    try:
        return source.read(indices), [False] * len(indices)
    except DataError:
        if not replace:
            raise
    found = [_first_whole(source, index) for index in indices]
    return [face for face, _ in found], [tries > 0 for _, tries in found]


@dataclasses.dataclass(frozen=True)
class _ChunkReader:
    """Makes chunks of this process's rows, numbered through all batches; each worker has a copy."""

    source: Source
    element: Element
    order: grain.MapDataset
    kept: Sequence[tuple[int, int]]
    global_batch_size: int
    first_row: int
    rows: int
    seed: int
    replace: bool  # whether to replace damaged faces
    share: bool  # whether to put the rows in shared memory

    @property
    def chunks_per_batch(self) -> int:
        return _chunks_in(self.rows)

    def __call__(self, chunk: int) -> HostBatch:
        batch, number = divmod(chunk, self.chunks_per_batch)
        row = number * CHUNK
        first = batch * self.global_batch_size + self.first_row + row
        places = _places(self.kept, first, min(CHUNK, self.rows - row))
        indices = [int(self.order[place]) for place in places]
        faces, replaced = read_faces(self.source, indices, replace=self.replace)
        pairs = zip(faces, places, strict=True)
        elements = [self.element(face, (self.seed, place)) for face, place in pairs]
        stack = segments.stack_in_shared_memory if self.share else np.stack
        stacked = {name: stack([x[name] for x in elements]) for name in elements[0]}
        return stacked | {"replaced": np.array(replaced)}


def _chunks_in(rows: int) -> int:
    return -(-rows // CHUNK)


def _threads() -> int:
    return min(MAX_THREADS, available_cores())


def batches_ahead(rows: int, num_workers: int, *, prefetch: int = 2) -> int:
    """Returns a number of batches above which none can have been made ahead.

    These are the buffered chunks, the chunk that each thread or worker is making, the batch that is
    being joined, and the joined one.

    Args:
        rows: Rows of a batch that this process has.
        num_workers: See `make_iterator`.
        prefetch: See `make_iterator`.
    """
    chunks = _chunks_in(rows)
    makers = num_workers or _threads()
    buffered = max(prefetch * chunks, makers) + makers
    return -(-(buffered + makers) // chunks) + 2


def _read_ahead(reader: _ChunkReader, *, num_workers: int, prefetch: int) -> grain.IterDataset:
    """Returns batches of chunks that worker processes make, or threads if there are no workers."""
    ahead = prefetch * reader.chunks_per_batch
    threads = 0 if num_workers else _threads()
    chunks = (
        grain.MapDataset.range(sys.maxsize)
        .map(reader)
        .to_iter_dataset(
            grain.ReadOptions(
                num_threads=threads, prefetch_buffer_size=max(threads, ahead) if threads else 0
            )
        )
        .mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=num_workers,
                per_worker_buffer_size=-(-ahead // num_workers) if num_workers else 1,
            ),
            worker_init_fn=_start_worker,
        )
        .batch(reader.chunks_per_batch, batch_fn=_join)
    )
    # A thread joins the chunks, a copy of hundreds of MB, while the devices work.
    return grain.experimental.ThreadPrefetchIterDataset(chunks, prefetch_buffer_size=1)


def _first_whole(source: Source, index: int) -> tuple[Mapping[str, Any], int]:
    """Returns the first readable face from `index` on, and the number of damaged ones before it."""
    for tries in range(MAX_TRIES):
        try:
            return source[(index + tries) % len(source)], tries
        except DataError as error:
            logger.warning("%s; the next face replaces it", error)
    raise DataError(f"{MAX_TRIES} faces in a row are damaged, from number {index} on")


def _sizes(source: Source) -> Sequence[int]:
    return getattr(source, "sizes", [len(source)])


def _order(
    sizes: Sequence[int], *, seed: int, weights: Sequence[float | int], shuffle: bool = True
) -> grain.MapDataset:
    """Returns the source's index at every place of the endless stream."""
    if not shuffle:
        return grain.MapDataset.range(sum(sizes)).repeat()
    if not weights:
        return grain.MapDataset.range(sum(sizes)).seed(seed).shuffle().repeat()
    ends = np.cumsum(sizes).tolist()
    return grain.MapDataset.mix(
        [
            # With a seed of its own, a set has another order than other sets of its size.
            grain.MapDataset.range(end - size, end).seed(seed + number).shuffle().repeat()
            for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
        ],
        weights,
    )


def _kept_ranges(start: int, skip_ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the ranges of the stream from `start` on that are not left out."""
    kept = []
    for first, end in skip_ranges:
        if start < first:
            kept.append((start, first))
        start = max(start, end)
    return [*kept, (start, sys.maxsize)]


def _places(kept: Sequence[tuple[int, int]], first: int, count: int) -> list[int]:
    """Returns `count` places of the kept ranges, from the kept place number `first` on."""
    places: list[int] = []
    for begin, end in kept:
        places += range(begin, end)[first : first + count - len(places)]
        first = max(0, first - (end - begin))
    return places


def _join(chunks: Sequence[HostBatch]) -> HostBatch:
    if len(chunks) == 1:  # A batch of one chunk stays where its worker has put it.
        return {name: np.asarray(rows) for name, rows in chunks[0].items()}
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _start_worker(index: int, count: int) -> None:
    """Makes a worker end when the trainer closes it or is gone, and for no other reason.

    A signal to the process group must not end the workers of a trainer that still has to save.
    Workers of a killed trainer would otherwise stay alive and keep their memory.
    """
    del index, count
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    drop_what_cannot_be_written()
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        segments.name_segments_after(trainer.pid)
    end_with_parent()
