"""Tests when each alarm is said, and that healthy, frozen and collapsed runs are told apart."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from etils import epath
from odd_json import CONTENTS

from fsvfm_jax import pretrain
from fsvfm_jax.data.elements import pretraining_element
from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.models import fsvfm, layers
from fsvfm_jax.optim import Schedule, make_schedule
from fsvfm_jax.run import monitor
from fsvfm_jax.run.monitor import Alarm, Monitor, open_monitor

SCHEDULE = Schedule(
    steps_per_epoch=10.0,
    total_steps=1000,
    schedule_epochs=100.0,
    warmup_epochs=2.0,
    peak_learning_rate=1e-3,
    min_learning_rate=0.0,
    teacher_momentum=0.99,
)
HEALTHY = {
    "loss": 1.0,
    "loss_sim": -0.45,
    "loss_sim_constant": -0.40,
    "variance_z": 0.01,
    "teacher_change": 1e-3,
    "skipped": 0.0,
}
COLLAPSED = HEALTHY | {"variance_z": 1e-4, "loss_sim": -0.4990, "loss_sim_constant": -0.4985}


def make_monitor(**changes) -> Monitor:
    options = {"batch_size": 32, "similarity": "simsiam", "checks_collapse": True}
    return Monitor(SCHEDULE, **(options | {"teacher_moves": True} | changes))


def watch(
    watched: Monitor,
    lines: list[dict],
    *,
    first: int = 1,
    seconds: float = 1.0,
    waited: float = 0.0,
) -> list[tuple[int, str]]:
    """Returns the steps and names of the alarms, for steps of so many seconds."""
    return [
        (step, alarm.alarm)
        for step, line in enumerate(lines, start=first)
        for alarm in watched.take(step, line, waited=waited, now=seconds * step)
    ]


# Collapse


def test_a_collapse_is_said_once_with_its_numbers():
    watched = make_monitor()
    assert watch(watched, [HEALTHY] * 40) == []
    found = [
        (step, alarm)
        for step in range(41, 400)
        for alarm in watched.take(step, COLLAPSED, waited=0.0, now=float(step))
    ]
    ((step, alarm),) = found
    assert step == 40 + monitor.SMOOTHED and alarm.alarm == "collapse"
    assert alarm.value < alarm.limit == pytest.approx(0.1 * 0.01)
    for part in ("variance_z is 0.0001, under 10% of its 0.01 at step 0", "--config.resume.step=N"):
        assert part in alarm.message


@pytest.mark.parametrize(
    "line",
    [
        HEALTHY,
        COLLAPSED | {"variance_z": 0.0011},  # above a tenth of 0.01
        COLLAPSED | {"loss_sim": -0.4900},  # 2 % from the constant
    ],
)
def test_one_of_the_two_signs_is_no_collapse(line):
    assert watch(make_monitor(), [HEALTHY] * 20 + [line] * 100) == []


def test_nothing_is_said_before_the_warm_up_has_ended():
    found = watch(make_monitor(), [HEALTHY] + [COLLAPSED] * 100)
    assert found == [(21, "collapse")]


def test_a_collapse_that_comes_back_is_said_again():
    watched = make_monitor()
    lines = [HEALTHY] * 30 + [COLLAPSED] * 30 + [HEALTHY] * 100 + [COLLAPSED] * 30
    assert [name for _, name in watch(watched, lines)] == ["collapse", "collapse"]
    # A sign that is lost for a few steps is no new occurrence.
    lines = [HEALTHY] * 30 + ([COLLAPSED] * 30 + [HEALTHY] * 15) * 5
    assert [name for _, name in watch(make_monitor(), lines)] == ["collapse"]


def test_a_constant_that_approaches_0_has_a_limit_of_its_own():
    byol = {"loss_sim": 4e-4, "loss_sim_constant": 6e-4}
    lines = [HEALTHY] * 30 + [COLLAPSED | byol] * 20
    assert watch(make_monitor(), lines) == []
    assert [name for _, name in watch(make_monitor(similarity="byol"), lines)] == ["collapse"]


def test_the_variance_at_step_0_survives_a_restart(tmp_path):
    config = tiny.tiny_config()
    lines = [{"step": 1, "variance_z": 0.01}, {"step": 2, "variance_z": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    watched = open_monitor(config, SCHEDULE, epath.Path(tmp_path))
    assert watch(watched, [COLLAPSED] * 50, first=300) == [(309, "collapse")]


@pytest.mark.parametrize("content", [*CONTENTS, None, b'{"step": 5, "variance_z": 1.0}\n'])
def test_without_that_value_no_collapse_can_be_found(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    watched = open_monitor(tiny.tiny_config(), SCHEDULE, epath.Path(tmp_path))
    assert watch(watched, [COLLAPSED] * 50, first=300) == []


def test_off_finds_no_collapse_and_a_detector_has_none():
    lines = [HEALTHY] * 30 + [COLLAPSED] * 30
    config = tiny.tiny_config({"monitor.collapse": "off"})
    assert watch(open_monitor(config, SCHEDULE, epath.Path("/none")), lines) == []
    detector = open_monitor(tiny.detection_config(), SCHEDULE, epath.Path("/none"))
    assert watch(detector, [{"loss": 1.0, "skipped": 0.0}] * 200) == []


# Teacher


def test_a_teacher_that_stays_the_same_is_said():
    still = HEALTHY | {"teacher_change": 0.0}
    lines = [HEALTHY] * 30 + [still] * 300
    assert watch(make_monitor(), lines) == [(30 + monitor.STILL_STEPS, "teacher")]
    assert watch(make_monitor(teacher_moves=False), lines) == []
    assert watch(make_monitor(), ([still] * 99 + [HEALTHY]) * 3) == []
    # At the end of the schedule the momentum is 1.
    assert watch(make_monitor(), [still] * 300, first=950) == []


# Loss


def test_a_spike_is_said_once_and_noise_is_not():
    rng = np.random.default_rng(0)
    lines = [HEALTHY | {"loss": 1 + 0.05 * x} for x in rng.normal(size=800).tolist()]
    assert watch(make_monitor(), lines) == []
    spike = [HEALTHY | {"loss": 2.0}] * 3
    assert watch(make_monitor(), lines[:300] + spike + lines[300:]) == [(301, "spike")]


def test_a_falling_loss_and_a_skipped_step_are_no_spikes():
    falling = [HEALTHY | {"loss": 0.7 + math.exp(-step / 30)} for step in range(300)]
    skipped = HEALTHY | {"loss": float("nan"), "skipped": 1.0, "variance_z": float("nan")}
    assert watch(make_monitor(), falling + [skipped] * 3 + falling[-50:]) == []


# Speed and input


def test_half_the_usual_rate_is_said_and_one_long_step_is_not():
    watched = make_monitor()
    times = [1.0] * 301 + [100.0] + [1.0] * 99 + [2.5] * 150 + [1.0] * 100 + [2.5] * 50
    now, found = 0.0, []
    for step, seconds in enumerate(times, start=1):
        now += seconds
        found += [(step, x) for x in watched.take(step, HEALTHY, waited=0.0, now=now)]
    assert [(step, alarm.alarm) for step, alarm in found] == [(451, "speed"), (701, "speed")]
    assert found[0][1].message.startswith("12.8 images/s are under 16, half the usual rate")


def test_input_that_starves_the_devices_is_said():
    found = watch(make_monitor(), [HEALTHY] * 300, waited=0.6)
    assert found == [(1 + monitor.WINDOW, "input")]
    assert watch(make_monitor(), [HEALTHY] * 300, waited=0.4) == []


@pytest.mark.parametrize("place", range(45, 60))
def test_one_stall_of_the_input_is_not_said(place):
    watched, now, found = make_monitor(), 0.0, []
    for step in range(1, 151):
        waited = 60.0 if step == place else 0.0
        now += 1.0 + waited
        found += watched.take(step, HEALTHY, waited=waited, now=now)
    assert found == []


def test_only_the_first_process_reads_the_variance_at_step_0(tmp_path, monkeypatch, caplog):
    """A process that reads another value than the others would end the run alone."""
    config = tiny.tiny_config()
    file = tmp_path / "metrics.jsonl"
    assert open_monitor(config, SCHEDULE, epath.Path(tmp_path))._first_variance is None
    assert caplog.text == ""
    file.write_text('{"step": 1, "variance_z": 0.25}\n')
    assert open_monitor(config, SCHEDULE, epath.Path(tmp_path))._first_variance == 0.25
    for content in ("", '{"step": 2, "variance_z": 0.25}\n', '{"step": 1, "variance_z": NaN}\n'):
        file.write_text(content)
        caplog.clear()
        with caplog.at_level("WARNING", "fsvfm_jax"):
            assert open_monitor(config, SCHEDULE, epath.Path(tmp_path))._first_variance is None
        assert "does not have the variance_z of step 1" in caplog.text
    monkeypatch.setattr(monitor, "open_bytes", None)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert open_monitor(config, SCHEDULE, epath.Path(tmp_path))._first_variance is None


def test_outliers_of_fine_tuning_are_no_alarm():
    rng = np.random.default_rng(0)
    margins = rng.normal(8, 3, (5000, 16))
    losses = np.log1p(np.exp(-margins)).mean(axis=1).tolist()
    watched = Monitor(SCHEDULE, batch_size=16)
    assert watch(watched, [{"loss": loss, "skipped": 0.0} for loss in losses]) == []


# Real runs


@cache
def faces() -> dict[str, np.ndarray]:
    source = SyntheticFaces(160, image_size=16, seed=0)
    rows = [pretraining_element(face, (0, 0), patch_size=4) for face in source.read(range(160))]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


class WithoutPredictor(fsvfm.FSVFM):
    """A student whose q is its own projection, as the teacher's z is."""

    def student(self, images: jax.Array, masks: fsvfm.Masks) -> fsvfm.StudentOutput:
        images, masks = jax.tree.map(jnp.asarray, (images, masks))
        latent = self.encode(images, masks.ids_keep)
        q = self.projector(self.represent(latent, masks))
        self.predictor(q)  # Only so that it has parameters.
        q = layers.normalize(q.astype(jnp.float32))
        return fsvfm.StudentOutput(self.decode(latent, masks).astype(jnp.float32), q, latent)


