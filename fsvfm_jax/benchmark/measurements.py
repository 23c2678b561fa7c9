"""The measurements of `benchmark accelerator`, in the order of their value."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fsvfm_jax.benchmark.accelerator_rows import Devices, Kind
from fsvfm_jax.devices.backends import compiler_options


class Size(NamedTuple):
    """A network to measure.

    Attributes:
        name: Name in the table.
        config: Its config file.
        batches: Images per device in a batch, the number that is expected to be best first.
    """

    name: str
    config: str
    batches: tuple[int, ...]


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


# By platform, the settings that differ from those of devices/backends.py, with their fields.
SETTINGS = {
    "gpu": (
        ("attention by XLA", "--config.model.attention=xla"),
        ("blocks in a loop", "--config.model.unroll=1"),
        ("no matrix product by Triton", _options("xla_gpu_enable_triton_gemm", False)),
        ("XLA's default scheduler", _options("xla_gpu_enable_latency_hiding_scheduler", False)),
        ("XLA merges products", _options("xla_gpu_dot_merger_threshold_mb", 32)),
    ),
    "tpu": (
        ("four blocks in an iteration of the loop", "--config.model.unroll=4"),
        ("outputs of linear layers kept only", "--config.model.remat=dots"),
    ),
    "cpu": (),
}
# Name of the rows with this project's step as it is.
OURS = "this project"


class Measurement(NamedTuple):
    """One row of the table.

    Attributes:
        size: Name of the network.
        name: What is measured, such as "PyTorch"; unique for a network.
        kind: Measurements of one kind take similarly long.
        arguments: The command line of `fsvfm_jax.benchmark`.
    """

    size: str
    name: str
    kind: Kind
    arguments: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Returns size and name, by which the row of an earlier call is found."""
        return self.size, self.name


def measurements(
    sizes: Sequence[Size],
    fields: Sequence[str],
    *,
    devices: Devices,
    data: Sequence[str],
    steps: int,
    peak_tflops: float | None = None,
) -> Iterator[Measurement]:
    """Yields all measurements, the most valuable first.

    Other settings are measured on the network in the middle, unless `fields` contain the same
    field. Real input is measured on the first network, which needs the most images per second.
    PyTorch's step uses one device and has the images of one.

    Args:
        sizes: The networks, from small to large.
        fields: Fields for every measurement, as flags.
        devices: The devices to measure.
        data: Fields that name the data of the real input, as flags.
        steps: Timed steps of each measurement.
        peak_tflops: Peak of one device; None for the datasheet's value.
    """
    middle = sizes[len(sizes) // 2]

    def step(
        size: Size, name: str, *more: str, kind: Kind = "step", batch: int | None = None
    ) -> Measurement:
        count = 1 if kind == "torch" else devices["device_count"]
        flags = [f"--steps={steps}", f"--batch-size={(batch or size.batches[0]) * count}"]
        if peak_tflops is not None:
            flags.append(f"--peak-tflops={peak_tflops}")
        line = ("step", *flags, f"--config={size.config}", *fields, *more)
        return Measurement(size.name, name, kind, line)

    for size in sizes:
        yield step(size, OURS)
    if devices["platform"] != "tpu":
        for size in sizes:
            yield step(size, "PyTorch", "--framework=torch", kind="torch")
    if devices["has_cudnn_attention"]:
        line = ("attention", f"--config={middle.config}", *fields)
        yield Measurement(middle.name, "gradients of cuDNN's attention", "attention", line)
    yield step(sizes[0], "real input", "--input=real", *data, kind="real")
    for name, field in SETTINGS[devices["platform"]]:
        if any(given.startswith(field.partition("=")[0]) for given in fields):
            continue  # It would replace what all other measurements have.
        yield step(middle, name, field, kind="setting")
    for size in sizes:
        for batch in size.batches[1:]:
            yield step(size, f"{batch:,} images per device", batch=batch)
