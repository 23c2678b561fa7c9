"""Writes the tables of the page as HTML: the summary, the configs, what happened, what is missing.

All text that comes from a workdir is escaped.
"""

import html
from collections.abc import Iterable, Mapping, Sequence

from fsvfm_jax.errors import brief
from fsvfm_jax.host.progress import clock_text, rate_text
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.visualize.run_facts import (
    Run,
    date_text,
    is_running,
    seconds_left,
    skipped_steps,
    state_of,
)

MAX_CHARS = 300
MAX_EVENTS = 60  # of a run
_SUMMED = ("fingerprint.images", "fingerprint.mean", "fingerprint.std", "fingerprint.dataset")
# Numbers of the newest line of metrics.jsonl that the summary shows.
_NEWEST = ("loss", "loss_rec", "loss_region", "loss_sim", "loss_sim_constant", "loss_ce")
_NEWEST += ("loss_anchor", "variance_q", "variance_z", "lr", "grad_norm", "data_wait")


def text(value: object, *, most: int = MAX_CHARS) -> str:
    """Returns any text as one line of HTML that shows it unchanged, cut to so many characters."""
    line = printable(" ".join(str(value).split()))
    return html.escape(line if len(line) <= most else f"{line[: most - 1]}…")


def swatch(look: Mapping[str, str]) -> str:
    """Returns a short line that looks as the curves of a run do, as HTML."""
    return (
        '<svg class="swatch" viewBox="0 0 26 10" width="26" height="10" aria-hidden="true">'
        f'<path d="M0 5H26" stroke="{look["colour"]}" stroke-dasharray="{look["dash"]}"'
        ' stroke-width="3"/></svg>'
    )


def summary(
    runs: Sequence[Run], looks: Sequence[Mapping[str, str]], verdicts: Sequence[str] | None
) -> str:
    """Returns the table at the top of the page, with a column for each run.

    Args:
        runs: The runs.
        looks: Colour and dashes of each run.
        verdicts: The comparison of each run with the authors' curve; None without one.
    """
    rows = {"": [f"{swatch(look)} {text(run.name)}" for run, look in zip(runs, looks, strict=True)]}
    rows |= {
        "state": [_state(run) for run in runs],
        "step": [text(_step(run)) for run in runs],
        "time left": [text(_left(run)) for run in runs],
        "newest line written": [text(_written(run)) for run in runs],
        "alarms": [_alarms(run) for run in runs],
        "task": [text(_task(run)) for run in runs],
        "starts": [text(_starts(run)) for run in runs],
        "skipped steps": [text(f"{skipped_steps(run):,}") for run in runs],
        "images/s": [text(_speed(run)) for run in runs],
    }
    for name in _NEWEST:
        values = [run.folder.lines["metrics.jsonl"].recent(name) for run in runs]
        if any(value is not None for value in values):
            rows[name] = ["-" if value is None else f"{value:.4g}" for value in values]
    scores = [run.folder.lines["validation.jsonl"].newest for run in runs]
    for name in dict.fromkeys(name for newest in scores for name in newest if name != "step"):
        rows[f"validation: {name}"] = [_score(newest, name) for newest in scores]
    rows["starting weights"] = [text(run.folder.origin.get("source") or "random") for run in runs]
    if verdicts is not None:
        rows["against the authors"] = [text(verdict, most=1000) for verdict in verdicts]
    rows["workdir"] = [text(run.folder.path, most=1000) for run in runs]
    return table(rows)


def table(rows: Mapping[str, Sequence[str]]) -> str:
    """Returns a table as HTML.

    Args:
        rows: The cells of each row as HTML, by the row's name as text. The first row is the head.
    """
    lines = [
        f'<tr><th scope="row">{text(name)}</th>{"".join(f"<td>{x}</td>" for x in cells)}</tr>'
        for name, cells in rows.items()
    ]
    return (
        f'<div class="wide"><table><thead>{lines[0]}</thead><tbody>{"".join(lines[1:])}</tbody>'
        "</table></div>"
    )


def differences(runs: Sequence[Run]) -> str:
    """Returns the fields of the configs that differ between the runs, and the others folded."""
    fields = [_fields(run) for run in runs]
    names = list(dict.fromkeys(name for of_run in fields for name in of_run))
    cells = {name: [of_run.get(name) for of_run in fields] for name in names}
    same = {name: row for name, row in cells.items() if len(set(row)) == 1}
    partly = {name: row for name, row in cells.items() if None in row}
    head = {"field": [text(run.name) for run in runs]}
    if len(runs) == 1:
        return _folded(head, same, "fields")
    different = {name: cells[name] for name in names if name not in {**same, **partly}}
    if different:
        first = f"<p>Marked: differs from {text(runs[0].name)}.</p>{_compared(head, different)}"
    else:
        first = "<p>No field that all runs have differs.</p>"
    once = _folded(head, partly, "fields that not all runs have") if partly else ""
    return first + once + _folded(head, same, "fields that are equal in all runs")


