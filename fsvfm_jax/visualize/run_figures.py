"""Makes the figures of the page, in the schema of plotly, from the numbers of the runs.

The figures are plain dictionaries, so this module needs no plotly. Text from runs is escaped,
because plotly reads HTML in it.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fsvfm_jax.report.figure import COLOURS, STYLES
from fsvfm_jax.report.published_curves import Curve, Means
from fsvfm_jax.visualize.run_charts import PROBES, VALIDATION, Chart
from fsvfm_jax.visualize.run_facts import Mark, Run
from fsvfm_jax.visualize.run_lines import Thinned
from fsvfm_jax.visualize.run_tables import text

MAX_RUNS = len(COLOURS) * len(STYLES)
# The dashes of matplotlib's line styles, for SVG.
DASHES = {"-": "", "--": "6px,3px", ":": "2px,2px"}
_LARGEST = 2**53  # JavaScript has no larger whole numbers.
_LEAST = 1e-100  # plotly cannot divide by smaller values, which are drawn as 0.
_HEIGHT = 310  # pixels
_MAX_NAME = 50  # characters in a legend or beside an axis
_MAX_TITLE = 34  # characters above a chart
_FEW = 60  # means of epochs, probes or scores
_MAX_WIDTH = 70  # characters in a line that is shown at a mark
_VALUE = "%{y:.6~g} at %{x:,.2~f}"
# Symbol and colour of each kind of mark; None is the colour of the run.
_MARKS = {
    "start": ("triangle-up", None),
    "rewind": ("triangle-left", None),
    "change": ("diamond", None),
    "skipped": ("x", "#a3001b"),
    "alarm": ("star", "#a3001b"),
}


def page_figures(
    runs: Sequence[Run], charts: Sequence[Chart], *, against: Curve | None, like: Run | None
) -> dict[str, Any]:
    """Returns the figures of all charts, and what the script needs to change their x axis.

    Args:
        runs: The runs.
        charts: The result of `charts_of`.
        against: The authors' curve; None draws none.
        like: The first run that is compared with that curve, for its steps per epoch.

    Returns:
        `figures`: the traces and the layout of each chart, and the places of its runs. `marks`:
        for each run a trace of what happened, which belongs into every chart of the run, or None.
        `ends`: the end of the x axis in steps and in epochs.
    """
    traces = [
        [trace for place, run in enumerate(runs) for trace in _traces(chart, place, run)]
        for chart in charts
    ]
    ends = _ends(trace for data in traces for trace in data)
    figures = []
    for chart, data in zip(charts, traces, strict=True):
        reference = _reference(chart, against, like)
        layout = _layout(chart, end=ends["step"], log=chart.log or bool(reference))
        places = sorted({int(trace["legendgroup"]) for trace in data})
        figures.append({"data": data + reference, "layout": layout, "runs": places})
    marks = [_marks(place, run) for place, run in enumerate(runs)]
    return {"figures": figures, "marks": marks, "ends": ends}


def look(place: int) -> dict[str, str]:
    """Returns colour and dashes of a run's lines, by its place among the runs."""
    style = STYLES[place // len(COLOURS) % len(STYLES)]
    return {"colour": COLOURS[place % len(COLOURS)], "dash": DASHES[style]}


def _layout(chart: Chart, *, end: float, log: bool) -> dict[str, Any]:
    title = f"<b>{text(chart.name, most=_MAX_TITLE)}</b>"
    buttons = [
        {"label": kind, "method": "relayout", "args": [{"yaxis.type": kind}]}
        for kind in ("linear", "log")
    ]
    return {
        "title": {"text": title, "x": 0, "xref": "paper", "y": 0.97, "font": {"size": 14}},
        "height": _HEIGHT,
        "margin": {"l": 70, "r": 15, "t": 45, "b": 30},
        "font": {"family": "sans-serif", "size": 12, "color": "#222"},
        "hovermode": "x unified",
        "hoverlabel": {"namelength": -1, "font": {"size": 12}},
        "legend": {
            **{"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
            **{"maxheight": 0.3},  # of the chart; a longer legend scrolls
        },
        "showlegend": True,
        "xaxis": {
            "title": {"text": "step", "standoff": 6},
            "tickformat": ",~f",
            "hoverformat": ",.2~f",
            # All charts have the same x axis.
            "autorangeoptions": {"minallowed": 0, "maxallowed": end},
            "automargin": True,
            "zeroline": False,
        },
        "yaxis": {
            "title": {"text": text(chart.axis, most=_MAX_NAME), "font": {"size": 11}},
            "type": "log" if log else "linear",
            "tickformat": ",.6~g",
            "zeroline": False,
        },
        # The lines of marks go from the bottom to the top of the chart.
        "yaxis2": {"overlaying": "y", "range": [0, 1.07], "fixedrange": True, "visible": False},
        "updatemenus": [
            {
                **{"type": "buttons", "direction": "right", "buttons": buttons},
                # Left of plotly's own buttons.
                **{"x": 0.75, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 2}},
                **{"active": int(log), "font": {"size": 10}},
            }
        ],
    }


def _traces(chart: Chart, place: int, run: Run) -> Iterator[dict[str, Any]]:
    """Yields the lines of a run in a chart; the first one is the run's entry in the legend."""
    files = run.folder.lines
    if chart.section == VALIDATION:
        wanted = [("validation.jsonl", chart.name, "points", "")]
    else:
        wanted = [("metrics.jsonl", chart.name, "steps", "")]
        if chart.means:
            wanted.append(("epochs.jsonl", chart.name, "points", "mean of the epoch"))
        if chart.beside:
            wanted.append(("metrics.jsonl", chart.beside, "beside", chart.beside))
        if chart.section == PROBES:
            wanted[0] = ("metrics.jsonl", chart.name, "points", "")
    lines = [line for line in wanted if line[1] in files[line[0]].curves]
    own = look(place)
    styles = {
        "steps": {"width": 1.2, "dash": own["dash"] or "solid"},
        "points": {"width": 2.4, "dash": own["dash"] or "solid"},
        "beside": {"width": 1.8, "dash": "1px,3px"},
    }
    for n, (file, name, kind, label) in enumerate(lines):
        faded = kind == "steps" and any(other[2] == "points" for other in lines)
        yield {
            **_line(files[file].curves[name], few=_FEW if kind == "points" else 0),
            "name": f"{text(run.name, most=_MAX_NAME)}{': ' if label else ''}{text(label)}",
            "legendgroup": str(place),
            "line": {"color": own["colour"], **styles[kind]},
            "opacity": 0.7 if faded else 1,
            "showlegend": n == 0,
            "meta": run.steps_per_epoch,
        }


def _line(curve: Thinned, *, few: int) -> dict[str, Any]:
    """Returns a line; one of at most so many points has markers."""
    points = [(step, _short(value)) for step, value in curve.points()]
    points += [(step, None) for step in curve.gaps()]
    points.sort(key=lambda point: point[0])
    values = [value for _, value in points]
    # No line leads to a point between two gaps, so it needs a marker.
    neighbours = zip([None, *values[:-1]], values, [*values[1:], None], strict=True)
    lonely = any(a is None and b is not None and c is None for a, b, c in neighbours)
    return {
        "type": "scatter",
        "mode": "lines+markers" if lonely or len(points) <= few else "lines",
        "marker": {"size": 5},
        "x": [step for step, _ in points],
        "y": values,
        "hovertemplate": _VALUE,
    }


def _marks(place: int, run: Run) -> dict[str, Any] | None:
    """Returns a trace with a mark at the top for each step at which something happened."""
    by_step: dict[int, list[Mark]] = {}
    for mark in run.marks:
        if 0 <= mark.step <= _LARGEST:
            by_step.setdefault(mark.step, []).append(mark)
    if not by_step:
        return None
    colour = look(place)["colour"]
    shown = [_MARKS[max(marks, key=_weight).kind] for marks in by_step.values()]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(by_step),
        "y": [1] * len(by_step),
        "yaxis": "y2",
        "text": [_lines_of(mark.text for mark in marks) for marks in by_step.values()],
        "hovertemplate": "%{text} (step %{x:,.2~f})",
        "marker": {
            "symbol": [symbol for symbol, _ in shown],
            "color": [own or colour for _, own in shown],
            "size": 10,
        },
        "error_y": {
            **{"type": "constant", "value": 0, "valueminus": 1, "symmetric": False},
            **{"color": f"{colour}99", "thickness": 0.8, "width": 0},  # 60 % opaque
        },
        "cliponaxis": False,
        "name": text(run.name, most=_MAX_NAME),
        "legendgroup": str(place),
        "showlegend": False,
        "meta": run.steps_per_epoch,
    }


