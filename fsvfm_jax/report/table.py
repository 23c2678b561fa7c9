"""Formats the rows of a report as a table: in Markdown, and its main columns for a terminal."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.report.rows import Row


def _text(value: Any) -> str:
    return markdown_text(value)


def _count(value: int) -> str:
    return f"{value:,}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _score(value: float) -> str:
    return f"{value:.6f}"


def _decimal(value: float) -> str:
    return f"{value:.3g}"


def _rate(value: float | int) -> str:
    return f"{value:g}"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}"


def _probability(value: float) -> str:
    return f"{value:.3f}"


class Column(NamedTuple):
    """A column of a table: its heading, and a function that formats a value."""

    heading: str
    write: Callable[[Any], str]


# The columns by a row's key without its part after @. Other keys are written to JSON only.
COLUMNS = {
    "method": Column("method", _text),
    "encoder": Column("encoder", _text),
    "mode": Column("mode", _text),
    "pool": Column("pool", _text),
    "dataset": Column("set", _text),
    "selection": Column("checkpoint", _text),
    "candidates": Column("of", _count),
    "step": Column("step", _count),
    "run_steps": Column("of run's", _count),
    "seed": Column("seed", _count),
    "group": Column("group", _text),
    "kind": Column("degradation", _text),
    "strength": Column("strength", _text),
    "point": Column("operating point", _text),
    "threshold": Column("threshold", _score),
    "images": Column("images", _count),
    "images_expected": Column("expected", _count),
    "videos": Column("videos", _count),
    "videos_expected": Column("expected", _count),
    "skipped": Column("skipped", _count),
    "faces": Column("faces", _count),
    "real": Column("real videos", _count),
    "fake": Column("fake videos", _count),
    "frame_auc": Column("frame AUC", _percent),
    "video_auc": Column("video AUC", _percent),
    "average_precision": Column("AP", _percent),
    "equal_error_rate": Column("EER", _percent),
    "balanced_accuracy": Column("balanced accuracy", _percent),
    "auc": Column("AUC", _percent),
    "tpr_at_fpr_1": Column("TPR@FPR=1%", _percent),
    "tpr": Column("TPR", _percent),
    "fpr": Column("FPR", _percent),
    "hter": Column("HTER = ACER", _percent),
    "apcer": Column("APCER", _percent),
    "bpcer": Column("BPCER", _percent),
    "published": Column("published", _percent),
    "measure": Column("metric", _text),
    "value": Column("value", _percent),
    "difference": Column("difference", _signed),
    "p_value": Column("p", _probability),
    "both_right": Column("both right", _count),
    "only_right": Column("only right", _count),
    "both_wrong": Column("both wrong", _count),
    "disagree": Column("disagree", _count),
    "paper": Column("paper", _text),
    "rate": Column("rate", _rate),
    "trainable": Column("trained", _count),
    "memory": Column("GB", _decimal),
    "micro_batches": Column("micro-batches", _count),
    "epochs": Column("epochs", _rate),
    "minutes": Column("minutes", _decimal),
    "linear": Column("linear", _percent),
    "knn": Column("k-NN", _percent),
    "full": Column("full", _percent),
    "patches": Column("patches", _percent),
    "note": Column("note", _text),
}
# The columns for which a terminal has room.
ON_SCREEN = (
    *("method", "dataset", "selection", "videos", "frame_auc", "video_auc", "average_precision"),
    *("equal_error_rate", "auc", "hter", "kind", "strength", "tpr", "fpr", "measure", "value"),
    *("p_value", "only_right", "disagree", "note"),
)


def value_type(key: str) -> type | None:
    """Returns the type of a row's values under a key, or None if the key has no column."""
    column = COLUMNS.get(_base(key))
    return {_text: str, _count: int}.get(column.write, float) if column else None


def markdown(rows: Sequence[Row], caption: str) -> str:
    """Returns the caption and a table with the columns that any row fills, in COLUMNS' order."""
    keys = _filled(rows)
    lines = [[_heading(key) for key in keys], *([_cell(row, key) for key in keys] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    left = [COLUMNS[_base(key)].write is _text for key in keys]

    def aligned(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if to_left else "-" * (width - 1) + ":"
        for width, to_left in zip(widths, left, strict=True)
    ]
    table = [aligned(lines[0]), aligned(rule), *map(aligned, lines[1:])]
    return "\n".join([caption, "", *table]) + "\n"


def plain(rows: Sequence[Row], *, also: Sequence[str] = ()) -> str:
    """Returns the columns of ON_SCREEN as aligned text, without intervals and deviations.

    Args:
        rows: The rows.
        also: More columns.
    """
    keys = [key for key in _filled(rows) if _base(key) in (*ON_SCREEN, *also)]
    headings = [_heading(key, source=printable) for key in keys]
    lines = [headings, *([_value(row, key) for key in keys] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [COLUMNS[_base(key)].write is _text for key in keys]
    padded = (
        (
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        )
        for cells in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _filled(rows: Sequence[Row]) -> list[str]:
    """Returns the keys with a column that any row fills, in COLUMNS' order."""
    order = list(COLUMNS)
    filled = {
        key: order.index(_base(key))
        for row in rows
        for key, value in row.items()
        if _base(key) in COLUMNS and value is not None
    }
    return sorted(filled, key=filled.__getitem__)


def _base(key: str) -> str:
    return key.partition("@")[0]


def _heading(key: str, *, source: Callable[[str], str] = markdown_text) -> str:
    base, at, name = key.partition("@")
    return COLUMNS[base].heading + (f" @{source(name)}" if at else "")


def _value(row: Row, key: str) -> str:
    """Returns a value without its interval as text for a terminal, or the mean over seeds."""
    value, write = row.get(key), COLUMNS[_base(key)].write
    if value is None:
        return ""
    if isinstance(value, dict):
        value = value["mean"]
    return printable(str(value)) if write is _text else write(value)


def _cell(row: Row, key: str) -> str:
    """Returns a value as text with its deviation or interval, or "" if the row has no value."""
    value, write = row.get(key), COLUMNS[_base(key)].write
    if value is None:
        return ""
    base, at, source = key.partition("@")
    interval = row.get(f"{base}_interval{at}{source}")
    bounds = f" [{', '.join(map(write, interval))}]" if interval else ""
    if isinstance(value, dict):
        spread = "" if value["sd"] is None else f" +- {_percent(value['sd'])}"
        return f"{write(value['mean'])}{spread}{bounds} (n={value['n']})"
    return write(value) + bounds
