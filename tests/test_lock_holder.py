"""Tests the content of a lock's file, which may be anything."""

import json
import os

from hypothesis import given
from odd_files import BYTES, JSON

from fsvfm_jax.run import lock_holder


def test_a_lock_that_this_process_writes_is_held_by_it():
    holder = lock_holder.parse_holder(lock_holder.record("mine"), 2e9)
    assert (holder.token, holder.pid) == ("mine", os.getpid())
    assert lock_holder.why_gone(holder) == ""


@given(JSON.map(lambda value: json.dumps(value).encode()) | BYTES)
def test_no_content_is_more_than_a_holder(content):
    holder = lock_holder.parse_holder(content, 1000.0)
    assert holder.renewed <= 1000 + lock_holder.CLOCKS_APART
    lock_holder.why_gone(holder)
    assert len(holder.name) < 300
