"""The stream of batches is the same however many processes, workers and restarts make it."""

import contextlib
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsvfm_jax.data.pipeline import advance, make_iterator, sample_indices
from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.data.transforms import Face
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.regions import patch_classes

SIZE, PATCH = 16, 8


class Numbered(Sequence):
    """Face i is filled with the number i, and its map with class i % 11."""

    def __init__(self, num_samples: int):
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Face:
        return {
            "image": np.full((SIZE, SIZE, 3), index, np.uint8),
            "parsing_map": np.full((SIZE, SIZE), index % 11, np.uint8),
        }


def batches(
    source: Sequence[Face], count: int, *, global_batch_size: int, seed: int = 0, **options: int
) -> list[dict[str, np.ndarray]]:
    """Returns the first batches of an iterator and closes it."""
    iterator = make_iterator(
        source, global_batch_size=global_batch_size, patch_size=PATCH, seed=seed, **options
    )
    with contextlib.closing(iterator):
        return [next(iterator) for _ in range(count)]


def numbers(source: Sequence[Face], count: int, **options: int) -> list[list[int]]:
    """Returns which faces are in the first batches."""
    return [batch["image"][:, 0, 0, 0].tolist() for batch in batches(source, count, **options)]


def test_a_batch_holds_images_and_the_classes_of_their_patches() -> None:
    source = SyntheticFaces(6, image_size=SIZE, seed=0)
    faces = {source[index]["image"].tobytes(): source[index]["parsing_map"] for index in range(6)}
    (batch,) = batches(source, 1, global_batch_size=4)
    assert set(batch) == {"image", "classes"}
    assert (batch["image"].shape, batch["image"].dtype) == ((4, SIZE, SIZE, 3), np.uint8)
    assert (batch["classes"].shape, batch["classes"].dtype) == ((4, 4), np.uint16)
    parsing_maps = np.stack([faces[image.tobytes()] for image in batch["image"]])
    np.testing.assert_array_equal(batch["classes"], patch_classes(parsing_maps, PATCH))


