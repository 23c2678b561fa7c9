"""Tests the comparison of two detectors on the same videos."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_sets import BY_HAND, scored

from fsvfm_jax.errors import DataError
from fsvfm_jax.report import paired
from fsvfm_jax.report.bootstrap import bootstrap_interval, bootstrap_values
from fsvfm_jax.report.metrics import auc, video_means
from fsvfm_jax.report.paired import (
    MEASURES,
    Pair,
    check_same,
    difference_rows,
    p_value,
    verdict_row,
    verdicts,
)

NAMES = ("A", "B")


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    """Takes 99 draws in place of 1,000."""

    def values(*args, **options):
        return bootstrap_values(*args, draws=99, **options)

    monkeypatch.setattr(paired, "bootstrap_values", values)


def pair(first, second, names=NAMES):
    return Pair(names, scored("x", first), scored("x", second))


def many(shift, *, seed=0, videos=60):
    """Returns the scores of two frames of each video; the classes are `shift` apart."""
    rng = np.random.default_rng(seed)
    made = {}
    for number in range(videos):
        label = "fr"[number % 2]
        middle = rng.normal(shift * (label == "f"))
        made[f"{label}{number:03d}"] = tuple(1 / (1 + np.exp(-rng.normal(middle, 0.1, 2))))
    return made


def test_a_detector_does_not_differ_from_itself():
    for row in difference_rows(pair(BY_HAND, BY_HAND)):
        assert row["difference"] == 0 and row["difference_interval"] == [0, 0]
        assert row["p_value"] == 1 and row["note"].startswith("not decided: fewer")
        assert row["value@A"] == row["value@B"]
    (row, *_) = difference_rows(pair(many(1.0), many(1.0)))
    assert row["note"] == "not decided: the interval contains 0"


@pytest.mark.parametrize(("videos", "note"), [(38, "not decided: fewer"), (40, "B is better")])
def test_nothing_is_decided_with_few_videos(videos, note):
    (row, *_) = difference_rows(pair(many(-4.0, videos=videos), many(4.0, videos=videos)))
    assert row["note"].startswith(note)


def test_the_better_one_is_named_also_where_lower_is_better():
    for names, first, second, better in (
        (NAMES, many(0.2), many(4.0), "B"),
        (NAMES, many(4.0), many(0.2), "A"),
    ):
        rows = {row["measure"]: row for row in difference_rows(pair(first, second, names))}
        assert list(rows) == [measure.name for measure in MEASURES]
        assert {row["note"] for row in rows.values()} == {f"{better} is better"}
        assert all(row["p_value"] == 2 / 100 for row in rows.values())
        assert (rows["EER"]["difference"] > 0) == (rows["AP"]["difference"] < 0)
        for row in rows.values():
            low, high = row["difference_interval"]
            assert low <= row["difference"] <= high
            assert row["difference"] == row["value@B"] - row["value@A"]


def test_both_detectors_have_the_same_draws():
    """If one is the other with a constant change, the interval of the difference is that change."""
    first = many(1.0)
    second = {video: tuple(0.5 * p for p in frames) for video, frames in first.items()}
    for row in difference_rows(pair(first, second)):
        assert row["difference_interval"] == pytest.approx([0, 0], abs=1e-12)
    columns = video_means(*(pair(first, first).first[i] for i in (4, 3, 2)))
    assert len(columns.videos) == 60
    interval = bootstrap_interval(auc, columns.scores, columns.positive, columns.videos, seed=0)
    assert interval.high - interval.low > 0.1  # Each alone is far less certain.


def test_a_p_value_of_differences_that_mean_nothing_is_even():
    rng = np.random.default_rng(0)
    found = [p_value(rng.normal(rng.normal(), 1, 1000)) for _ in range(2000)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.015)
    assert p_value(np.array([1.0, 2.0, 3.0])) == 0.5 and p_value(np.zeros(9)) == 1.0


def test_each_detector_decides_at_its_own_threshold():
    first = {"f0": (0.9,), "f1": (0.4,), "r0": (0.1,), "r1": (0.2,)}
    second = {"f0": (0.09,), "f1": (0.01,), "r0": (0.03,), "r1": (0.02,)}
    found = verdicts(pair(first, second))
    assert found.thresholds[0] == pytest.approx(0.3) and 0.02 <= found.thresholds[1] <= 0.03
    row = verdict_row(pair(first, second), found)
    assert row["only_right@A"] + row["only_right@B"] == row["disagree"] == found.disagree().sum()
    assert row["only_right@B"] == 0 and row["videos"] == 4
    assert row["both_right"] + row["both_wrong"] + row["disagree"] == 4


@given(st.integers(0, 10_000))
def test_the_numbers_of_videos_add_up(seed):
    made = pair(many(1.0, seed=seed, videos=8), many(1.0, seed=seed + 1, videos=8))
    row = verdict_row(made, verdicts(made))
    assert row["both_right"] + row["both_wrong"] + row["disagree"] == row["videos"] == 8
    assert row["disagree"] == row["only_right@A"] + row["only_right@B"]


def test_faces_of_one_only_are_counted_and_refused():
    check_same(pair(BY_HAND, dict(reversed(BY_HAND.items()))))
    less = {video: frames for video, frames in BY_HAND.items() if video != "f2"}
    with pytest.raises(DataError) as error:
        check_same(pair(BY_HAND, less))
    assert "2 of 10 faces only in A, such as 'f2/f2_frame_0.png' and 0 of 8 faces only in B" in str(
        error.value
    )
    with pytest.raises(DataError, match=r"1 of 10 faces only in A, such as 'f0/f0_frame_1\.png'"):
        check_same(pair(BY_HAND, BY_HAND | {"f0": (0.9,)}))
    turned = pair(BY_HAND, BY_HAND)
    turned = turned._replace(second=turned.second._replace(fake=~turned.second.fake))
    with pytest.raises(DataError, match="5 of 5 common videos have another label in A than in B"):
        check_same(turned)


def test_the_folder_of_a_set_may_differ():
    moved = pair(BY_HAND, BY_HAND)
    files = np.array([f"/elsewhere/{x}" for x in moved.second.files])
    check_same(moved._replace(second=moved.second._replace(files=files)))
