"""Reads the lines of numbers that a run writes, in bounded time and memory, thinned for drawing.

A run may be writing the file, or may have been killed while it did. What is not read is counted.
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, TypedDict

import msgspec

from fsvfm_jax.host.json_files import parse_json
from fsvfm_jax.run.lines import LINES, MAX_LINE_BYTES

*NUMBERS, ALARMS = LINES
MAX_BYTES = 2**30  # A run of a million logged steps has half of this.
MAX_LINES = 2_000_000
MAX_ODD_LINES = 100_000
MAX_NAMES = 100
MAX_NAME = 80  # characters
MAX_VALUE = 1e100  # No number of a run is larger, and a browser can draw up to here.
MAX_INTERVALS = 800
MAX_KEPT = 10_000  # epochs, alarms, and skipped steps
_MAX_STEP = 2**53  # JavaScript has no larger whole numbers.
OF_EPOCHS = ("step", "steps", "skipped", "loss_rec", "loss_region")
_FAST = msgspec.json.Decoder(dict[str, float])

_TORN = "half-written last lines"
_MANY = f"numbers with more than {MAX_NAMES} names, or with a name of over {MAX_NAME} characters"
_REST = "bytes after too many lines"
_ODD = "lines that are no JSON of a step"
_LONG = f"lines of over {MAX_LINE_BYTES:,} bytes"
_NO_NUMBER = "values that are no number"


class Alarm(TypedDict):
    """The part of a line of alarms.jsonl that the page shows."""

    step: Annotated[int, msgspec.Meta(ge=0, le=_MAX_STEP)]
    alarm: str
    message: str


class Thinned:
    """The points of a curve; each interval of steps keeps its lowest and its highest point.

    It also keeps the first step of each interval that has no finite value, where a line has a gap.

    At most `MAX_INTERVALS` intervals are kept. When there are more, all become twice as wide.
    """

    def __init__(self) -> None:
        self.count = 0  # finite points that were added
        self.width = 1  # steps of an interval
        self._intervals: dict[int, list[tuple[float, int]]] = {}  # lowest and highest
        self._gaps: dict[int, int] = {}  # steps
        self._newest: tuple[float, int] | None = None

    def add(self, step: int, value: float) -> None:
        """Adds a point; one that is not finite or above `MAX_VALUE` is a gap."""
        if not abs(value) <= MAX_VALUE:
            self._gaps.setdefault(step // self.width, step)
            self._widen()
            return
        self.count += 1
        self._newest = point = (value, step)
        place = step // self.width
        ends = self._intervals.get(place)
        if ends is None:
            self._intervals[place] = [point, point]
            self._widen()
        elif point < ends[0]:
            ends[0] = point
        elif point > ends[1]:
            ends[1] = point

    def points(self) -> list[tuple[int, float]]:
        """Returns step and value of the points that are kept and of the newest, by step."""
        kept = {point for ends in self._intervals.values() for point in ends}
        if self._newest is not None:
            kept.add(self._newest)
        return sorted((step, value) for value, step in kept)

    def gaps(self) -> list[int]:
        """Returns the steps of the gaps that are kept, in order."""
        return sorted(self._gaps.values())

    def _widen(self) -> None:
        """Makes the intervals twice as wide until there are few enough."""
        while max(len(self._intervals), len(self._gaps)) > MAX_INTERVALS:
            self.width *= 2
            wider: dict[int, list[tuple[float, int]]] = {}
            for place, (low, high) in self._intervals.items():
                ends = wider.setdefault(place // 2, [low, high])
                ends[:] = min(ends[0], low), max(ends[1], high)
            self._intervals = wider
            steps: dict[int, int] = {}
            for place, step in self._gaps.items():
                steps[place // 2] = min(step, steps.get(place // 2, step))
            self._gaps = steps


class Lines:
    """The content of one file of lines.

    Attributes:
        curves: The values by name.
        newest: The values of the newest line by name, `step` among them; empty without lines.
        epochs: Of lines that describe an epoch, the values of `OF_EPOCHS` by its number.
        skipped: Steps whose line has `skipped` above 0.
        not_finite: Number of values by name that are NaN, infinite or above `MAX_VALUE`.
        left_out: Number of things that are left out, by what they are.
    """

    def __init__(self) -> None:
        self.curves: dict[str, Thinned] = {}
        self.newest: dict[str, float] = {}
        self.epochs: dict[int, dict[str, float]] = {}
        self.skipped: list[int] = []
        self.not_finite: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    @property
    def step(self) -> int:
        """The step of the newest line; 0 without lines."""
        return int(self.newest.get("step", 0))

    def recent(self, name: str) -> float | None:
        """Returns a number of the newest line, or None if it has none or it is not drawn."""
        value = self.newest.get(name, math.nan)
        return value if abs(value) <= MAX_VALUE else None

    def take(self, record: dict[str, float]) -> None:
        """Adds the values of a line."""
        step = int(record["step"])
        if record.get("skipped", 0) > 0:
            if len(self.skipped) < MAX_KEPT:
                self.skipped.append(step)
            else:
                self.left_out[f"marks of skipped steps after the first {MAX_KEPT:,}"] += 1
        epoch, place = record.get("epoch", math.nan), step
        if math.isfinite(record.get("steps", math.nan)) and 0 <= epoch < math.inf:
            if epoch < MAX_KEPT:
                self.epochs[int(epoch)] = {x: record[x] for x in OF_EPOCHS if x in record}
            else:
                self.left_out[f"skipped steps of epochs from {MAX_KEPT:,} on, in lines"] += 1
            # A mean belongs to the middle of its steps.
            place = step - int(min(max(record["steps"], 0), step)) // 2
        self.newest = {"step": record["step"]}
        for name, value in record.items():
            curve = self._curve(name) if name != "step" else None
            if curve is None:
                continue
            self.newest[name] = value
            curve.add(place, value)
            if not abs(value) <= MAX_VALUE:
                self.not_finite[name] += 1

    def _curve(self, name: str) -> Thinned | None:
        curve = self.curves.get(name)
        if curve is None and len(self.curves) < MAX_NAMES and len(name) <= MAX_NAME:
            curve = self.curves[name] = Thinned()
        if curve is None:
            self.left_out[_MANY] += 1
        return curve


def read_lines(opened: BinaryIO, size: int) -> Lines:
    """Returns the content of a file of lines, which may grow while it is read.

    Args:
        opened: The file, at its beginning.
        size: Its number of bytes.

    Raises:
        OSError: The file cannot be read.
    """
    lines = Lines()
    _go_to_the_end(opened, size, lines.left_out)
    for line in _whole_lines(opened, lines.left_out):
        record = _parse(line, lines.left_out)
        if record is not None:
            lines.take(record)
    return lines


def read_alarms(opened: BinaryIO, size: int) -> tuple[list[Alarm], Counter[str]]:
    """Returns the alarms of a run, and how much is left out.

    Args:
        opened: The file of alarms, at its beginning.
        size: Its number of bytes.

    Raises:
        OSError: The file cannot be read.
    """
    alarms, left_out = [], Counter()
    _go_to_the_end(opened, size, left_out)
    for line in _whole_lines(opened, left_out):
        try:
            alarms.append(parse_json(line, Alarm))
        except ValueError:
            left_out[_ODD] += 1
    left_out[f"alarms before the last {MAX_KEPT:,}"] = max(len(alarms) - MAX_KEPT, 0)
    return alarms[-MAX_KEPT:], left_out


def _go_to_the_end(opened: BinaryIO, size: int, left_out: Counter[str]) -> None:
    """Goes to the last `MAX_BYTES` of a file that has more."""
    if size > MAX_BYTES:
        opened.seek(size - MAX_BYTES)
        _rest_of_line(opened)
        left_out[f"bytes before the last {MAX_BYTES:,}"] = opened.tell()


def _whole_lines(opened: BinaryIO, left_out: Counter[str]) -> Iterator[bytes]:
    """Yields the whole lines of a file, until there are too many or too many odd ones."""
    for _ in range(MAX_LINES):
        line = opened.readline(MAX_LINE_BYTES)
        if not line:
            return
        if line.endswith(b"\n"):
            yield line
            if left_out[_ODD] >= MAX_ODD_LINES:
                break
        else:
            left_out[_LONG if len(line) == MAX_LINE_BYTES else _TORN] += 1
            _rest_of_line(opened)
    rest = 0
    while part := opened.read(MAX_LINE_BYTES):
        rest += len(part)
    if rest:
        left_out[_REST] = rest


def _rest_of_line(opened: BinaryIO) -> None:
    while (part := opened.readline(MAX_LINE_BYTES)) and not part.endswith(b"\n"):
        pass


def _parse(line: bytes, left_out: Counter[str]) -> dict[str, float] | None:
    try:
        record = _FAST.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # It may have NaN.
        record = _numbers(line, left_out)
    step = record.get("step", math.nan)
    if not (0 <= step <= _MAX_STEP and step == int(step)):
        left_out[_ODD] += 1
        return None
    return record


def _numbers(line: bytes, left_out: Counter[str]) -> dict[str, float]:
    try:
        found = parse_json(line, dict[str, Any])
    except ValueError:
        return {}
    numbers = {}
    for name, value in found.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                numbers[name] = float(value)
            except OverflowError:
                numbers[name] = math.inf
        else:
            left_out[_NO_NUMBER] += 1
    return numbers
