"""Tests which charts there are, and that they hold every number of the runs."""

import json

import pytest
from etils import epath
from run_workdirs import numbers, write_like_authors, write_lines, write_run

from fsvfm_jax.report.published_curves import CURVES
from fsvfm_jax.visualize import run_charts
from fsvfm_jax.visualize.run_charts import (
    MAX_RUNS,
    OTHERS,
    PROBES,
    SECTIONS,
    VALIDATION,
    charts_of,
    look,
    page_data,
)
from fsvfm_jax.visualize.run_facts import Mark, Run, describe
from fsvfm_jax.visualize.run_folder import read_folder


def described(workdir, name: str = "run") -> Run:
    return describe(read_folder(epath.Path(workdir)), name)


def data_of(*runs: Run, **options):
    options = {"against": None, "like": None} | options
    return page_data(runs, charts_of(runs, []), **options)


def lines_of(data, name: str):
    return next(chart for chart in data["charts"] if chart["name"] == name)["lines"]


def test_every_number_has_a_chart(tmp_path):
    workdir = write_run(tmp_path / "run")
    write_lines(workdir / "metrics.jsonl", [numbers(4, something=1.0, probe_rank=2.0)])
    write_lines(workdir / "validation.jsonl", [{"step": 4, "val_loss": 0.5, "val_new": 1.0}])
    charts = {chart.name: chart for chart in charts_of([described(workdir)], [])}
    assert charts["probe_knn"].section == charts["probe_rank"].section == PROBES
    assert charts["something"].section == OTHERS
    assert charts["val_loss"].section == charts["val_new"].section == VALIDATION
    drawn = set(charts) | {chart.beside for chart in charts.values()}
    assert set(numbers(4)) - {"step", "epoch"} <= drawn
    assert {chart.section for chart in charts.values()} <= set(SECTIONS)


def test_too_many_charts_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(run_charts, "MAX_CHARTS", 3)
    notes = []
    assert len(charts_of([described(write_run(tmp_path / "run"))], notes)) == 3
    assert "numbers have a chart: the first 3 are drawn" in notes[0]


def test_curves_have_the_numbers_of_the_files(tmp_path):
    runs = [described(write_run(tmp_path / name), name) for name in ("a", "b")]
    data = data_of(*runs)
    assert [run["name"] for run in data["runs"]] == ["a", "b"]
    lines = lines_of(data, "loss")
    assert [(line["run"], line["kind"]) for line in lines] == [
        *((run, kind) for run in (0, 1) for kind in ("steps", "points"))
    ]
    steps = list(range(4, 68, 4))
    assert lines[0]["x"] == steps and lines[0]["y"] == pytest.approx([1 / step for step in steps])
    assert lines[1]["x"] == [16, 48]
    kinds = {line["kind"]: line for line in lines_of(data, "loss_sim") if line["run"] == 0}
    assert set(kinds["beside"]["y"]) == {-0.3} and kinds["beside"]["label"] == "loss_sim_constant"
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_the_authors_curve_is_drawn_where_its_epochs_are(tmp_path):
    run = described(write_like_authors(tmp_path / "run"))
    data = data_of(run, against=CURVES["vggface2_b"], like=run)
    [_, reference] = lines_of(data, "loss_rec")
    assert reference["run"] is None and reference["x"][1] == 4.5 * 726
    assert reference["y"][:2] == [0.8321, 0.3946]


def test_runs_look_different():
    looks = {tuple(look(place).values()) for place in range(MAX_RUNS)}
    assert len(looks) == MAX_RUNS


def test_marks_that_no_step_can_have_are_not_drawn(tmp_path):
    run = described(write_run(tmp_path / "run"))
    marks = [Mark(step, "change", "x") for step in (-1, 5, 10**30)]
    data = data_of(run._replace(marks=marks))
    assert [mark["step"] for mark in data["runs"][0]["marks"]] == [5]


def test_probes_are_in_order_with_their_units(tmp_path):
    workdir = write_run(tmp_path / "run")
    probes = ("probe_rec_eyes", "probe_new", "probe_rankme", "probe_linear_ridge", "probe_knn_auc")
    write_lines(workdir / "metrics.jsonl", [{"step": 4} | dict.fromkeys(probes, 1.0)])
    charts = charts_of([described(workdir)], [])
    shown = [chart.name for chart in charts if chart.section == PROBES and chart.name in probes]
    order = "knn_auc rankme rec_eyes new linear_ridge"
    assert shown == [f"probe_{name}" for name in order.split()]
    axes = {chart.name: chart.axis for chart in charts}
    assert "chance" in axes["probe_knn_auc"] and axes["probe_new"] == "value"
