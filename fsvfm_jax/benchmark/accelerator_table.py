"""Formats the results of `benchmark accelerator` as Markdown."""

from collections.abc import Sequence
from typing import Any

from fsvfm_jax.benchmark.accelerator_rows import Conditions, Results, Row
from fsvfm_jax.benchmark.measurements import Measurement
from fsvfm_jax.host.markdown import markdown_text

HEADINGS = (
    "network",
    "measurement",
    "batch",
    "images/s",
    "step, ms (10 to 90 %)",
    "MFU",
    "memory, GB per device",
    "compiled, s",
    "result",
)
MAX_MESSAGE = 200  # characters


def markdown(results: Results, missing: Sequence[Measurement] = ()) -> str:
    """Returns the conditions and a table of all rows.

    The result of a row compares it with this project's step of the same network and batch.

    Args:
        results: The results.
        missing: The measurements that were not started.
    """
    conditions, rows = results["conditions"], results["rows"]
    lines = [_measured(conditions, rows)]
    lines += (f"Command: {command}" for command in dict.fromkeys(row["command"] for row in rows))
    lines += _notes(rows, cores=conditions["cores"])
    if missing:
        names = "; ".join(f"{x.size}, {x.name}" for x in missing)
        lines.append(f"Not started, because the time was over: {names}.")
    lines = [markdown_text(line) for line in lines]
    if conditions["platform"] == "cpu":
        lines.append("Not measured on a device: this is the speed of a CPU.")
    table = [HEADINGS, ["---"] * len(HEADINGS), *(_cells(row, rows) for row in rows)]
    text = "\n\n".join(lines) + "\n\n"
    return text + "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def _measured(conditions: Conditions, rows: Sequence[Row]) -> str:
    """Returns a line with the dates, the devices and the versions."""
    dates = sorted(row["date"] for row in rows)
    when = f" from {dates[0]} to {dates[-1]}" if dates else ""
    versions = {name: conditions[name] for name in ("jax", "jaxlib", "torch", "program")}
    return (
        f"Measured{when} on {conditions['device_count']} x {conditions['device_kind']};"
        f" {', '.join(f'{name} {version}' for name, version in versions.items() if version)}."
    )


def _notes(rows: Sequence[Row], *, cores: int) -> list[str]:
    """Returns what the figures of the rows mean: the peak of MFU, and the real input."""
    steps = [row for row in rows if row["record"] and row["kind"] != "attention"]
    notes = []
    peaks = dict.fromkeys(
        (row["record"]["peak_tflops"], row["record"]["peak_source"]) for row in steps
    )
    for peak, source in peaks:
        if peak is None:
            notes.append("MFU is unknown without --peak-tflops: the device is not in the list.")
        else:
            notes.append(f"MFU is the share of {peak:g} TFLOP/s per device ({source}).")
    for row in steps:
        if row["kind"] == "real":
            record = row["record"]
            workers = record["data"]["num_workers"]
            notes.append(
                f"Real input is read by {f'{workers} workers' if workers else 'threads'} on"
                f" {cores} cores, and its rates are means."
            )
    return notes


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    record = row["record"]
    cells = [markdown_text(row["size"]), markdown_text(row["name"])]
    if record is None:
        return cells + [""] * 6 + [markdown_text(row["message"] or "", max_chars=MAX_MESSAGE)]
    if row["kind"] == "attention":
        return cells + [""] * 6 + [_errors(record)]
    times, mfu = record["step_time_ms"], record["mfu"]
    return [
        *cells,
        f"{record['batch_size']:,}",
        f"{record['images_per_second']:,.4g}",
        f"{times['median']:.1f} ({times['p10']:.1f} to {times['p90']:.1f})",
        "" if mfu is None else f"{mfu:.1%}",
        _memory(record),
        _compiled(record),
        _compared(row, rows),
    ]


def _memory(record: dict[str, Any]) -> str:
    """Returns the peak memory, with its source unless the device measured it."""
    source = record["peak_memory_source"]
    by = "" if source == "device" else f" (by the {source})"
    return markdown_text(f"{record['peak_memory_bytes'] / 1e9:.1f}{by}")


def _compiled(record: dict[str, Any]) -> str:
    """Returns the seconds of the compilation; of a program that was compiled earlier, none."""
    seconds = record["compile_seconds"]
    if seconds is None:
        return ""
    return "earlier" if record.get("compiled_earlier") else f"{seconds:.0f}"


def _compared(row: Row, rows: Sequence[Row]) -> str:
    """Returns the images per second and device as a share of this project's.

    This project's step has the same network and the same images per device. The result is empty for
    that step itself, and if it has no record.
    """
    ours = (x for x in rows if x["record"] and x["kind"] == "step" and x["size"] == row["size"])
    alike = (x for x in ours if _images(x["record"]) == _images(row["record"]))
    if row["kind"] == "step" or (of := next(alike, None)) is None:
        return ""
    # Waits for data come in bursts, which a median does not show.
    average = "mean" if row["kind"] == "real" else "median"
    share = of["record"]["step_time_ms"][average] / row["record"]["step_time_ms"][average]
    return f"{share:.3f} of this project's speed per device"


def _images(record: dict[str, Any]) -> float:
    return record["batch_size"] / record["device_count"]


def _errors(record: dict[str, Any]) -> str:
    """Returns the largest errors of both kernels in bfloat16 against float32."""
    parts = []
    for name in ("cudnn", "xla"):
        of = [shape[name] for shape in record["errors"]]
        output = max(x["output"] for x in of)
        gradient = max(max(x["gradients"]) for x in of)
        parts.append(f"{name} {output:.2%} (output) and {gradient:.2%} (gradients)")
    return f"largest errors in bfloat16: {', '.join(parts)}"
