"""Tests several sequences as one: every index is mapped, and each part is read once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.data.parts import Parts


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), st.data())
def test_what_is_read_is_what_a_list_has(sizes, data):
    parts = Parts(sizes)
    whole = [(number, place) for number, size in enumerate(sizes) for place in range(size)]
    assert len(parts) == len(whole)
    assert [parts.locate(index) for index in range(len(whole))] == whole
    indices = data.draw(st.lists(st.integers(-len(whole), len(whole) - 1), max_size=12))
    asked = []

    def read(number, places):
        asked.append(number)
        return [(number, place) for place in places]

    assert parts.read(indices, read) == [whole[index] for index in indices]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("index", [3, -4])
def test_beyond_the_ends_is_an_error(index):
    with pytest.raises(IndexError):
        Parts([1, 2]).locate(index)
