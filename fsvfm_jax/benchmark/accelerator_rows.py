"""The file of results of `benchmark accelerator`."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from etils import epath
from msgspec import Meta

from fsvfm_jax.errors import StorageError, shortened
from fsvfm_jax.host.storage import read_stored_json

MEND = "choose another --output"

Kind = Literal["step", "torch", "attention", "real", "setting"]
Number = Annotated[float, Meta(ge=0, le=1e18)]
Positive = Annotated[float, Meta(gt=0, le=1e18)]
Count = Annotated[int, Meta(ge=1, le=2**40)]
Name = Annotated[str, Meta(max_length=1000)]
Text = Annotated[str, Meta(max_length=100_000)]
Command = Annotated[str, Meta(max_length=10_000_000)]


class Devices(TypedDict):
    """The devices, and the versions of JAX, as `found_devices.find_devices` returns them."""

    platform: Literal["cpu", "gpu", "tpu"]
    device_kind: Name
    device_count: Count
    has_cudnn_attention: bool
    jax: Name
    jaxlib: Name


class Conditions(Devices):
    """What all rows of a folder have in common.

    Attributes:
        torch: Version of PyTorch; None if it is not installed.
        environment: The variables that change what the compilers do.
        cores: CPU cores that this process may use.
        program: Hash of the code and of the config files.
        config: The only config to measure; None for S, B and L.
        values: Hash of that config's values.
        batch_size: That config's batch size.
        fields: Fields of all configs, as flags.
        steps: Timed steps of each measurement.
        peak_tflops: Peak of one device; None for the datasheet's value.
    """

    torch: Name | None
    environment: dict[Name, Text | None]
    cores: Count
    program: Name
    config: Text | None
    values: Name | None
    batch_size: Count | None
    fields: list[Text]
    steps: Count
    peak_tflops: Positive | None


class Row(TypedDict):
    """A measurement that was started; `record` is None if it failed, and `message` says why.

    Size, name, kind and arguments are those of `measurements.Measurement`. `log` is the end of the
    log of a measurement that failed.
    """

    size: Name
    name: Name
    kind: Kind
    arguments: list[Text]
    command: Command
    date: Name
    seconds: Number
    message: Text | None
    log: Text
    record: dict[str, Any] | None


class Results(TypedDict):
    """The content of the file."""

    conditions: Conditions
    rows: Annotated[list[Row], Meta(max_length=1000)]


class Times(TypedDict):
    """The times of a step in milliseconds that the table shows."""

    median: Positive
    mean: Positive
    p10: Number
    p90: Number


class Measured(TypedDict):
    """The fields of every record that the table shows."""

    device_kind: Name


class Input(TypedDict):
    """What a step with real input reads: the kind of source, and the number of workers."""

    source: Name | None
    num_workers: Annotated[int, Meta(ge=0, le=2**20)]


class StepRecord(Measured):
    """The fields of a step's record that the table shows."""

    device_count: Count
    batch_size: Count
    step_time_ms: Times
    images_per_second: Positive
    mfu: Number | None
    peak_tflops: Positive | None
    peak_source: Name | None
    peak_memory_bytes: Number
    peak_memory_source: Name
    compile_seconds: Number | None
    compiled_earlier: NotRequired[bool]


class RealRecord(StepRecord):
    """The fields that the table shows of a step with real input."""

    data: Input


class KernelErrors(TypedDict):
    """The errors of one kernel; shares of the norm in float32."""

    output: Number
    gradients: Annotated[list[Number], Meta(min_length=1)]


class ShapeErrors(TypedDict):
    """The errors of both kernels for one shape."""

    cudnn: KernelErrors
    xla: KernelErrors


class AttentionRecord(Measured):
    """The fields of the attention's record that the table shows."""

    errors: Annotated[list[ShapeErrors], Meta(min_length=1)]


def check_record(kind: Kind, record: dict[str, Any]) -> None:
    """Raises msgspec.ValidationError unless a record has the fields that the table shows."""
    schemas = {"attention": AttentionRecord, "real": RealRecord}
    msgspec.convert(record, schemas.get(kind, StepRecord))


def read_results(file: Path) -> Results | None:
    """Returns the results that an earlier call has written; None if the file is missing.

    Raises:
        StorageError: The file cannot be read, or contains something else.
    """
    if not file.exists():
        return None
    results = read_stored_json(epath.Path(file), Results, mend=MEND)
    for number, row in enumerate(results["rows"], start=1):
        try:
            if row["record"] is not None:
                check_record(row["kind"], row["record"])
        except msgspec.ValidationError as error:
            raise StorageError(
                f"{file} is damaged or of another version (record of row {number}:"
                f" {shortened(str(error))}): {MEND}"
            ) from error
    return results
