"""The measurements of `benchmark accelerator`, in the order of their value."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fsvfm_jax.devices.backends import compiler_options


class Size(NamedTuple):
    """A network to measure.

    Attributes:
        name: Name in the table.
        config: Its config file.
        batches: Batch sizes, the one that is expected to be best first; None is the config's.
    """

    name: str
    config: str
    batches: tuple[int | None, ...]


# With 64 images the temporaries of S, B and L take 2.3, 2.9 and 4.8 GiB by the compiler
# (docs/pods.md). They grow with the batch, so each first batch should fit on an H200. It is large
# enough that the optimizer, whose time does not depend on the batch, takes a small part of a step.
SIZES = (
    Size("S", "configs/vit_s.py", (512, 256, 1024)),
    Size("B", "configs/vit_b.py", (256, 512, 128)),
    Size("L", "configs/vit_l.py", (256, 128, 64)),
)


def _options(name: str, value: int) -> str:
    """Returns the flag that changes one of XLA's options for GPUs."""
    return f"--config.compiler_options={compiler_options('gpu') | {name: value}}"


# What differs from the settings of devices/backends.py, and the fields.
CANDIDATES = (
    ("attention by XLA", "--config.model.attention=xla"),
    ("blocks in a loop", "--config.model.unroll=1"),
    ("no matrix product by Triton", _options("xla_gpu_enable_triton_gemm", False)),
    ("XLA's default scheduler", _options("xla_gpu_enable_latency_hiding_scheduler", False)),
    ("XLA merges products", _options("xla_gpu_dot_merger_threshold_mb", 32)),
)
# Names of the rows with this project's step as it is, with which the others are compared.
OURS = ("this project", "another batch")
# Steps before the timed ones. With real input they exceed the prefetched batches.
WARMUP, REAL_WARMUP = 5, 20


class Measurement(NamedTuple):
    """One row of the table.

    Attributes:
        name: What is measured, such as "PyTorch".
        size: Name of the network.
        kind: Measurements of one kind take similarly long.
        arguments: The command line of `fsvfm_jax.benchmark`.
    """

    name: str
    size: str
    kind: str
    arguments: tuple[str, ...]


def measurements(
    sizes: Sequence[Size], fields: Sequence[str], *, data: Sequence[str], steps: int
) -> Iterator[Measurement]:
    """Yields all measurements, the most valuable first.

    Candidates are measured on the network in the middle, and real input on the first, which needs
    the most images per second.

    Args:
        sizes: The networks, from small to large.
        fields: Fields for every measurement, as flags.
        data: Fields that name the data of the real input, as flags.
        steps: Timed steps of each measurement.
    """
    middle = sizes[len(sizes) // 2]

    def step(
        name: str, size: Size, *more: str, kind: str = "step", batch: int | None = None
    ) -> Measurement:
        batch = batch or size.batches[0]
        flags = [f"--batch-size={batch}"] if batch else []
        warmup = REAL_WARMUP if kind == "real" else WARMUP
        flags = ["step", f"--steps={steps}", f"--warmup={warmup}", *flags]
        line = (*flags, f"--config={size.config}", *fields, *more)
        return Measurement(name, size.name, kind, line)

    for size in sizes:
        yield step(OURS[0], size)
    for size in sizes:
        yield step("PyTorch", size, "--framework=torch", kind="torch")
    attention = ("attention", f"--config={middle.config}", *fields)
    yield Measurement("gradients of cuDNN's attention", middle.name, "attention", attention)
    yield step("real input", sizes[0], "--input=real", *data, kind="real")
    for name, field in CANDIDATES:
        yield step(name, middle, field)
    for size in sizes:
        for batch in size.batches[1:]:
            yield step(OURS[1], size, batch=batch)
