"""Tests when a run saves, in which order, and how it ends."""

import contextlib
import math
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from fsvfm_jax.errors import Preempted
from fsvfm_jax.run.preemption import StopWaiting
from fsvfm_jax.run.saver import Saver
from fsvfm_jax.train_state import TrainState


def make_saver(*, start: int = 0, total: int = 10, every: int = 4, validate=None, stop=False):
    """Returns a saver whose parts record their calls."""
    did = []

    @contextlib.contextmanager
    def validating(step, *, stoppable):
        did.append(("validate", step, stoppable))
        if stop and stoppable:
            raise StopWaiting
        yield lambda: None

    tracker = SimpleNamespace(
        sync=lambda: did.append("sync"), validation=lambda step, found: did.append(found)
    )
    reports = SimpleNamespace(
        flush=lambda: did.append("report"), take_mean_loss=lambda: 0.5, tracker=tracker
    )
    checkpoints = SimpleNamespace(
        save=lambda state, *, step, samples_seen, score: did.append(
            ("save", step, samples_seen, score)
        ),
        wait=lambda: did.append("wait"),
    )
    guard = SimpleNamespace(
        validating=validating,
        watchdog=SimpleNamespace(rest=lambda: did.append("rest")),
        workdir="DIR",
    )
    saver = Saver.__new__(Saver)
    fields = {"checkpoints": checkpoints, "reports": reports, "guard": guard}
    fields |= {"validate": validate, "start_step": start, "total_steps": total, "every": every}
    for name, value in fields.items():
        setattr(saver, name, value)
    saver.__post_init__()
    return saver, did


def state(step: int) -> TrainState:
    return TrainState(jnp.int32(step), {}, {}, ())


def test_it_saves_every_few_steps_and_at_the_last():
    saver, did = make_saver()
    for step in range(1, 11):
        saver.after(step, state(step), 16 * step)
    saves = [entry for entry in did if entry[0] == "save"]
    assert saves == [("save", step, 16 * step, 0.5) for step in (4, 8, 10)]
    # A step is saved only after its numbers are reported and stored.
    assert did[:4] == ["report", "sync", "rest", ("save", 4, 64, 0.5)]
    saver.finish(state(10), 160)
    assert did[-1] == "rest"


def test_a_stop_saves_what_is_not_saved_yet_without_a_score():
    saver, did = make_saver()
    saver.after(4, state(4), 64)
    with pytest.raises(Preempted, match=r"stopped at step 5 and saved; .* --workdir=DIR goes on"):
        saver.finish(state(5), 80)
    assert did[-3][:3] == ("save", 5, 80) and math.isnan(did[-3][3])
    assert did[-2:] == ["rest", "wait"]


def test_a_stop_right_after_a_save_saves_nothing_twice():
    saver, did = make_saver()
    saver.after(4, state(4), 64)
    with pytest.raises(Preempted, match="stopped at step 4 and saved"):
        saver.finish(state(4), 64)
    assert [entry[1] for entry in did if entry[0] == "save"] == [4] and did[-1] == "wait"


def test_a_stop_before_the_first_step_saves_nothing():
    saver, did = make_saver(start=3)
    with pytest.raises(Preempted, match="before the first step: nothing new was saved"):
        saver.finish(state(3), 48)
    assert did == []


def test_the_validation_loss_is_the_score_and_the_last_step_is_always_validated():
    saver, did = make_saver(validate=lambda params, after_batch: {"val_loss": 0.25}, stop=True)
    saver.after(4, state(4), 64)
    # A signal stops this validation, and the step is saved without a score.
    assert did[-1][:3] == ("save", 4, 64) and math.isnan(did[-1][3])
    saver.after(10, state(10), 160)
    assert did[-3:] == [("validate", 10, False), {"val_loss": 0.25}, ("save", 10, 160, 0.25)]