def _weight(mark: Mark) -> int:
    return list(_MARKS).index(mark.kind)


def _lines_of(texts: Iterable[str]) -> str:
    """Returns texts as HTML, in lines that fit into a label."""
    return "<br>".join(
        text(line) for said in texts for line in textwrap.wrap(said[:800], _MAX_WIDTH)
    )


def _reference(chart: Chart, against: Curve | None, like: Run | None) -> list[dict[str, Any]]:
    if against is None or like is None or chart.name not in Means._fields:
        return []
    per_epoch = like.steps_per_epoch or 1
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        # The mean of an epoch is drawn in its middle, like those of the runs.
        "x": [(epoch + 0.5) * per_epoch for epoch in against.epochs],
        "y": [getattr(means, chart.name) for means in against.epochs.values()],
        "line": {"color": "#000", "width": 1.5, "dash": "5px,3px"},
        "name": against.title,
        "legendgroup": "authors",
        "hovertemplate": _VALUE,
        "meta": per_epoch,
    }
    return [line]


def _ends(traces: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Returns the end of an x axis that shows all runs, in steps and in epochs."""
    step, epoch = 1, 0.0
    for trace in traces:
        newest = trace["x"][-1]
        step = max(step, newest)
        epoch = max(epoch, newest / trace["meta"]) if trace["meta"] else epoch
    return {"step": step * 1.02, "epoch": epoch * 1.02 or 1.0}


def _short(value: float) -> float:
    """Returns a number that plotly can draw, with seven digits, which makes the page smaller."""
    return float(f"{value:.7g}") if abs(value) >= _LEAST else 0.0
