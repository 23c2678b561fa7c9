"""Tests that the stream of batches is the same for any processes, workers and restarts."""

import contextlib
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE

from fsvfm_jax.data import pipeline
from fsvfm_jax.data.elements import pretraining_element
from fsvfm_jax.data.images import Face
from fsvfm_jax.data.moments import power_sums
from fsvfm_jax.data.pipeline import advance, make_iterator, sample_indices
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.sources import JoinedSets, SyntheticFaces
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare.encode import Packed, make_record
from fsvfm_jax.prepare.growing_set import Plan, build, write_packed
from fsvfm_jax.prepare.trees import Pair
from fsvfm_jax.regions import patch_classes

SIZE, PATCH = 16, 8


class Numbered(Sequence):
    """Face i has the number i in all pixels, and class i % 11 in its map."""

    def __init__(self, num_samples: int):
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Face:
        return {
            "image": np.full((SIZE, SIZE, 3), index, np.uint8),
            "parsing_map": np.full((SIZE, SIZE), index % 11, np.uint8),
        }

    def read(self, indices: Sequence[int]) -> list[Face]:
        return [self[index] for index in indices]

    def name(self, index: int) -> str:
        return f"face {index}"

    def fingerprint(self) -> str:
        return f"{len(self)} numbered faces"

    def stats(self) -> None:
        return None


class Indexed(Numbered):
    """Face i has one colour, which encodes i up to 65,535."""

    def __getitem__(self, index: int) -> Face:
        colour = np.array([index % 256, index // 256, 0], np.uint8)
        return {
            "image": np.tile(colour, (SIZE, SIZE, 1)),
            "parsing_map": np.full((SIZE, SIZE), index % 11, np.uint8),
        }


def batches(
    source: Sequence[Face],
    count: int,
    *,
    global_batch_size: int,
    seed: int = 0,
    augment: bool = False,
    **options: int,
) -> list[dict[str, np.ndarray]]:
    """Returns the first batches of an iterator and closes it."""
    element = partial(pretraining_element, patch_size=PATCH, augment=augment)
    options |= {"element": element, "global_batch_size": global_batch_size, "seed": seed}
    iterator = make_iterator(source, **options)
    with contextlib.closing(iterator):
        return [next(iterator) for _ in range(count)]


def numbers(source: Sequence[Face], count: int, **options: int) -> list[list[int]]:
    """Returns the numbers of the faces in the first batches."""
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


# Hypothesis is not used: threads that end later may draw random numbers, which it forbids.
@pytest.mark.e2e
@pytest.mark.parametrize(
    ("num_samples", "batch_size", "seed"),
    [(1, 1, 0), (1, 12, 3), (20, 1, 2), (20, 12, 2**32 - 1), (7, 3, 5), (5, 12, 1), (12, 12, 9)],
)
def test_every_epoch_has_every_sample_once(num_samples: int, batch_size: int, seed: int) -> None:
    """Tests batches that cross the border of epochs, and batches larger than the set."""
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


# Batches have several chunks and are augmented.
RECORDS = 2000
EPOCH = {"global_batch_size": RECORDS // 25, "augment": True}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> FaceRecords:
    """Packs the faces into four shards; the colour of each encodes its number."""
    faces, folder = Indexed(RECORDS), tmp_path_factory.mktemp("packed")
    file = folder / "any"
    file.touch()
    pairs = [Pair(f"{index:05d}", str(file), str(file)) for index in range(len(faces))]
    plan = Plan(pairs, [], "train", "raw", SIZE, shard_records=RECORDS // 4)

    def packed(pair: Pair) -> Packed:
        image, parsing_map = faces[int(pair.name)].values()
        record = make_record(image.tobytes(), parsing_map.tobytes(), name=pair.name)
        return Packed(record, (SIZE, SIZE), power_sums(image), (int(parsing_map[0, 0]),))

    def write_shards(unfinished: Path, missing: list[int]) -> None:
        for index in missing:
            write_packed(unfinished / plan.shard_names[index], map(packed, plan.shard(index)))

    build(plan, folder / "set", write_shards)
    return FaceRecords(str(folder / "set"), image_size=SIZE)


@pytest.fixture(scope="module")
def whole_epoch(records: FaceRecords) -> list[dict[str, np.ndarray]]:
    return batches(records, 25, **EPOCH)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 2},
        *({"process_count": hosts} for hosts in (2, 4)),
    ],
)
def test_records_come_once_per_epoch_and_the_same_everywhere(
    records: FaceRecords, whole_epoch: list[dict[str, np.ndarray]], options: dict[str, int]
) -> None:
    whole, hosts = whole_epoch, options.get("process_count", 1)
    found = [batches(records, 25, process_index=host, **EPOCH, **options) for host in range(hosts)]
    for batch, parts in zip(whole, zip(*found, strict=True), strict=True):
        for name, rows in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), rows)
    # The image alone shows the number, whatever the crop is, since it has one colour.
    numbers = [x for batch in whole for x in batch["image"][:, 0, 0] @ [1, 256, 0]]
    assert sorted(numbers) == list(range(RECORDS))


