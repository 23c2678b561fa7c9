"""Follows people through the frames of a video by the overlap of their faces' boxes.

It compares boxes and not faces. A person who comes back after a while is another one here, and
whoever takes a person's place between two frames, such as after a cut, is the same one.
"""

from collections.abc import Sequence

from fsvfm_jax.prepare.crops import Box

MIN_OVERLAP = 0.1  # intersection over union of two boxes of one person
# A person who is missed in more than this number of frames in a row is not looked for any more.
MAX_MISSED = 5

Edge = float | int
Place = tuple[Edge, Edge, Edge, Edge]  # the edges of a box, as in `Box`


class _Track:
    """The last two places of a person.

    Args:
        number: Number of the person.
        step: Position of the frame in the sequence of frames.
        box: Place in that frame.
    """

    def __init__(self, number: int, step: int, box: Box):
        self.number, self.step, self.box = number, step, box
        self._motion = (0.0, 0.0)  # pixels per step, to the right and down

    def expected(self, step: int) -> Place:
        """Returns the place in a frame if the motion stays the same."""
        right, down = ((step - self.step) * x for x in self._motion)
        left, top, right_edge, bottom = self.box
        return left + right, top + down, right_edge + right, bottom + down

    def move(self, step: int, box: Box) -> None:
        """Sets the place in a later frame."""
        steps = step - self.step
        (x, y), (new_x, new_y) = _middle(self.box), _middle(box)
        self._motion = ((new_x - x) / steps, (new_y - y) / steps)
        self.step, self.box = step, box


def follow(frames: Sequence[Sequence[Box]]) -> list[list[int]]:
    """Returns the number of the person for every box; numbers begin with 0 in order of appearance.

    In each frame, first the boxes are matched that overlap most with the place where a person is
    expected if the motion continues, so people may cross; then those that overlap with the last
    place of a person. A box without a match is a new person.

    Args:
        frames: The boxes in each frame, in the order of the frames.
    """
    tracks: list[_Track] = []
    count, result = 0, []
    for step, boxes in enumerate(frames):
        tracks = [track for track in tracks if step - track.step <= MAX_MISSED + 1]
        owners: dict[int, _Track] = {}
        for places in ([x.expected(step) for x in tracks], [x.box for x in tracks]):
            for track, index in _matches(places, boxes):
                if index not in owners and tracks[track] not in owners.values():
                    owners[index] = tracks[track]
        for index, box in enumerate(boxes):
            if index in owners:
                owners[index].move(step, box)
            else:
                owners[index] = _Track(count, step, box)
                tracks.append(owners[index])
                count += 1
        result.append([owners[index].number for index in range(len(boxes))])
    return result


def overlap(one: Place, other: Place) -> float:
    """Returns the area that two boxes share, divided by the area that they cover together."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(one) + _area(other) - shared)


def _matches(places: Sequence[Place], boxes: Sequence[Box]) -> list[tuple[int, int]]:
    """Returns pairs of indices of places and boxes that overlap enough, the best ones first."""
    overlaps = {
        (track, index): overlap(place, box)
        for track, place in enumerate(places)
        for index, box in enumerate(boxes)
    }
    pairs = [pair for pair, part in overlaps.items() if part >= MIN_OVERLAP]
    return sorted(pairs, key=lambda pair: -overlaps[pair])


def _area(place: Place) -> Edge:
    return (place[2] - place[0]) * (place[3] - place[1])


def _middle(place: Place) -> tuple[float, float]:
    return (place[0] + place[2]) / 2, (place[1] + place[3]) / 2
