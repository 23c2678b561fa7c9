"""Tests that lines are read as far as they are whole, that nothing is lost, and the limits."""

import itertools
import json
import math
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_files import BYTES, JSON

from fsvfm_jax.visualize import run_lines
from fsvfm_jax.visualize.run_lines import MAX_INTERVALS, Lines, Thinned, read_lines


def read(content: bytes) -> Lines:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return read_lines(file, len(content))


def line(step: object, **values: object) -> bytes:
    return json.dumps({"step": step, **values}).encode() + b"\n"


@given(st.lists(st.tuples(st.integers(0, 2**53), st.floats(-1e100, 1e100)), max_size=60))
def test_thinning_keeps_lowest_highest_and_newest(points):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_lines, "MAX_INTERVALS", 4)
        curve = Thinned()
        for step, value in points:
            curve.add(step, value)
    kept = curve.points()
    assert set(kept) <= set(points) and len(kept) <= 2 * 4 + 1 and kept == sorted(kept)
    assert curve.count == len(points)
    if points:
        values = [value for _, value in points]
        assert {min(values), max(values)} <= {value for _, value in kept}
        assert points[-1] in kept


@given(st.lists(st.tuples(st.integers(0, 2**53), st.sampled_from([1.0, math.nan, math.inf]))))
def test_gaps_are_thinned_too_and_none_is_where_there_was_none(points):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_lines, "MAX_INTERVALS", 4)
        curve = Thinned()
        for step, value in points:
            curve.add(step, value)
    gaps = {step for step, value in points if not math.isfinite(value)}
    assert set(curve.gaps()) <= gaps and len(curve.gaps()) <= 4
    assert {step // curve.width for step in gaps} == {step // curve.width for step in curve.gaps()}
    assert all(math.isfinite(value) for _, value in curve.points())


def test_a_million_steps_are_spread_evenly():
    curve = Thinned()
    for step in range(0, 1_000_000, 50):
        curve.add(step, math.sin(step))
    steps = [step for step, _ in curve.points()]
    assert MAX_INTERVALS / 2 <= len(steps) <= 2 * MAX_INTERVALS + 1
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 2 * curve.width


def test_a_few_points_are_all_kept():
    lines = read(b"".join(line(step, loss=step / 2) for step in (1, 5, 10)))
    assert lines.curves["loss"].points() == [(1, 0.5), (5, 2.5), (10, 5.0)]
    assert lines.newest == {"step": 10, "loss": 5.0} and lines.step == 10
    assert not lines.left_out and not lines.not_finite


def test_a_half_written_last_line_is_left_out_and_counted():
    lines = read(line(1, loss=2.0) + line(2, loss=3.0)[:-5])
    assert lines.step == 1 and lines.left_out == {"half-written last lines": 1}


def test_what_is_not_finite_is_counted_and_not_drawn():
    content = line(1, loss=math.nan, lr=0.5) + line(2, loss=math.inf) + line(3, loss=1.0)
    lines = read(content)
    assert lines.curves["loss"].points() == [(3, 1.0)] and lines.not_finite == {"loss": 2}
    assert lines.curves["loss"].gaps() == [1, 2]
    assert lines.curves["lr"].points() == [(1, 0.5)] and not lines.left_out
    assert read(line(1, loss=math.nan)).recent("loss") is None
    assert read(line(1, loss=-1e101)).not_finite == {"loss": 1}


@pytest.mark.parametrize(
    "odd",
    [
        b"null",
        b"[]",
        b"x",
        b"\xff\xfe",
        b"{}",
        b'{"step": -1}',
        b'{"step": 1.5}',
        b'{"step": NaN}',
        b'{"step": true}',
        b'{"step": "1"}',
        b'{"step": 1e300}',
        b'{"step": 1, "step": 2, "a": NaN}',
        b"[" * 50_000,
    ],
)
def test_lines_of_no_step_are_counted(odd):
    lines = read(line(1, loss=1.0) + odd + b"\n" + line(2, loss=2.0))
    assert lines.step == 2 and len(lines.curves["loss"].points()) == 2
    assert lines.left_out["lines that are no JSON of a step"] == 1


def test_values_that_are_no_numbers_are_counted():
    lines = read(line(1, loss=1.0, text="<b>", flag=True, none=None, inner={"a": [1]}))
    assert list(lines.curves) == ["loss"] and lines.left_out == {"values that are no number": 4}
    huge = read(b'{"step": 1, "a": 1' + b"0" * 400 + b', "b": "x"}\n')
    assert huge.not_finite == {"a": 1}


def test_epochs_are_kept_and_drawn_in_their_middle():
    lines = read(line(100, epoch=0, steps=100, loss_rec=0.5, other=1.0))
    assert lines.epochs == {0: {"step": 100, "steps": 100, "loss_rec": 0.5}}
    assert lines.curves["loss_rec"].points() == [(50, 0.5)]


def test_what_is_not_kept_is_counted(monkeypatch):
    monkeypatch.setattr(run_lines, "MAX_KEPT", 2)
    content = b"".join(line(step, skipped=1.0, epoch=step, steps=1) for step in range(5))
    lines = read(content)
    assert lines.skipped == [0, 1] and list(lines.epochs) == [0, 1]
    assert sorted(lines.left_out.values()) == [3, 3]
    assert len(lines.curves["skipped"].points()) == 5


def test_skipped_steps_are_found():
    lines = read(line(1, skipped=0.0) + line(2, skipped=1.0) + line(3, skipped=0.0))
    assert lines.skipped == [2]


def test_a_long_line_and_many_names_are_left_out(monkeypatch):
    monkeypatch.setattr(run_lines, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(run_lines, "MAX_NAMES", 3)
    many = line(2, **{f"n{n}": 1.0 for n in range(5)}, **{"x" * 100: 1.0})
    lines = read(line(1, text="x" * 5000) + many)
    assert len(lines.curves) == 3 and lines.newest.keys() == {"step", "n0", "n1", "n2"}
    assert sorted(lines.left_out.values()) == [1, 3]


def test_only_the_end_of_a_huge_file_is_read(monkeypatch):
    monkeypatch.setattr(run_lines, "MAX_BYTES", 1000)
    lines = read(b"".join(line(step, loss=1.0) for step in range(1000)))
    first = lines.curves["loss"].points()[0][0]
    assert lines.step == 999 and first > 900
    [(what, count)] = lines.left_out.items()
    assert what.startswith("bytes before the last") and count >= 20_000


def test_reading_ends_after_many_lines(monkeypatch):
    monkeypatch.setattr(run_lines, "MAX_LINES", 10)
    monkeypatch.setattr(run_lines, "MAX_ODD_LINES", 5)
    lines = read(b"".join(line(step) for step in range(20)))
    assert lines.step == 9 and sum(lines.left_out.values()) == 10 * len(line(10))
    assert read(b"x\n" * 100).left_out == {
        "lines that are no JSON of a step": 5,
        "bytes after too many lines": 190,
    }


@given(st.lists(BYTES | JSON.map(lambda value: json.dumps(value).encode()), max_size=5))
def test_any_content_is_read(parts):
    lines = read(b"\n".join(parts))
    for curve in lines.curves.values():
        assert all(math.isfinite(value) for _, value in curve.points())
