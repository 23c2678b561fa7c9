"""The verb `run`: one HTML page of one or several training runs, which needs no network.

The page contains plotly's script, which draws the charts, and a short one of its own
(static/run_page.js). Its security policy allows these two scripts and nothing else.
"""

import argparse
import base64
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from etils import epath

import fsvfm_jax
from fsvfm_jax.devices.distributed import check_workdir
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.storage import in_bucket, replace_bytes, written
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.report.published_curves import CURVES, Curve
from fsvfm_jax.visualize import run_tables
from fsvfm_jax.visualize.run_against import Verdict, compare
from fsvfm_jax.visualize.run_charts import SECTIONS, Chart, charts_of
from fsvfm_jax.visualize.run_facts import Run, date_text, describe, names_of
from fsvfm_jax.visualize.run_figures import MAX_RUNS, look, page_figures
from fsvfm_jax.visualize.run_folder import read_folder
from fsvfm_jax.visualize.run_lines import MAX_INTERVALS
from fsvfm_jax.visualize.run_pictures import Picture, read_pictures
from fsvfm_jax.visualize.run_tables import swatch, text
from fsvfm_jax.visualize.sheet import ELSEWHERE, check_output_file

_STATIC = Path(__file__).with_name("static")
_CONTROLS = (
    '<noscript><p class="error">The charts and pictures need JavaScript.</p></noscript>'
    '<div class="controls" hidden>'
    '<span>x axis: <label><input type="radio" name="axis" value="step" checked> step</label>'
    ' <label><input type="radio" name="axis" value="epoch"> epoch</label></span></div>'
    '<p class="keys">Point at a chart to read its values. Drag across a chart to zoom all charts,'
    " or drag a box to zoom the height of this chart too; double-click to show all. Click a run in"
    " a legend to hide it everywhere. Marks: ▲ started again, ◀ went back, ◆ data changed,"
    " ✕ skipped step, ★ alarm; point at a mark to read it. Long curves show the lowest and the"
    f" highest value of each of at most {MAX_INTERVALS} intervals. A line has a gap where a value"
    " is not finite. A logarithmic axis shows positive values only.</p>"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    parser.add_argument(
        "workdirs",
        nargs="+",
        metavar="WORKDIR",
        help="the folder of a run, or gs://...; the run may go on, and nothing is written there",
    )
    parser.add_argument(
        "--against",
        choices=sorted(CURVES),
        default=argparse.SUPPRESS,
        help="draw the authors' curve of this name too, and compare the means of epochs with it",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE.html", help="the page to write; it is replaced"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        UserError: plotly is missing, a flag or a workdir is wrong, or the page cannot be written.
    """
    check_installed({"plotly"}, extra="charts")
    output = Path(args.output)
    if output.suffix != ".html":
        raise ConfigError(f"--output {args.output} does not end in .html: name a page")
    check_output_file(output)
    if len(args.workdirs) > MAX_RUNS:
        raise ConfigError(f"{len(args.workdirs)} workdirs are given: give at most {MAX_RUNS}")
    paths = [epath.Path(workdir) for workdir in args.workdirs]
    for path in paths:
        check_workdir(path)
        if not in_bucket(path) and output.parent.resolve().is_relative_to(Path(path).resolve()):
            raise ConfigError(
                f"--output {args.output} lies in the workdir {path}, where this command writes"
                " nothing: name a file elsewhere"
            )
    names = names_of(paths)
    runs = [describe(read_folder(path), name) for path, name in zip(paths, names, strict=True)]
    pictures = [read_pictures(run.folder, runs=len(runs), notes=run.notes) for run in runs]
    curve = CURVES.get(getattr(args, "against", ""))
    verdicts = [compare(run, curve) for run in runs] if curve is not None else None
    from plotly.offline import get_plotlyjs  # of the extra

    page = make_page(runs, pictures, plotly=get_plotlyjs(), curve=curve, verdicts=verdicts)
    with written(output, mend=ELSEWHERE):
        replace_bytes(epath.Path(output), page.encode())
    for place, shown in enumerate(runs):
        said = f"; {verdicts[place].text}" if verdicts is not None else ""
        print(printable(f"{shown.name}: {run_tables.outline(shown)}{said}"))
    print(printable(f"The page is {output}."))


def make_page(
    runs: Sequence[Run],
    pictures: Sequence[Sequence[Picture]],
    *,
    plotly: str,
    curve: Curve | None = None,
    verdicts: Sequence[Verdict] | None = None,
) -> str:
    """Returns the page as HTML.

    Args:
        runs: At least one run.
        pictures: The pictures of each run, by step.
        plotly: The script of plotly.
        curve: The authors' curve to draw; None draws none.
        verdicts: The comparison of each run with that curve.
    """
    notes: list[str] = []
    charts = charts_of(runs, notes)
    compared = [n for n, verdict in enumerate(verdicts or ()) if not verdict.refused]
    data = page_figures(runs, charts, against=curve, like=runs[compared[0]] if compared else None)
    data["pictures"] = [[picture._asdict() for picture in own] for own in pictures]
    data["pictureSteps"] = sorted({picture.step for own in pictures for picture in own})
    looks = [look(place) for place in range(len(runs))]
    said = [verdict.text for verdict in verdicts] if verdicts is not None else None
    body = [
        f"<h1>{text(_title(runs))}</h1>",
        f'<p class="about">Made on {text(date_text(time.time()))} by fsvfm_jax'
        f" {fsvfm_jax.__version__} from what the runs had written by then.</p>",
        run_tables.summary(runs, looks, said),
        _CONTROLS,
        *_sections(charts),
        _pictures(runs, looks, pictures, len(data["pictureSteps"])),
        f"<h2>{'Configs' if len(runs) > 1 else 'Config'}</h2>",
        run_tables.differences(runs),
        "<h2>What happened</h2>",
        run_tables.events(runs),
        _left_out(runs, notes),
    ]
    return _document(_title(runs), body, data, plotly)


def _title(runs: Sequence[Run]) -> str:
    names = ", ".join(run.name for run in runs[:3])
    return f"Training: {names}{f' and {len(runs) - 3} more' if len(runs) > 3 else ''}"


def _document(title: str, body: Sequence[str], data: dict, plotly: str) -> str:
    script = (_STATIC / "run_page.js").read_text()
    style = (_STATIC / "run_page.css").read_text()
    policy = (
        f"default-src 'none'; script-src {_hash(plotly)} {_hash(script)};"
        # plotly writes styles into its elements, and makes its pictures from a blob.
        " style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            *body,
            f'<script type="application/json" id="data">{_embedded(data)}</script>',
            f"<script>{plotly}</script>",
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _hash(content: str) -> str:
    """Returns the hash of a script for the security policy."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _embedded(data: dict) -> str:
    """Returns JSON that cannot end the script element around it, nor begin a comment."""
    content = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _sections(charts: Sequence[Chart]) -> list[str]:
    parts = []
    for section, about in SECTIONS.items():
        own = [(n, chart) for n, chart in enumerate(charts) if chart.section == section]
        if own:
            note = f'<p class="note">{about}</p>' if about else ""
            parts.append(f'<h2>{section}</h2>{note}<div class="charts">')
            parts += [f'<div class="chart" id="chart-{n}"></div>' for n, _ in own]
            parts.append("</div>")
    return parts or ["<p>There is no line of numbers yet.</p>"]


def _pictures(
    runs: Sequence[Run],
    looks: Sequence[dict[str, str]],
    pictures: Sequence[Sequence[Picture]],
    steps: int,
) -> str:
    if not steps:
        return "<h2>Pictures over time</h2><p>There is no picture yet.</p>"
    figures = "".join(
        f"<figure><figcaption>{swatch(look)} {text(run.name)}: "
        + ("<b></b></figcaption><img>" if own else "no picture yet</figcaption>")
        + "</figure>"
        for run, look, own in zip(runs, looks, pictures, strict=True)
    )
    return (
        "<section><h2>Pictures over time</h2>"
        '<p class="note">Each run shows its newest picture up to the step of the slider. With'
        " <code>loss.norm_pix</code> a predicted patch gets the mean and the contrast of the true"
        " patch, so its colours are not predicted: judge the structure inside the patches.</p>"
        '<div class="controls" hidden><label for="slider">step</label>'
        f'<input id="slider" type="range" min="0" max="{steps - 1}" value="{steps - 1}">'
        f'<output id="slider-step"></output></div><div class="pictures">{figures}</div></section>'
    )


def _left_out(runs: Sequence[Run], notes: Sequence[str]) -> str:
    lines = [*notes, *(f"{run.name}: {note}" for run in runs for note in run.notes)]
    if not lines:
        return "<h2>What is left out</h2><p>Nothing.</p>"
    return f"<h2>What is left out</h2>{run_tables.items(lines)}"
