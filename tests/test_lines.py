"""Tests that lines of any content are copied, or counted and left out."""

import json
import tempfile

from hypothesis import given
from hypothesis import strategies as st
from odd_files import BYTES, JSON

from fsvfm_jax.run.lines import copy_lines


@given(st.lists(JSON.map(lambda value: json.dumps(value).encode()) | BYTES, max_size=4))
def test_any_lines_are_copied_or_counted(lines):
    text = b"\n".join(lines)
    with tempfile.TemporaryFile() as given_lines, tempfile.TemporaryFile() as kept:
        given_lines.write(text)
        given_lines.seek(0)
        odd = copy_lines(given_lines, kept, 5)
        kept.seek(0)
        steps = [json.loads(line)["step"] for line in kept.read().splitlines()]
    assert all(0 <= step <= 5 for step in steps) and odd <= text.count(b"\n")