NETWORK = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 1, "decoder_width": 16}
NETWORK |= {"decoder_depth": 1, "projection_dim": 16, "projection_hidden": 32}
# From 1 of 16 patches and with a large weight, a network without predictor collapses soon.
FIELDS = {
    **{f"model.{name}": value for name, value in NETWORK.items()},
    "batch_size": 32,
    "data.num_samples": 160,
    "epochs": 40,
    "optimizer.warmup_epochs": 2,
    "optimizer.blr": 0.02,
    "loss.weight_sim": 10.0,
    "mask.mask_ratio": 0.94,
}
KINDS = {
    "ema": {},
    "frozen": {"teacher.mode": "frozen"},
    # The teacher is the student of the step before.
    "collapsed": {"teacher.momentum": 0.0},
}


@cache
def compiled(predicts: bool) -> tuple[Callable, Callable]:
    """Returns functions that make the first state and a step, with or without predictor."""
    learner = pretrain.make_learner(tiny.tiny_config(FIELDS), stats=tiny.STATS)
    if not predicts:
        fields = {x.name: getattr(learner.model, x.name) for x in dataclasses.fields(learner.model)}
        model = WithoutPredictor(**(fields | {"parent": None}))
        learner = dataclasses.replace(learner, model=model)
    step = jax.jit(partial(learner.train_step, accum_steps=1), donate_argnums=0)
    return jax.jit(learner.init), step