def test_augmentation_hangs_on_the_place_in_the_stream() -> None:
    source = SyntheticFaces(8, image_size=SIZE, seed=0)
    options = {"global_batch_size": 4, "augment": True}
    whole = batches(source, 8, **options)
    later = batches(source, 2, start_sample=4 * 5, **options)
    for batch, same in zip(whole[5:7], later, strict=True):
        np.testing.assert_array_equal(batch["image"], same["image"])
        np.testing.assert_array_equal(batch["classes"], same["classes"])
    # One face looks different in each of four epochs.
    assert len({image.tobytes() for batch in whole for image in batch["image"]}) > 24
    assert (
        batches(source, 1, seed=1, **options)[0]["image"].tobytes() != whole[0]["image"].tobytes()
    )


def test_a_mixture_has_the_proportions_asked_for_and_each_set_its_own_epochs() -> None:
    source = JoinedSets([Numbered(30), Numbered(10)])
    order = sample_indices(source, seed=0, start=0, count=240, weights=(1, 2))
    first = [index for index in order if index < 30]
    second = [index - 30 for index in order if index >= 30]
    assert (len(first), len(second)) == (80, 160)
    assert all(abs(sum(x >= 30 for x in order[:n]) - 2 * n / 3) < 2 for n in range(1, 241))
    assert sorted(first[:30]) == list(range(30)) and sorted(first[30:60]) == list(range(30))
    assert all(sorted(second[i : i + 10]) == list(range(10)) for i in range(0, 160, 10))
    stream = numbers(source, 3, global_batch_size=8, start_sample=16, weights=(1, 2))
    assert list(itertools.chain(*stream)) == [x if x < 30 else x - 30 for x in order[16:40]]


class Damaged(Numbered):
    """A source in which faces 3 and 4 cannot be read."""

    def __getitem__(self, index: int) -> Face:
        if index in (3, 4):
            raise DataError(f"face {index} is damaged")
        return super().__getitem__(index)


@pytest.mark.e2e
@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_samples_are_replaced_by_the_next_and_counted(num_workers: int) -> None:
    expected = numbers(Numbered(12), 3, global_batch_size=4)
    element = partial(pretraining_element, patch_size=PATCH)
    options = {"element": element, "global_batch_size": 4, "seed": 0, "num_workers": num_workers}
    iterator = make_iterator(Damaged(12), skip_corrupt=2, **options)
    with contextlib.closing(iterator):
        found = [next(iterator)["image"][:, 0, 0, 0].tolist() for _ in range(3)]
        assert found == [[5 if x in (3, 4) else x for x in batch] for batch in expected]
        assert iterator.replaced == 2
        with pytest.raises(DataError, match=r"skip_corrupt = 2 are accepted: mend the data"):
            for _ in range(3):
                next(iterator)


def test_without_leave_a_damaged_sample_ends_the_stream_by_its_name() -> None:
    with pytest.raises(DataError, match=r"^face [34] is damaged"):
        batches(Damaged(12), 3, global_batch_size=4)


def test_nothing_but_damage_is_an_error() -> None:
    class Broken(Numbered):
        def __getitem__(self, index: int) -> Face:
            raise DataError("damaged")

    with pytest.raises(DataError, match="100 faces in a row are damaged"):
        batches(Broken(5), 1, global_batch_size=2, skip_corrupt=500)


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


@pytest.mark.e2e
def test_workers_make_the_same_stream_and_end_when_closed() -> None:
    source = SyntheticFaces(10, image_size=SIZE, seed=0)
    expected = batches(source, 6, global_batch_size=4)
    for batch, same in zip(
        expected, batches(source, 6, global_batch_size=4, num_workers=2), strict=True
    ):
        np.testing.assert_array_equal(batch["image"], same["image"])
        np.testing.assert_array_equal(batch["classes"], same["classes"])
    assert multiprocessing.active_children() == []


