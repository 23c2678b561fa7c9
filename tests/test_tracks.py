"""Tests that people are followed by the overlap of their faces' boxes."""

from fsvfm_jax.predict.tracks import MAX_MISSED, follow, overlap
from fsvfm_jax.prepare.crops import Box


def square(left: float, top: float = 100, side: int = 60) -> Box:
    """Returns a square box."""
    return Box(round(left), round(top), round(left) + side, round(top) + side)


def test_overlap_is_intersection_over_union() -> None:
    assert overlap(Box(0, 0, 10, 10), Box(0, 0, 10, 10)) == 1
    assert overlap(Box(0, 0, 10, 10), Box(5, 0, 15, 10)) == 50 / 150
    assert overlap(Box(0, 0, 10, 10), Box(10, 0, 20, 10)) == 0
    assert overlap(Box(0, 0, 0, 0), Box(0, 0, 0, 0)) == 0


def test_one_person_is_one_track() -> None:
    assert follow([[square(10 * step)] for step in range(20)]) == [[0]] * 20
    assert follow([]) == [] and follow([[], []]) == [[], []]


def test_two_people_stay_apart_in_any_order_of_their_boxes() -> None:
    frames = [[square(0), square(300)], [square(305), square(5)], [square(10), square(310)]]
    assert follow(frames) == [[0, 1], [1, 0], [0, 1]]


def test_two_people_who_cross_keep_their_numbers() -> None:
    """Each walks through the other at 20 pixels a frame; in the middle the boxes are equal."""
    frames = [[square(20 * step), square(400 - 20 * step)] for step in range(21)]
    assert frames[10][0] == frames[10][1]
    numbers = follow(frames)
    assert all(one == [0, 1] for one in numbers[:10] + numbers[11:])
    assert sorted(numbers[10]) == [0, 1]


def test_two_people_who_cross_while_one_hides_the_other() -> None:
    frames = [[square(20 * step), square(400 - 20 * step)] for step in range(21)]
    for step in (9, 10, 11):
        del frames[step][1]
    numbers = follow(frames)
    assert all(one == [0, 1] for one in numbers[:9] + numbers[12:])
    assert numbers[9:12] == [[0]] * 3


def test_one_person_leaves_and_the_other_stays() -> None:
    frames = [[square(0), square(300)]] * 3 + [[square(0)]] * 10
    assert follow(frames) == [[0, 1]] * 3 + [[0]] * 10
    frames = [[square(0), square(300)]] * 3 + [[square(300)]] * 10
    assert follow(frames) == [[0, 1]] * 3 + [[1]] * 10


def test_a_person_who_is_missed_for_a_while_is_the_same() -> None:
    for missed, last in ((MAX_MISSED, 0), (MAX_MISSED + 1, 1)):
        frames = [[square(0)], *[[]] * missed, [square(3)]]
        assert follow(frames)[-1] == [last]


def test_a_person_who_stops_suddenly_is_the_same() -> None:
    frames = [[square(40 * min(step, 5))] for step in range(10)]
    assert follow(frames) == [[0]] * 10


def test_a_box_without_overlap_is_another_person() -> None:
    assert follow([[square(0)], [square(200)], [square(0)]]) == [[0], [1], [0]]