def _compared(head: Mapping[str, list[str]], rows: Mapping[str, Sequence[str | None]]) -> str:
    """Returns a table in which the values that differ from the first are marked."""
    cells = {name: [_marked(value, row[0]) for value in row] for name, row in rows.items()}
    return table({**head, **cells})


def _marked(value: str | None, first: str | None) -> str:
    shown = "-" if value is None else text(value)
    return shown if value == first else f"<mark>{shown}</mark>"


def _folded(
    head: Mapping[str, list[str]], rows: Mapping[str, Sequence[str | None]], what: str
) -> str:
    listed = _compared(head, rows)
    return f"<details><summary>{len(rows)} {what}</summary>{listed}</details>"


def _fields(run: Run) -> dict[str, str]:
    data = {f"fingerprint.{name}": brief(value) for name, value in run.folder.fingerprint.items()}
    return run.folder.fields | {name: data[name] for name in _SUMMED if name in data}


def events(runs: Sequence[Run]) -> str:
    """Returns what happened in the runs, by step, as a table."""
    rows = []
    for run in runs:
        starts = run.folder.starts[:1]
        rows += [(run, start.step, date_text(start.seconds), "started") for start in starts]
        if len(run.marks) > MAX_EVENTS:
            left = len(run.marks) - MAX_EVENTS
            rows.append((run, run.marks[0].step, "", f"{left:,} earlier events are not listed"))
        for mark in run.marks[-MAX_EVENTS:]:
            when = "" if mark.seconds is None else date_text(mark.seconds)
            rows.append((run, mark.step, when, mark.text))
    if not rows:
        return "<p>Nothing is recorded.</p>"
    lines = [
        "".join(f"<td>{text(cell, most=800)}</td>" for cell in (run.name, f"{step:,}", when, what))
        for run, step, when, what in rows
    ]
    cells = "".join(f"<tr>{line}</tr>" for line in lines)
    head = "<tr><th>run</th><th>step</th><th>time</th><th>what happened</th></tr>"
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{cells}</tbody></table></div>'


def items(lines: Iterable[str]) -> str:
    """Returns a list of texts as HTML."""
    return f"<ul>{''.join(f'<li>{text(line, most=600)}</li>' for line in lines)}</ul>"


def _state(run: Run) -> str:
    kind = "alive" if is_running(run) else "still"
    return f'<span class="{kind}">{text(state_of(run))}</span>'


def _step(run: Run) -> str:
    metrics = run.folder.lines["metrics.jsonl"]
    epoch = metrics.recent("epoch")
    reached = "" if epoch is None else f", epoch {epoch:.2f}"
    if run.schedule is None:
        return f"{metrics.step:,}{reached}"
    total = run.schedule.total_steps
    epochs = total / run.schedule.steps_per_epoch
    ending = f"{reached} of {epochs:g}" if reached else ""
    return f"{metrics.step:,} of {total:,} ({metrics.step / total:.0%}){ending}"


def _left(run: Run) -> str:
    left, written = seconds_left(run), run.folder.written
    if left is None or written is None:
        return "-"
    return f"{clock_text(min(left, 10**9))}, until {date_text(written + left)}"


def _written(run: Run) -> str:
    return "never" if run.folder.written is None else date_text(run.folder.written)


def _alarms(run: Run) -> str:
    alarms = [mark for mark in run.marks if mark.kind == "alarm"]
    if not alarms:
        return "none"
    count = len(run.folder.alarms)
    last = f"{count:,}; the last at step {alarms[-1].step:,}, {alarms[-1].text}"
    return f'<span class="alarm">{text(last, most=600)}</span>'


def _task(run: Run) -> str:
    config = run.folder.config
    model = config.get("model")
    model = model if isinstance(model, dict) else {}
    parts = [f"{name} {model[name]}" for name in ("width", "depth", "image_size") if name in model]
    batch = [f"batch {config['batch_size']}"] if "batch_size" in config else []
    return ", ".join([str(config.get("task", "unknown")), *parts, *batch])


def _starts(run: Run) -> str:
    starts = run.folder.starts
    if not starts:
        return "not known"
    last = starts[-1]
    return f"{len(starts):,}; the last {date_text(last.seconds)}, from step {last.step:,}"


def _score(newest: Mapping[str, float], name: str) -> str:
    if name not in newest:
        return "-"
    return text(f"{newest[name]:.4g} (step {newest['step']:,.0f})")


def _speed(run: Run) -> str:
    rate = run.folder.lines["metrics.jsonl"].recent("images_per_second")
    return "-" if rate is None else rate_text(rate)


def outline(run: Run) -> str:
    """Returns state and step of a run as one line of plain text."""
    return f"{state_of(run)}; step {_step(run)}"
