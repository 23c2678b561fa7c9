"""Tests that the figures hold every number of the runs, in the schema of plotly."""

import json
import math

import pytest
from etils import epath
from golden_files import need
from run_workdirs import numbers, write_like_authors, write_lines, write_run

from fsvfm_jax.report.published_curves import CURVES
from fsvfm_jax.visualize.run_charts import charts_of
from fsvfm_jax.visualize.run_facts import Mark, Run, describe
from fsvfm_jax.visualize.run_figures import MAX_RUNS, look, page_figures
from fsvfm_jax.visualize.run_folder import read_folder


def described(workdir, name: str = "run") -> Run:
    return describe(read_folder(epath.Path(workdir)), name)


def figures_of(*runs: Run, **options):
    options = {"against": None, "like": None} | options
    return page_figures(runs, charts_of(runs, []), **options)


def figure_of(page, name: str):
    title = f"<b>{name}</b>"
    return next(x for x in page["figures"] if x["layout"]["title"]["text"] == title)


def test_curves_have_the_numbers_of_the_files(tmp_path):
    page = figures_of(*(described(write_run(tmp_path / name), name) for name in ("a", "b")))
    figure = figure_of(page, "loss")
    assert [(trace["legendgroup"], trace["name"]) for trace in figure["data"]] == [
        (group, f"{run}{label}")
        for group, run in (("0", "a"), ("1", "b"))
        for label in ("", ": mean of the epoch")
    ]
    assert [trace["showlegend"] for trace in figure["data"]] == [True, False, True, False]
    steps = list(range(4, 68, 4))
    first, mean = figure["data"][:2]
    assert first["x"] == steps and first["y"] == pytest.approx([1 / step for step in steps])
    assert mean["x"] == [16, 48] and mean["line"]["width"] > first["line"]["width"]
    assert figure["runs"] == [0, 1] and page["marks"] == [None, None]
    beside = figure_of(page, "loss_sim")["data"][-1]
    assert beside["name"] == "b: loss_sim_constant" and set(beside["y"]) == {-0.3}
    assert json.loads(json.dumps(page, allow_nan=False)) == page


def test_plotly_knows_every_part_of_the_figures(tmp_path):
    graph = need("plotly.graph_objects", "charts")
    run = described(write_like_authors(tmp_path / "run"))
    run = run._replace(marks=[Mark(step, "alarm", "x") for step in (5, 9)])
    page = figures_of(
        run, described(write_run(tmp_path / "b")), against=CURVES["vggface2_b"], like=run
    )
    for figure in page["figures"]:
        graph.Figure({"data": figure["data"] + [page["marks"][0]], "layout": figure["layout"]})


def test_axes_have_their_units_and_the_range_of_all_runs(tmp_path):
    page = figures_of(
        described(write_run(tmp_path / "run")), described(write_like_authors(tmp_path / "b"))
    )
    layouts = [figure["layout"] for figure in page["figures"]]
    assert {layout["xaxis"]["title"]["text"] for layout in layouts} == {"step"}
    [end] = {layout["xaxis"]["autorangeoptions"]["maxallowed"] for layout in layouts}
    assert end == page["ends"]["step"] == pytest.approx(1.02 * 726 * 400)
    assert page["ends"]["epoch"] == pytest.approx(1.02 * 400)
    variance = figure_of(page, "variance_z")["layout"]
    assert variance["yaxis"]["type"] == "log" and "variance" in variance["yaxis"]["title"]["text"]
    [menu] = variance["updatemenus"]
    assert menu["active"] == 1 and [button["args"] for button in menu["buttons"]] == [
        [{"yaxis.type": "linear"}],
        [{"yaxis.type": "log"}],
    ]


def test_the_authors_curve_is_drawn_where_its_epochs_are(tmp_path):
    run = described(write_like_authors(tmp_path / "run"))
    figure = figure_of(figures_of(run, against=CURVES["vggface2_b"], like=run), "loss_rec")
    [_, reference] = figure["data"]
    assert reference["name"] == "the authors' ViT-B on VGGFace2"
    assert reference["x"][1] == 4.5 * 726 and reference["meta"] == 726
    assert reference["y"][:2] == [0.8321, 0.3946] and figure["layout"]["yaxis"]["type"] == "log"


def test_values_that_are_not_finite_are_gaps(tmp_path):
    workdir = write_run(tmp_path / "run")
    values = [1.0, math.nan, 2.0, math.inf, -math.inf, 3e-320]
    write_lines(workdir / "metrics.jsonl", [numbers(n, loss=x) for n, x in enumerate(values, 1)])
    line = figure_of(figures_of(described(workdir)), "loss")["data"][0]
    assert line["x"] == [1, 2, 3, 4, 5, 6]
    assert line["y"] == [1.0, None, 2.0, None, None, 0.0]
    assert "markers" in line["mode"]  # The 2.0 is in no line.


def test_runs_look_different():
    looks = {tuple(look(place).values()) for place in range(MAX_RUNS)}
    assert len(looks) == MAX_RUNS


def test_marks_are_read_at_their_step_and_hidden_with_their_run(tmp_path):
    run = described(write_run(tmp_path / "run"))
    marks = [Mark(step, "change", "x") for step in (-1, 5, 10**30)]
    marks += [Mark(5, "alarm", f"<b>spike</b> {'word ' * 40}"), Mark(8, "start", "again")]
    page = figures_of(described(write_run(tmp_path / "b")), run._replace(marks=marks))
    [none, trace] = page["marks"]
    assert none is None and trace["legendgroup"] == "1" and trace["yaxis"] == "y2"
    assert trace["x"] == [5, 8] and trace["marker"]["symbol"] == ["star", "triangle-up"]
    first, second = trace["text"]
    assert first.startswith("x<br>&lt;b&gt;spike&lt;/b&gt; word") and second == "again"
    assert max(map(len, first.split("<br>"))) < 100


def test_names_are_no_html(tmp_path):
    run = described(write_run(tmp_path / "run"), "<a href='x'>a</a>")
    names = {trace["name"] for trace in figure_of(figures_of(run), "loss")["data"]}
    assert all(name.startswith("&lt;a") and "<" not in name for name in names)
