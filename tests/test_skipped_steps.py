"""Tests that steps that are not finite change nothing, and that too many end the run."""

import json
import math
from functools import partial

import jax
import numpy as np
import pytest
from etils import epath
from tiny import TINY, compiled_step, read_metrics, restore, run, tiny_config, without_rate

from fsvfm_jax.data.elements import pretraining_element
from fsvfm_jax.data.pipeline import make_iterator
from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.devices import compilation, sharding
from fsvfm_jax.errors import NotFiniteError
from fsvfm_jax.run.skipped_steps import SkippedSteps
from fsvfm_jax.train_state import StepValues

SHORT = {"epochs": 4, "schedule_epochs": 8, "checkpoint.every": 5, "max_skipped_steps": 2}
FINITE = {"loss": 1.0, "grad_norm": 2.0, "param_norm": 3.0, "skipped": 0.0}
SKIPPED = FINITE | {"loss": math.nan, "skipped": 1.0}


@pytest.mark.e2e
def test_a_skipped_step_changes_nothing_but_its_number():
    step, task, mesh = compiled_step(tiny_config())
    template = compilation.state_template(task, mesh)
    source = SyntheticFaces(40, image_size=32, seed=0)
    batches = make_iterator(
        source, global_batch_size=16, element=partial(pretraining_element, patch_size=8), seed=0
    )
    batch = sharding.put_batch(next(batches), mesh)
    batches.close()
    before = jax.device_get(compilation.fresh_state(task, template, seed=0))
    for fault in (np.nan, np.inf, -np.inf, 1.0):
        state = jax.device_put(before, sharding.shardings_of(template))
        values = StepValues(np.float32(1e-3), np.float32(0.01), np.float32(fault))
        state, metrics = step(state, batch, values)
        assert float(metrics["skipped"]) == (fault != 1.0)
        assert int(state.step) == 1 and np.isfinite(float(metrics["param_norm"]))
        same = [
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(before[1:]), jax.tree.leaves(state[1:]), strict=True)
        ]
        assert all(same) == (fault != 1.0)


@pytest.mark.slow  # the test below skips as many
def test_training_goes_on_after_as_many_as_are_accepted(tmp_path, ask):
    ask("step:3:nan,step:4:nan,step:6:nan")
    run(tmp_path, SHORT)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if math.isnan(line["loss"])] == [3, 4, 6]
    assert [line["step"] for line in lines if line["skipped"]] == [3, 4, 6]
    epochs = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["loss"]) for line in epochs)
    state = restore(tmp_path, tiny_config()).state
    assert int(state.step) == 10
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.slow  # test_train.py ends a run that is not finite
def test_one_more_ends_the_run_and_nothing_of_it_is_saved(tmp_path, ask):
    ask("step:4:nan,step:5:nan,step:6:nan")
    with pytest.raises(NotFiniteError, match=r"3 steps in a row, the last 6, .* = 2 are accepted"):
        run(tmp_path, SHORT)
    saved = restore(tmp_path, tiny_config())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved.state))
    assert int(saved.state.step) == 5
    dump = json.loads((tmp_path / "not_finite.json").read_text())
    assert [record["step"] for record in dump] == [4, 5, 6]
    assert [record["first_sample"] for record in dump] == [48, 64, 80]
    assert all(math.isnan(record["loss"]) for record in dump)
    faces = [name for record in dump for name in record["faces"]]
    assert len(faces) == 48 and faces[0].startswith("synthetic face ")
    # Without the cause, the run continues and ends like a run that has skipped two steps.
    ask("")
    run(tmp_path, SHORT)
    other = tmp_path / "other"
    ask("step:4:nan,step:5:nan")
    run(other, SHORT)
    np.testing.assert_equal(without_rate(read_metrics(tmp_path)), without_rate(read_metrics(other)))


def test_the_count_begins_anew_after_a_finite_step():
    skipped = SkippedSteps(None, limit=1)
    for step in range(1, 9):
        skipped.take(step, SKIPPED if step % 2 else FINITE, describe=dict)
    skipped.take(9, SKIPPED, describe=dict)
    with pytest.raises(NotFiniteError, match="2 steps in a row, the last 10"):
        skipped.take(10, SKIPPED, describe=dict)


def test_parameters_that_are_not_finite_end_the_run_at_once():
    skipped = SkippedSteps(None, limit=9)
    with pytest.raises(NotFiniteError, match="the parameters are not finite at step 7"):
        skipped.take(7, FINITE | {"param_norm": math.inf}, describe=dict)


@pytest.mark.e2e
def test_none_is_accepted_where_none_is_wanted(tmp_path, ask):
    ask("step:2:nan")
    with pytest.raises(NotFiniteError, match="1 steps in a row"):
        run(tmp_path, SHORT | {"max_skipped_steps": 0})
    assert TINY["batch_size"] == len(
        json.loads((tmp_path / "not_finite.json").read_text())[0]["faces"]
    )


def test_the_run_ends_as_not_finite_where_the_list_cannot_be_written(tmp_path, caplog):
    (tmp_path / "not_finite.json" / "folder").mkdir(parents=True)
    skipped = SkippedSteps(epath.Path(tmp_path), limit=0)
    with pytest.raises(NotFiniteError, match=r"are accepted\. Nothing of them is saved"):
        skipped.take(1, SKIPPED, describe=dict)
    assert "not_finite.json cannot be written" in caplog.text