def alarms_of(kind: str, *, seed: int, steps: int) -> Iterator[tuple[int, Alarm]]:
    """Trains, and yields the alarms; every step takes a second."""
    config = tiny.tiny_config(FIELDS | KINDS[kind])
    schedule = make_schedule(config, 160)
    watched = open_monitor(config, schedule, epath.Path("/none"))
    init, train_step = compiled(kind != "collapsed")
    state, draw = init(jax.random.key(seed)), np.random.default_rng(seed)
    for step in range(1, steps + 1):
        rows = draw.choice(160, 32, replace=False)
        batch = {name: x[rows] for name, x in faces().items()}
        state, metrics = train_step(state, batch, schedule.values(step))
        numbers = {name: float(x) for name, x in jax.device_get(metrics).items()}
        for alarm in watched.take(step, numbers, waited=0.0, now=float(step)):
            yield step, alarm


@pytest.mark.e2e
def test_a_collapsed_run_is_flagged_within_200_steps():
    step, alarm = next(alarms_of("collapsed", seed=0, steps=200))
    assert alarm.alarm == "collapse" and step <= 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "frozen"])
def test_a_healthy_and_a_frozen_run_are_not_flagged(kind):
    assert list(alarms_of(kind, seed=0, steps=60)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "frozen"])
@pytest.mark.parametrize("seed", range(10))
def test_ten_seeds_are_never_flagged(seed, kind):
    assert list(alarms_of(kind, seed=seed, steps=200)) == []
