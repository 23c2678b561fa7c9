"""Tests that TensorBoard reads the event files, which are complete after every flush."""

import numpy as np
import pytest
from event_files import read_events
from tensorboardX.proto import event_pb2

from fsvfm_jax.run.tensorboard import Events


def test_a_file_begins_with_its_version_and_hides_later_steps_of_others(tmp_path):
    Events(tmp_path / "tensorboard", start_step=7).close()
    version, start = read_events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert start.session_log.status == event_pb2.SessionLog.START and start.step == 8


def test_numbers_of_a_step_are_one_event_and_are_there_after_a_flush(tmp_path):
    events = Events(tmp_path / "tensorboard", start_step=0)
    events.scalars(3, {"a/b": 1.5, "c": float("nan")})
    events.flush()
    event = list(read_events(tmp_path))[-1]
    events.close()
    assert event.step == 3 and event.wall_time > 1e9
    assert [value.tag for value in event.summary.value] == ["a/b", "c"]
    assert event.summary.value[0].simple_value == 1.5
    assert np.isnan(event.summary.value[1].simple_value)


def test_an_error_is_the_callers(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Events(tmp_path / "file", start_step=0)
