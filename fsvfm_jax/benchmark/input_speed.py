"""Measures how fast faces get from disk to the devices, without a network: `benchmark input`."""

import argparse
import contextlib
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fsvfm_jax import cli
from fsvfm_jax.benchmark.step_times import program
from fsvfm_jax.data.elements import BatchElement, pretraining_element, to_batch_element
from fsvfm_jax.data.pipeline import CHUNK, Element, batches_ahead, make_iterator
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.host.progress import progress
from fsvfm_jax.host.signals import released_at_once
from fsvfm_jax.prepare.encode import ENCODINGS
from fsvfm_jax.prepare.pack import pack

SYNTHETIC_FACES = 256
LARGE = 2**20
# The stages of an image. Batches are made by threads or by a worker, never by both.
THREADS, WORKER = "batch, threads", "batch, worker to trainer"
STAGES = ("read", "decode", "classes", THREADS, WORKER, "to device")


class _Ready:
    """Rows of a batch in memory, which need no reading, decoding or classes."""

    def __init__(self, rows: Sequence[BatchElement]):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> list[BatchElement]:
        return [self._rows[index] for index in indices]


class _Large:
    """Repeats faces many times: to draw the order of a few would take longer than to read them."""

    def __init__(self, faces: FaceRecords | _Ready):
        self._faces = faces

    def __len__(self) -> int:
        return LARGE

    def __getitem__(self, index: int) -> Any:
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[Any]:
        return self._faces.read([index % len(self._faces) for index in indices])


