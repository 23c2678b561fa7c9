"""Tests that numbers are read one step late, in order, and that NaN ends a run."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from fsvfm_jax.errors import CollapseError, NotFiniteError
from fsvfm_jax.optim import Schedule
from fsvfm_jax.run.monitor import Alarm
from fsvfm_jax.run.reports import Reports
from fsvfm_jax.run.skipped_steps import SkippedSteps

SCHEDULE = Schedule(
    steps_per_epoch=2.0,
    total_steps=8,
    schedule_epochs=4.0,
    warmup_epochs=1.0,
    peak_learning_rate=1e-3,
    min_learning_rate=0.0,
    teacher_momentum=0.99,
)


class Tracker:
    """Records what it receives."""

    def __init__(self) -> None:
        self.folder: Path | None = Path("run")
        self.lines: list[tuple[int, dict, float]] = []
        self.probes: list[dict] = []
        self.alarms: list[tuple[int, Alarm]] = []

    def step(self, step: int, metrics: dict, *, waited: float, probe: dict) -> None:
        self.lines.append((step, metrics, waited))
        self.probes.append(probe)

    def alarm(self, step: int, alarm: Alarm) -> None:
        self.alarms.append((step, alarm))


def make_reports(schedule: Schedule = SCHEDULE, *, limit: int = 0) -> Reports:
    skipped = SkippedSteps(None, limit=limit)
    batches = SimpleNamespace(replaced=3)
    described = []

    def describe(first_sample: int) -> dict:
        described.append(first_sample)
        return {"first_sample": first_sample}

    reports = Reports.__new__(Reports)
    fields = {"tracker": Tracker(), "skipped": skipped, "schedule": schedule}
    fields |= {"batches": batches, "describe": describe, "_unread": None, "_losses": []}
    fields |= {"monitor": SimpleNamespace(take=lambda *args, **options: []), "stops": False}
    fields["_measure"] = None
    for name, value in fields.items():
        setattr(reports, name, value)
    reports.described = described
    return reports


def metrics(loss: float, **others: float) -> dict:
    numbers = {"skipped": 0.0, "grad_norm": 1.0, "param_norm": 1.0, "loss": loss} | others
    return {name: jnp.float32(value) for name, value in numbers.items()}


def test_a_step_is_reported_when_the_next_one_is_put():
    reports = make_reports()
    reports.put(1, metrics(0.5), waited=0.1, first_sample=0)
    assert reports.tracker.lines == []
    reports.put(2, metrics(0.25), waited=0.2, first_sample=16)
    ((step, numbers, waited),) = reports.tracker.lines
    assert (step, waited) == (1, 0.1)
    assert next(iter(numbers)) == "loss" and numbers["loss"] == 0.5
    assert numbers["lr"] == 0.0 and numbers["teacher_momentum"] == 0.99
    assert numbers["replaced_samples"] == 3.0
    reports.flush()
    reports.flush()
    assert [line[0] for line in reports.tracker.lines] == [1, 2]
    assert reports.described == []


def test_a_task_without_a_teacher_has_no_momentum():
    reports = make_reports(dataclasses.replace(SCHEDULE, teacher_momentum=None))
    reports.put(1, metrics(0.5), waited=0.0, first_sample=0)
    reports.flush()
    assert "teacher_momentum" not in reports.tracker.lines[0][1]


def test_the_mean_loss_is_of_the_finite_ones_since_the_last_time():
    reports = make_reports(limit=1)
    for step, loss in enumerate((1.0, math.nan, 2.0), start=1):
        skipped = float(math.isnan(loss))
        reports.put(step, metrics(loss, skipped=skipped), waited=0.0, first_sample=step)
    reports.flush()
    assert reports.take_mean_loss() == 1.5
    assert reports.described == [2]
    assert math.isnan(reports.take_mean_loss())


def test_one_skipped_step_too_many_ends_the_run_with_its_batch():
    reports = make_reports()
    reports.put(1, metrics(math.nan, skipped=1.0), waited=0.0, first_sample=48)
    with pytest.raises(NotFiniteError, match="1 steps in a row, the last 1"):
        reports.put(2, metrics(1.0), waited=0.0, first_sample=64)
    assert reports.described == [48] and reports.tracker.lines == []


def test_the_numbers_of_a_probe_belong_to_its_step():
    reports = make_reports()
    reports.put(1, metrics(0.5), waited=0.0, first_sample=0)
    reports.put_probe(lambda: {"probe_rankme": 2.0})
    reports.put(2, metrics(0.5), waited=0.0, first_sample=16)
    reports.flush()
    assert reports.tracker.probes == [{"probe_rankme": 2.0}, {}]


def test_only_the_first_process_measures_a_probe():
    reports = make_reports()
    reports.tracker.folder = None
    reports.put(1, metrics(0.5), waited=0.0, first_sample=0)
    reports.put_probe(lambda: pytest.fail("measured"))
    reports.flush()
    assert reports.tracker.probes == [{}]


def test_the_monitor_gets_the_wait_of_the_interval_that_ends_with_the_report():
    """While the loop waits for batch 2, the device computes step 1, which is then reported."""
    reports, waits = make_reports(), {}
    reports.monitor.take = lambda step, numbers, *, waited, now: waits.update({step: waited}) or []
    for step, waited in enumerate((0.1, 0.2, 0.3), start=1):
        reports.put(step, metrics(0.5), waited=waited, first_sample=0)
    reports.flush()
    assert waits == {1: 0.2, 2: 0.3, 3: 0.0}


@pytest.mark.parametrize("stops", [False, True])
def test_alarms_are_written_and_a_collapse_ends_the_run_if_the_config_says_so(stops):
    alarms = {
        1: [Alarm("spike", 9.0, 1.0, "high")],
        2: [Alarm("collapse", 0.0, 0.1, "all alike")],
    }
    reports = make_reports()
    reports.stops = stops
    reports.monitor.take = lambda step, numbers, *, waited, now: alarms.get(step, [])
    for step in (1, 2):
        reports.put(step, metrics(0.5), waited=0.0, first_sample=0)
    if stops:
        with pytest.raises(CollapseError, match=r"step 2: all alike\. config\.monitor\.collapse"):
            reports.flush()
    else:
        reports.flush()
    assert reports.tracker.alarms == [(1, alarms[1][0]), (2, alarms[2][0])]
    # The numbers of the step are written before the run ends.
    assert [line[0] for line in reports.tracker.lines] == [1, 2]
