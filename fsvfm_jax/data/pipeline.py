"""From a source to an endless, reproducible stream of NumPy batches.

The stream is one sequence of samples: a permutation of the source per epoch, the next beginning
where the last ends; or a mixture of such sequences, one per set. Global batch k is its samples
k * B to (k + 1) * B (less what is left out, by `skip_ranges`). It depends on the source, the seed
and nothing else: not on the number of processes, workers or restarts. Nor does what is done to a
sample, which hangs on the seed and its place in the stream.

A batch is read in chunks, each by one worker or thread: storage is asked for a whole chunk at once,
and shared memory holds chunks, not batches.

Nothing here uses JAX. Grain imports it wherever it is installed, in workers too, but starts no
backend there, so a worker holds no memory of an accelerator.
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

from fsvfm_jax.data.segments import name_segments_after, name_semaphores, remove_orphans
from fsvfm_jax.data.sources import Source
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.host.processes import available_cores, end_with_parent
from fsvfm_jax.host.streams import drop_what_cannot_be_written

logger = logging.getLogger(__name__)

CHUNK = 64  # samples
MAX_THREADS = 16
SECONDS_TO_CLOSE = 30.0
# Faces after a damaged one that are tried in its place.
MAX_TRIES = 100

HostBatch = dict[str, np.ndarray]
# Turns what a source returns into a row of a batch; its second argument, (seed, place in the
# stream), keys whatever it draws.
Element = Callable[[Mapping[str, Any], tuple[int, int]], Mapping[str, Any]]


class Batches(Iterator[HostBatch]):
    """This process's rows of every global batch, without end.

    Attributes:
        replaced: How many samples so far were damaged, so that others took their places.
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

        Grain waits for its thread, which may wait for room in the queue that nobody empties any
        more: at the end of a run that is not waited for.
        """
        closing = threading.Thread(target=self._iterator.close, daemon=True)
        closing.start()
        closing.join(SECONDS_TO_CLOSE)
        if closing.is_alive():
            logger.warning(
                "the data threads and workers are still going on after %g s: they end with this"
                " process",
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
    processes. An error in a worker is raised here as it was there.

    Args:
        source: Faces; at least one.
        element: From a face to a row of the batch; goes to every worker.
        global_batch_size: Samples in a batch over all processes.
        seed: Seed of the permutations and of what `element` draws, at least 0.
        weights: How often faces of each set of a `JoinedSets` come, in proportion; none: each face
            of all of them once per epoch.
        shuffle: False gives them in their order, again and again.
        start_sample: Number of samples of the stream that all processes together have consumed
            already; k * global_batch_size continues with batch k.
        skip_ranges: Samples of the stream that are left out, as (first, one past the last),
            ascending and apart.
        skip_corrupt: How many damaged samples are replaced by the source's next, with a warning,
            before a `DataError`.
        process_index: This process, from 0.
        process_count: Number of processes that share a global batch.
        num_workers: Worker processes; with 0, threads read and decode.
        prefetch: Batches made ahead.

    Raises:
        ConfigError: The batch does not divide over the processes.
    """
    remove_orphans()
    name_semaphores()
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
    """Where the stream is after `count` more samples from `position` that are not left out."""
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
    """Which of the source's samples the stream holds at `count` places from `start` on."""
    order = _order(_sizes(source), seed=seed, weights=weights)
    return [int(order[place]) for place in _places(_kept_ranges(start, skip_ranges), 0, count)]


def read_faces(
    source: Source, indices: Sequence[int], *, replace: bool
) -> tuple[list[Mapping[str, Any]], list[bool]]:
    """Returns the faces, and for each whether another had to take its place.

    Raises:
        DataError: One is damaged and may not be replaced, or too many in a row are.
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
    """Makes chunks of this process's rows, numbered through all batches; goes to every worker."""

    source: Source
    element: Element
    order: grain.MapDataset
    kept: Sequence[tuple[int, int]]
    global_batch_size: int
    first_row: int
    rows: int
    seed: int
    replace: bool  # of damaged faces

    @property
    def chunks_per_batch(self) -> int:
        return -(-self.rows // CHUNK)

    def __call__(self, chunk: int) -> HostBatch:
        batch, number = divmod(chunk, self.chunks_per_batch)
        row = number * CHUNK
        first = batch * self.global_batch_size + self.first_row + row
        places = _places(self.kept, first, min(CHUNK, self.rows - row))
        indices = [int(self.order[place]) for place in places]
        faces, replaced = read_faces(self.source, indices, replace=self.replace)
        pairs = zip(faces, places, strict=True)
        elements = [self.element(face, (self.seed, place)) for face, place in pairs]
        stacked = {name: np.stack([x[name] for x in elements]) for name in elements[0]}
        return stacked | {"replaced": np.array(replaced)}


def _read_ahead(reader: _ChunkReader, *, num_workers: int, prefetch: int) -> grain.IterDataset:
    """Batches of chunks, made by worker processes, or without any by threads."""
    ahead = prefetch * reader.chunks_per_batch
    threads = 0 if num_workers else min(MAX_THREADS, available_cores())
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
    # Joining chunks is a copy of hundreds of MB, made while the devices work.
    return grain.experimental.ThreadPrefetchIterDataset(chunks, prefetch_buffer_size=1)


def _first_whole(source: Source, index: int) -> tuple[Mapping[str, Any], int]:
    """Returns the first face from `index` on that can be read, and how many could not."""
    for tries in range(MAX_TRIES):
        try:
            return source[(index + tries) % len(source)], tries
        except DataError as error:
            logger.warning("%s; the next takes its place", error)
    raise DataError(f"{MAX_TRIES} faces in a row are damaged, from number {index} on")


def _sizes(source: Source) -> Sequence[int]:
    return getattr(source, "sizes", [len(source)])


def _order(
    sizes: Sequence[int], *, seed: int, weights: Sequence[float | int], shuffle: bool = True
) -> grain.MapDataset:
    """The source's index at every place of the endless stream."""
    if not shuffle:
        return grain.MapDataset.range(sum(sizes)).repeat()
    if not weights:
        return grain.MapDataset.range(sum(sizes)).seed(seed).shuffle().repeat()
    ends = np.cumsum(sizes).tolist()
    return grain.MapDataset.mix(
        [
            # Sets of one size are not to come in one order.
            grain.MapDataset.range(end - size, end).seed(seed + number).shuffle().repeat()
            for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
        ],
        weights,
    )


def _kept_ranges(start: int, skip_ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of the stream from `start` on."""
    kept = []
    for first, end in skip_ranges:
        if start < first:
            kept.append((start, first))
        start = max(start, end)
    return [*kept, (start, sys.maxsize)]


def _places(kept: Sequence[tuple[int, int]], first: int, count: int) -> list[int]:
    """`count` places of what is kept, from the one numbered `first` on."""
    places: list[int] = []
    for begin, end in kept:
        places += range(begin, end)[first : first + count - len(places)]
        first = max(0, first - (end - begin))
    return places


def _join(chunks: Sequence[HostBatch]) -> HostBatch:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _start_worker(index: int, count: int) -> None:
    """Makes a worker end when the trainer closes it or is gone, and for no other reason.

    A signal to the process group must not take the batches from a trainer that still wants to
    save; and workers of a trainer that was killed would otherwise stay, with their memory.
    """
    del index, count
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    drop_what_cannot_be_written()
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        name_segments_after(trainer.pid)
    end_with_parent()