def _as_it_is(row: BatchElement, key: tuple[int, int]) -> BatchElement:
    """The element function of `_Ready`."""
    del key
    return row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `input`."""
    parser.add_argument(
        "--to",
        choices=("host", "device"),
        default="device",
        help="whether batches are put in the host's memory or on the devices",
    )
    parser.add_argument(
        "--tree",
        metavar="DIR",
        help="folder with images/ and parsing_maps/ to pack and read; default: rendered faces",
    )
    parser.add_argument(
        "--encodings",
        nargs="+",
        choices=ENCODINGS,
        default=[*ENCODINGS],
        help="encodings of prepare pack; original is PNG for rendered faces",
    )
    parser.add_argument(
        "--workers",
        nargs="+",
        type=int,
        default=[0, 1, 2, 4],
        metavar="N",
        help="numbers of workers; 0: threads",
    )
    parser.add_argument("--image-size", type=int, default=224, metavar="N")
    parser.add_argument("--patch-size", type=int, default=16, metavar="N")
    parser.add_argument("--batch-size", type=int, default=512, metavar="N")
    parser.add_argument("--augment", action="store_true", help="crop and flip the faces")
    parser.add_argument(
        "--seconds", type=float, default=10, metavar="S", help="time of each measurement"
    )
    parser.add_argument(
        "--step-rate",
        type=float,
        metavar="R",
        help="simulate a network of R images/s, and report the loss of speed against it",
    )
    parser.add_argument("--output", metavar="JSONL", help="append the JSON line to this file too")


def benchmark_input(args: argparse.Namespace, *, command: str) -> None:
    """Measures the input, and prints a table on stderr and one JSON line on stdout.

    Args:
        args: The arguments of `add_arguments`.
        command: The command line, for the record.

    Raises:
        ConfigError: An argument has a value that is not allowed.
        DataError: The tree contains no faces.
        StorageError: `args.output` cannot be written.
    """
    for flag in ("image_size", "patch_size", "batch_size", "seconds"):
        if not 0 < getattr(args, flag) < math.inf:
            raise ConfigError(f"--{flag.replace('_', '-')} is {getattr(args, flag)}; give above 0")
    if args.step_rate is not None and not args.step_rate > 0:
        raise ConfigError(f"--step-rate is {args.step_rate:g}; it must be above 0")
    if min(args.workers) < 0:
        raise ConfigError(f"--workers is {min(args.workers)}; it must be at least 0")
    if args.image_size % args.patch_size:
        raise ConfigError(f"--patch-size {args.patch_size} does not divide {args.image_size}")
    with (
        cli.json_lines(args.output) as tell,
        released_at_once(tempfile.TemporaryDirectory(prefix="fsvfm-")) as folder,
    ):
        tree = args.tree or render_tree(Path(folder) / "tree", args.image_size)
        record: dict[str, Any] = {"command": command, **_conditions(args), "encodings": {}}
        for encoding in args.encodings:
            target = str(Path(folder) / encoding)
            size = args.image_size
            pack(
                tree,
                target,
                encoding=encoding,
                image_size=None if encoding == "original" else size,
                workers=available_cores(),
            )
            source = FaceRecords(target, image_size=size)
            record["encodings"][encoding] = _measure(source, args, encoding)
        print(summary(record), file=sys.stderr)
        tell(record)


def summary(record: dict[str, Any]) -> str:
    """Returns Markdown tables: speed by encoding and number of workers, and time by stage."""
    lines = [
        "| encoding | workers | images/s | CPU us/image | of which trainer | images/s per core"
        " | loss to the step |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for encoding, of in record["encodings"].items():
        for row in of["rates"]:
            cpu, own = row["cpu_us_per_image"], row["trainer_cpu_us_per_image"]
            times = "-", f"{own:.0f}", "-"
            if cpu is not None:
                times = f"{cpu:.0f}", f"{own:.0f}", f"{1e6 / cpu:.0f}"
            loss = "-" if row["loss"] is None else f"{row['loss']:.1%}"
            lines.append(
                f"| {encoding} | {row['workers'] or 'threads'} | {row['images_per_second']:.0f} |"
                f" {' | '.join(times)} | {loss} |"
            )
    encodings = record["encodings"]
    lines += ["", "| images/s per core (CPU us/image) | " + " | ".join(encodings) + " |"]
    lines.append("|---|" + "---:|" * len(encodings))
    sums = {"all, threads": WORKER, "all, worker": THREADS}  # what each leaves out
    for stage in (*STAGES, *sums):
        cells = []
        for of in encodings.values():
            stages = of["stages_us"]
            parts = [stage] if stage in stages else [x for x in STAGES if x != sums[stage]]
            times = [stages[part] for part in parts]
            cells.append("-" if None in times else f"{1e6 / sum(times):.0f} ({sum(times):.0f})")
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _measure(source: FaceRecords, args: argparse.Namespace, encoding: str) -> dict[str, Any]:
    stages = _profile(source, args.patch_size, seconds=args.seconds) | _transfer(source, args)
    numbers = progress(args.workers, total=len(args.workers), description=encoding)
    element = partial(pretraining_element, patch_size=args.patch_size, augment=args.augment)
    rates = [_rate(source, args, workers, element=element) for workers in numbers]
    return {"rates": rates, "stages_us": stages}


def _profile(source: FaceRecords, patch_size: int, *, seconds: float) -> dict[str, float]:
    """Returns the CPU microseconds per image of each stage of one face, as medians over chunks."""
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {stage: [] for stage in STAGES[:3]}

    def timed(stage: str, work: Callable[..., Any], *given: Any) -> Any:
        began = time.thread_time()
        result = work(*given)
        times[stage].append((time.thread_time() - began) / CHUNK * 1e6)
        return result

    end = time.monotonic() + seconds
    while not times["classes"] or time.monotonic() < end:
        indices = rng.integers(len(source), size=CHUNK).tolist()
        records = timed("read", source.records, indices)
        pairs = timed("decode", list, map(source.decode, indices, records))
        faces = [{"image": image, "parsing_map": parsing_map} for image, parsing_map in pairs]
        timed("classes", list, (to_batch_element(face, patch_size) for face in faces))
    return {stage: float(np.median(of)) for stage, of in times.items()}


def _transfer(source: FaceRecords, args: argparse.Namespace) -> dict[str, float | None]:
    """Returns the CPU microseconds per image from rows in memory to batches on the device."""
    faces = source.read(range(min(CHUNK, len(source))))
    ready = _Ready([to_batch_element(face, args.patch_size) for face in faces])
    host = argparse.Namespace(**vars(args) | {"to": "host", "step_rate": None})
    times = {
        stage: _rate(ready, host, workers, element=_as_it_is)["cpu_us_per_image"]
        for stage, workers in ((THREADS, 0), (WORKER, 1))
    }
    rows = ready.read(range(len(ready)))
    batch = {
        name: np.stack([rows[index % len(rows)][name] for index in range(args.batch_size)])
        for name in rows[0]
    }
    return times | {"to device": _placing(batch, seconds=args.seconds)}


def _placing(batch: dict[str, np.ndarray], *, seconds: float) -> float:
    """Returns the CPU microseconds per image of all threads that place a batch on the device."""
    import jax

    times = []
    end = time.monotonic() + seconds
    while len(times) < 2 or time.monotonic() < end:  # The first starts the devices.
        began = time.process_time()
        jax.block_until_ready(jax.device_put(batch))
        times.append((time.process_time() - began) / len(batch["image"]) * 1e6)
    return float(np.median(times[1:]))


def _rate(
    source: FaceRecords | _Ready, args: argparse.Namespace, workers: int, *, element: Element
) -> dict[str, Any]:
    """Measures the images per second after the prefetched batches are used up."""
    batches = make_iterator(
        _Large(source),
        element=element,
        global_batch_size=args.batch_size,
        seed=0,
        num_workers=workers,
    )
    with contextlib.closing(batches):
        steps = _steps(batches, to_device=args.to == "device", step_rate=args.step_rate)
        for _ in range(batches_ahead(args.batch_size, workers)):
            next(steps)
        began, own, of_workers, images = time.monotonic(), time.process_time(), _workers_cpu(), 0
        while not images or time.monotonic() - began < args.seconds:
            next(steps)
            images += args.batch_size
        elapsed = time.monotonic() - began
        own = (time.process_time() - own) / images * 1e6
        cpu = None
        if of_workers is not None:
            cpu = own + (_workers_cpu() - of_workers) / images * 1e6
    rate = images / elapsed
    return {
        "workers": workers,
        "images_per_second": rate,
        "cpu_us_per_image": cpu,
        "trainer_cpu_us_per_image": own,
        "loss": None if args.step_rate is None else 1 - rate / args.step_rate,
    }


def _steps(
    batches: Iterator[dict[str, np.ndarray]], *, to_device: bool, step_rate: float | None
) -> Iterator[None]:
    """Yields after each batch; with a rate, when a device would have finished the last batch."""
    import jax

    free = time.monotonic()
    for batch in batches:
        if to_device:
            jax.block_until_ready(jax.device_put(batch))
        if step_rate is not None:
            # As in training, the device works on this batch while the next one is read.
            time.sleep(max(0.0, free - time.monotonic()))
            free = max(free, time.monotonic()) + len(batch["image"]) / step_rate
        yield


def _workers_cpu() -> float | None:
    """Returns the CPU seconds of this process's workers; None if the system does not show them."""
    ticks = 0
    try:
        for worker in multiprocessing.active_children():
            fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    except OSError:
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def render_tree(root: Path, image_size: int) -> str:
    """Writes faces as PNG with their parsing maps."""
    for name in ("images", "parsing_maps"):
        (root / name).mkdir(parents=True)
    indices = range(SYNTHETIC_FACES)
    for index in progress(indices, total=SYNTHETIC_FACES, description="rendering"):
        image, parsing_map = render_face(index, image_size=image_size, seed=0)
        Image.fromarray(image).save(root / "images" / f"{index:04d}.png")
        np.save(root / "parsing_maps" / f"{index:04d}.npy", parsing_map)
    return str(root)


def _conditions(args: argparse.Namespace) -> dict[str, Any]:
    import jax

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": program(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "device_kind": jax.devices()[0].device_kind,
        "cores": available_cores(),
        "to": args.to,
        "image_size": args.image_size,
        "patch_size": args.patch_size,
        "seconds": args.seconds,
        "batch_size": args.batch_size,
        "augment": args.augment,
        "step_rate": args.step_rate,
        "tree": args.tree,
    }