def test_what_does_not_end_is_told_and_not_waited_for(monkeypatch, caplog) -> None:
    monkeypatch.setattr(pipeline, "SECONDS_TO_CLOSE", 0.01)
    released = threading.Event()

    found = make_iterator(
        SyntheticFaces(4, image_size=SIZE, seed=0),
        element=partial(pretraining_element, patch_size=PATCH, augment=False),
        global_batch_size=2,
        seed=0,
    )
    end = found._iterator.close
    monkeypatch.setattr(found._iterator, "close", lambda: released.wait(PATIENCE))
    found.close()
    (message,) = caplog.messages
    assert "still run after 0.01 s" in message
    released.set()
    end()


@pytest.mark.e2e
def test_a_worker_raises_an_error_as_it_is_and_starts_no_backend() -> None:
    class Broken(Numbered):
        def __getitem__(self, index: int) -> Face:
            # Grain imports JAX, but only a backend takes the memory of an accelerator.
            jax = sys.modules.get("jax")
            backends = jax is not None and jax._src.xla_bridge.backends_are_initialized()
            raise DataError(f"process {os.getpid()}, backends {backends}")

    with pytest.raises(DataError) as error:
        batches(Broken(3), 1, global_batch_size=2, num_workers=1)
    assert re.fullmatch(r"process \d+, backends False", str(error.value))
    assert f"process {os.getpid()}," not in str(error.value)
    assert multiprocessing.active_children() == []


def test_what_workers_run_does_not_import_jax() -> None:
    modules = "fsvfm_jax.data.sources, fsvfm_jax.data.rendered.synthetic, fsvfm_jax.data.elements"
    code = f"import sys; sys.modules['jax'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


TRAINER = """
import multiprocessing, os, signal
from functools import partial
from absl import flags
from fsvfm_jax.data.elements import pretraining_element
from fsvfm_jax.data.pipeline import advance, make_iterator, sample_indices
from fsvfm_jax.data.sources import SyntheticFaces

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    source = SyntheticFaces(10, image_size=16, seed=0)
    element = partial(pretraining_element, patch_size=8)
    iterator = make_iterator(
        source, element=element, global_batch_size=2, seed=0, num_workers=1
    )
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
    # The worker has inherited stdout, so that reading ends only when the worker has ended too.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    trainer = subprocess.run(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )
    assert trainer.returncode == -signal.SIGKILL
    assert trainer.stdout == b"20 batches after SIGTERM\n"


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    ends = sorted(draw(st.sets(st.integers(0, 80), max_size=6)))
    return tuple(zip(ends[:-1:2], ends[1::2], strict=True))


@pytest.mark.e2e
@pytest.mark.parametrize("process_count", [1, 2])
@pytest.mark.parametrize(
    ("skip_ranges", "start"),
    [((), 0), (((3, 9),), 0), (((0, 4), (7, 8), (20, 33)), 5), (((10, 40),), 17), (((1, 2),), 90)],
)
def test_what_is_left_out_never_comes(
    skip_ranges: tuple[tuple[int, int], ...], start: int, process_count: int
) -> None:
    source = Numbered(13)
    place = {"seed": 0, "skip_ranges": skip_ranges}
    expected = sample_indices(source, start=start, count=20, **place)
    options = {"start_sample": start, "process_count": process_count, **place}
    found = [
        numbers(source, 5, global_batch_size=4, process_index=index, **options)
        for index in range(process_count)
    ]
    assert [row for parts in zip(*found, strict=True) for part in parts for row in part] == expected


@pytest.fixture(scope="module")
def whole() -> list[int]:
    """Returns batches, drawn once: the order of a few faces takes milliseconds per face."""
    return sample_indices(Numbered(13), seed=0, start=0, count=240)


@pytest.mark.e2e
@settings(max_examples=30)
@given(ranges(), st.integers(0, 90))
def test_what_is_left_out_shifts_what_follows_and_nothing_else(
    whole: list[int], skip_ranges: tuple[tuple[int, int], ...], start: int
) -> None:
    source = Numbered(13)
    kept = [p for p in range(240) if not any(a <= p < b for a, b in skip_ranges) and p >= start]
    place = {"skip_ranges": skip_ranges}
    rows = sample_indices(source, seed=0, start=start, count=20, **place)
    assert rows == [whole[p] for p in kept[:20]]
    # A run that stopped after five batches continues here.
    position = advance(start, 20, **place)
    assert [p for p in kept if p >= position] == kept[20:]
