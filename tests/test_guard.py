"""Tests the guard of a run: the workdir's lock, waiting for a batch, limits of a validation."""

import itertools
import signal

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from fsvfm_jax.errors import DataError, StorageError
from fsvfm_jax.run.guard import Guard
from fsvfm_jax.run.lock import LOCK_FILE, RunLock
from fsvfm_jax.run.preemption import StopWaiting

LIMITS = ConfigDict({"start_seconds": 900.0, "step_seconds": 900.0})


@pytest.fixture
def workdir(tmp_path) -> epath.Path:
    return epath.Path(tmp_path) / "run"


def rows():
    return ({"image": np.zeros(step)} for step in itertools.count(1))


def test_the_workdir_is_locked_while_the_guard_is_entered(workdir):
    with Guard(workdir, LIMITS):
        assert (workdir / LOCK_FILE).exists()
        with pytest.raises(StorageError, match="is in use by process"), RunLock(workdir):
            pass
    assert not (workdir / LOCK_FILE).exists()


def test_a_failure_before_the_first_step_removes_the_workdir_and_none_after_it(workdir):
    with pytest.raises(DataError), Guard(workdir, LIMITS):
        (workdir / "config.json").write_text("{}")
        raise DataError("no")
    assert not workdir.exists()
    with pytest.raises(DataError), Guard(workdir, LIMITS) as guard:
        (workdir / "config.json").write_text("{}")
        guard.after_step(1)
        raise DataError("no")
    assert [path.name for path in workdir.iterdir()] == ["config.json"]


def test_a_signal_ends_the_wait_for_a_batch(workdir, ask):
    with Guard(workdir, LIMITS) as guard:
        guard.limit_start()
        guard.begin_steps()
        batches = rows()
        assert len(guard.next(batches, 1)["image"]) == 1 and guard.waited >= 0
        assert not guard.stop_requested()
        ask("data:2:term,data:3:sleep")
        assert guard.next(batches, 2) is None
        # A later wait ends at once.
        assert guard.next(batches, 3) is None and guard.stop_requested()


@pytest.mark.parametrize("stoppable", [True, False])
def test_a_signal_stops_a_validation_only_where_it_may(workdir, stoppable):
    def validate(guard: Guard) -> int:
        with guard.validating(5, stoppable=stoppable) as after_batch:
            after_batch()
            signal.raise_signal(signal.SIGTERM)
            after_batch()
        return 1

    with Guard(workdir, LIMITS) as guard:
        guard.limit_start()
        guard.begin_steps()
        if stoppable:
            with pytest.raises(StopWaiting):
                validate(guard)
        else:
            assert validate(guard) == 1
        assert guard.stop_requested()
        assert not guard.watchdog._armed


def test_each_part_has_its_limit(workdir):
    def armed(guard: Guard) -> list[str]:
        return [limit.what for limit in guard.watchdog._armed.values()]

    with Guard(workdir, LIMITS) as guard:
        assert armed(guard) == []
        guard.limit_start()
        assert armed(guard) == ["the start (config.watchdog.start_seconds)"]
        guard.limit_step(2)
        assert armed(guard) == ["step 2 (config.watchdog.step_seconds)"]
        with guard.validating(2, stoppable=True) as after_batch:
            assert armed(guard) == ["the validation's first batch (config.watchdog.start_seconds)"]
            after_batch()
            assert armed(guard) == ["a batch of the validation (config.watchdog.step_seconds)"]
        assert armed(guard) == []
