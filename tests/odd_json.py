"""Lists JSON texts that do not fit a schema, for tests of readers."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

# Complete contents of files that are not a JSON object of any schema.
CONTENTS = (
    b"",
    b"null",
    b"[]",
    b"3",
    b'"text"',
    b"{}",
    b"{",
    b"\xff\xfe",
    b'{"a": "\xff"}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 5000,
    b"\x80\x04cos\nsystem\n",
)
VALUES = (
    *(None, True, -1, 0, 7, 2**31, 2**63, 10**30, -0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "²", "\0", "../../x", "/etc/passwd", "<b>|\n---", "9" * 300),
    *([], [[]], [None], [1, 2, 3], {}, {"": None}, {"x": {"x": []}}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Returns the path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


@st.composite
def changed(draw: st.DrawFn, value: Any, changes: int = 2) -> Any:
    """Returns the JSON value with some of its values replaced by odd values, or removed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, changes))):
        *path, last = draw(st.sampled_from(list(places(value))))
        inner = value
        for key in path:
            inner = inner[key]
        if draw(st.integers(0, 4)) == 0:
            del inner[last]
        else:
            inner[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        if not value:
            break
    return value
