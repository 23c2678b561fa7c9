"""Formats the results of `benchmark accelerator` as Markdown."""

from collections.abc import Sequence
from typing import Any

from fsvfm_jax.benchmark.accelerator_rows import Row
from fsvfm_jax.benchmark.variants import OURS
from fsvfm_jax.host.markdown import markdown_text

HEADINGS = (
    "network",
    "measurement",
    "batch",
    "images/s",
    "step, ms (10 to 90 %)",
    "MFU",
    "memory, GB",
    "compiled, s",
    "result",
)
MAX_MESSAGE = 200  # characters


def markdown(rows: Sequence[Row]) -> str:
    """Returns the conditions and a table of all rows.

    The result of a row compares it with this project's step of the same network and batch.
    """
    records = [row["record"] for row in rows if row["record"]]
    cards = sorted({record["device_kind"] for record in records})
    versions = sorted(
        {
            f"{name} {record[name]}"
            for record in records
            for name in ("jax", "torch")
            if name in record
        }
    )
    dates = sorted(row["date"] for row in rows)
    lines = [
        f"Measured from {dates[0]} to {dates[-1]} on {', '.join(cards) or 'no device'};"
        f" {', '.join(versions) or 'no versions'}.",
        *(f"Command: {command}" for command in dict.fromkeys(row["command"] for row in rows)),
    ]
    lines = [markdown_text(line) for line in lines]
    if cards == ["cpu"]:
        lines.append("Not measured on a device: this is the speed of a CPU.")
    table = [HEADINGS, ["---"] * len(HEADINGS), *(_cells(row, rows) for row in rows)]
    text = "\n\n".join(lines) + "\n\n"
    return text + "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    record = row["record"]
    cells = [markdown_text(row["size"]), markdown_text(row["name"])]
    if record is None:
        return cells + [""] * 6 + [markdown_text(row["message"] or "", max_chars=MAX_MESSAGE)]
    if row["kind"] == "attention":
        return cells + [""] * 6 + [_errors(record)]
    times, mfu, compiled = record["step_time_ms"], record["mfu"], record["compile_seconds"]
    return [
        *cells,
        f"{record['batch_size']:,}",
        f"{record['images_per_second']:,.4g}",
        f"{times['median']:.1f} ({times['p10']:.1f} to {times['p90']:.1f})",
        "" if mfu is None else f"{mfu:.1%}",
        f"{record['peak_memory_bytes'] / 1e9:.1f}",
        "" if compiled is None else f"{compiled:.0f}",
        _compared(row, rows),
    ]


def _compared(row: Row, rows: Sequence[Row]) -> str:
    """Returns the images per second and device as a share of this project's.

    This project's step has the same network and batch. The result is empty for that step itself,
    and if it has no record.
    """
    record = row["record"]
    ours = (
        x["record"]
        for x in rows
        if x["record"] and x["name"] in OURS and x["kind"] == "step" and x["size"] == row["size"]
    )
    same_batch = (x for x in ours if x["batch_size"] == record["batch_size"])
    if row["name"] in OURS or (of := next(same_batch, None)) is None:
        return ""
    return f"{_speed(record) / _speed(of):.3f} of this project's speed per device"


def _speed(record: dict[str, Any]) -> float:
    return record["images_per_second"] / record["device_count"]


def _errors(record: dict[str, Any]) -> str:
    """Returns the largest errors of both kernels in bfloat16 against float32."""
    parts = []
    for name in ("cudnn", "xla"):
        of = [shape[name] for shape in record["errors"]]
        output = max(x["output"] for x in of)
        gradient = max(max(x["gradients"]) for x in of)
        parts.append(f"{name} {output:.2%} (output) and {gradient:.2%} (gradients)")
    return f"largest errors in bfloat16: {', '.join(parts)}"