@settings(max_examples=12, deadline=None)
@given(
    num_samples=st.integers(1, 20), batch_size=st.integers(1, 12), seed=st.integers(0, 2**32 - 1)
)
def test_every_epoch_has_every_sample_once(num_samples: int, batch_size: int, seed: int) -> None:
    """Also where a batch crosses the epochs' border, or is larger than the set."""
    count = -(-3 * num_samples // batch_size)
    stream = numbers(Numbered(num_samples), count, global_batch_size=batch_size, seed=seed)
    assert all(len(batch) == batch_size for batch in stream)
    flat = list(itertools.chain(*stream))
    for epoch in range(3):
        samples = flat[epoch * num_samples : (epoch + 1) * num_samples]
        assert sorted(samples) == list(range(num_samples))


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = [
        order
        for seed in range(3)
        for order in numbers(Numbered(30), 4, global_batch_size=30, seed=seed)
    ]
    assert len({tuple(order) for order in orders}) == 12
    assert list(range(30)) not in orders


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_divide_a_global_batch_by_rows(process_count: int) -> None:
    options = {"global_batch_size": 8, "start_sample": 16}
    whole = numbers(Numbered(11), 5, **options)
    parts = [
        numbers(Numbered(11), 5, process_index=index, process_count=process_count, **options)
        for index in range(process_count)
    ]
    assert [list(itertools.chain(*rows)) for rows in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_a_stream_continues_where_it_was_left(batch: int) -> None:
    options = {"global_batch_size": 4, "seed": 5}
    whole = numbers(Numbered(10), 10, **options)
    assert numbers(Numbered(10), 3, start_sample=4 * batch, **options) == whole[batch : batch + 3]


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"config\.batch_size is 10.* 4 processes; choose a mul"):
        batches(Numbered(3), 1, global_batch_size=10, process_count=4)


def test_threads_raise_an_error_as_it_is() -> None:
    class Broken(Numbered):
        def __getitem__(self, index: int) -> Face:
            raise DataError("image broken.png cannot be read")

    with pytest.raises(DataError) as error:
        batches(Broken(3), 1, global_batch_size=2)
    assert str(error.value) == "image broken.png cannot be read"


def test_workers_make_the_same_stream_and_end_when_closed() -> None:
    source = SyntheticFaces(10, image_size=SIZE, seed=0)
    expected = batches(source, 6, global_batch_size=4)
    for batch, same in zip(
        expected, batches(source, 6, global_batch_size=4, num_workers=2), strict=True
    ):
        np.testing.assert_array_equal(batch["image"], same["image"])
        np.testing.assert_array_equal(batch["classes"], same["classes"])
    assert multiprocessing.active_children() == []


def test_a_worker_raises_an_error_as_it_is_and_starts_no_backend() -> None:
    class Broken(Numbered):
        def __getitem__(self, index: int) -> Face:
            # Grain imports JAX; what costs an accelerator's memory is a backend.
            jax = sys.modules.get("jax")
            backends = jax is not None and jax._src.xla_bridge.backends_are_initialized()
            raise DataError(f"process {os.getpid()}, backends {backends}")

    with pytest.raises(DataError) as error:
        batches(Broken(3), 1, global_batch_size=2, num_workers=1)
    assert re.fullmatch(r"process \d+, backends False", str(error.value))
    assert f"process {os.getpid()}," not in str(error.value)
    assert multiprocessing.active_children() == []


def test_what_workers_run_does_not_import_jax() -> None:
    modules = "fsvfm_jax.data.sources, fsvfm_jax.data.synthetic, fsvfm_jax.data.transforms"
    code = f"import sys; sys.modules['jax'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


TRAINER = """
import multiprocessing, os, signal
from absl import flags
from fsvfm_jax.data.pipeline import advance, make_iterator, sample_indices
from fsvfm_jax.data.sources import SyntheticFaces

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    source = SyntheticFaces(10, image_size=16, seed=0)
    iterator = make_iterator(source, global_batch_size=2, patch_size=8, seed=0, num_workers=1)
    next(iterator)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    for _ in range(20):  # more than can be ready already
        next(iterator)
    print("20 batches after SIGTERM", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_worker_outlives_a_signal_but_not_its_trainer(tmp_path: Path) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    # The worker has inherited stdout: reading to its end lasts until the worker is gone, too.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    trainer = subprocess.run(
        [sys.executable, script], stdout=subprocess.PIPE, env=environment, timeout=60, check=False
    )
    assert trainer.returncode == -signal.SIGKILL
    assert trainer.stdout == b"20 batches after SIGTERM\n"


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    ends = sorted(draw(st.sets(st.integers(0, 80), max_size=6)))
    return tuple(zip(ends[:-1:2], ends[1::2], strict=True))


@settings(max_examples=25, deadline=None)
@given(ranges(), st.integers(0, 90), st.sampled_from([1, 2]))
def test_what_is_left_out_shifts_what_follows_and_nothing_else(
    skip_ranges: tuple[tuple[int, int], ...], start: int, process_count: int
) -> None:
    source = Numbered(13)
    whole = list(itertools.chain(*numbers(source, 60, global_batch_size=4)))
    kept = [p for p in range(240) if not any(a <= p < b for a, b in skip_ranges) and p >= start]
    options = {"start_sample": start, "skip_ranges": skip_ranges, "process_count": process_count}
    found = [
        numbers(source, 5, global_batch_size=4, process_index=index, **options)
        for index in range(process_count)
    ]
    rows = [row for parts in zip(*found, strict=True) for part in parts for row in part]
    assert rows == [whole[p] for p in kept[:20]]
    place = {"skip_ranges": skip_ranges}
    assert sample_indices(13, seed=0, start=start, count=20, **place) == rows
    # Where a run that stops after five batches goes on.
    position = advance(start, 20, **place)
    assert [p for p in kept if p >= position] == kept[20:]
