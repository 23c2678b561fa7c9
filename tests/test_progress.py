"""Tests the lines and bars that show the progress of work."""

import sys
from types import SimpleNamespace

import pytest
from stand_ins import Clock, Terminal

from fsvfm_jax.host import progress


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_progress_prints_a_line_every_ten_seconds_and_one_at_the_end(clock, capsys):
    items = []
    for item in progress.progress(range(100), total=100, description="mean and std"):
        items.append(item)
        clock.seconds += 0.25
    assert items == list(range(100))
    assert capsys.readouterr().err.splitlines() == [
        "mean and std: 40/100 (40 %), 4/s, 0:00:15 left",
        "mean and std: 80/100 (80 %), 4/s, 0:00:05 left",
        "mean and std: 100/100 (100 %), 4/s, took 0:00:25",
    ]


def test_progress_of_nothing(clock, capsys):
    assert list(progress.progress([], total=0, description="mean and std")) == []
    assert capsys.readouterr().err == "mean and std: 0/0 (0 %), 0/s, took 0:00:00\n"


def test_progress_shows_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress.progress(iter("abc"), total=3, description="mean and std")) == [*"abc"]
    assert "mean and std: 100%" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_without_a_total_no_remaining_time_is_shown(clock, capsys):
    with progress.meter(total=None, description="score") as step:
        for _ in range(48):
            clock.seconds += 0.25
            step()
    assert capsys.readouterr().err.splitlines() == [
        "score: 40, 4/s",
        "score: 48, 4/s, took 0:00:12",
    ]


def test_nothing_is_said_of_work_that_fails(clock, capsys):
    with pytest.raises(ZeroDivisionError), progress.meter(total=3, description="score"):
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def test_the_time_of_the_start_does_not_count_for_the_remaining_time(clock, capsys):
    with progress.meter(total=100, description="score") as step:
        clock.seconds += 40
        step()
        for _ in range(40):
            clock.seconds += 0.5
            step()
    assert capsys.readouterr().err.splitlines()[:2] == [
        "score: 1/100 (1 %), 0.025/s",
        "score: 21/100 (21 %), 0.42/s, 0:00:40 left",
    ]
