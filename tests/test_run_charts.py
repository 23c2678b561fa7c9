"""Tests which charts there are."""

from etils import epath
from run_workdirs import numbers, write_lines, write_run

from fsvfm_jax.visualize import run_charts
from fsvfm_jax.visualize.run_charts import OTHERS, PROBES, SECTIONS, VALIDATION, charts_of
from fsvfm_jax.visualize.run_facts import Run, describe
from fsvfm_jax.visualize.run_folder import read_folder


def described(workdir, name: str = "run") -> Run:
    return describe(read_folder(epath.Path(workdir)), name)


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
