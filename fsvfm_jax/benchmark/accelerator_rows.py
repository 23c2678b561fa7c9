"""The rows of `benchmark accelerator`, and how they are read from the file of an earlier call."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from etils import epath
from msgspec import Meta

from fsvfm_jax.errors import StorageError, shortened
from fsvfm_jax.host.storage import read_stored_json

MEND = "choose another --output"

Kind = Literal["step", "torch", "attention", "real"]
Number = Annotated[float, Meta(ge=0, le=1e18)]
Positive = Annotated[float, Meta(gt=0, le=1e18)]
Count = Annotated[int, Meta(ge=1, le=2**40)]
Name = Annotated[str, Meta(max_length=1000)]
Text = Annotated[str, Meta(max_length=100_000)]


class Row(TypedDict):
    """One measurement; `record` is None if there is no result, and `message` says why.

    The other fields are those of `variants.Measurement`, the time, and the end of the log.
    """

    name: Name
    size: Name
    kind: Kind
    arguments: list[Text]
    command: Text
    date: Name
    seconds: Number
    message: Text | None
    log: Text
    record: dict[str, Any] | None


class Times(TypedDict):
    """The times of a step in milliseconds that the table shows."""

    median: Number
    p10: Number
    p90: Number


class Conditions(TypedDict):
    """The fields of every record that the table shows."""

    device_kind: Name
    jax: NotRequired[Name]
    torch: NotRequired[Name]


class StepRecord(Conditions):
    """The fields of a step's record that the table shows."""

    device_count: Count
    batch_size: Count
    step_time_ms: Times
    images_per_second: Positive
    mfu: Number | None
    peak_memory_bytes: Number
    compile_seconds: Number | None


class KernelErrors(TypedDict):
    """The errors of one kernel; shares of the norm in float32."""

    output: Number
    gradients: Annotated[list[Number], Meta(min_length=1)]


class ShapeErrors(TypedDict):
    """The errors of both kernels for one shape."""

    cudnn: KernelErrors
    xla: KernelErrors


class AttentionRecord(Conditions):
    """The fields of the attention's record that the table shows."""

    errors: Annotated[list[ShapeErrors], Meta(min_length=1)]


def read_rows(file: Path) -> list[Row]:
    """Returns the rows that an earlier call has written; none if the file is missing.

    Raises:
        StorageError: The file cannot be read, or contains other results.
    """
    if not file.exists():
        return []
    rows = read_stored_json(
        epath.Path(file), Annotated[list[Row], Meta(max_length=1000)], mend=MEND
    )
    for number, row in enumerate(rows, start=1):
        schema = AttentionRecord if row["kind"] == "attention" else StepRecord
        try:
            msgspec.convert(row["record"], schema | None)
        except msgspec.ValidationError as error:
            raise StorageError(
                f"{file} is damaged or of another version (record of row {number}:"
                f" {shortened(str(error))}): {MEND}"
            ) from error
    return rows
