"""A network of two narrow blocks, the configs that train it, and runs of it in this process."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from configs import transfer, vit_s
from configs.compare import rendered
from fsvfm_jax import pretrain, train
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import compilation, sharding
from fsvfm_jax.learners import make_learner
from fsvfm_jax.run import pictures
from fsvfm_jax.run.checkpoint import Checkpoints, Restored
from fsvfm_jax.tasks import TASKS
from fsvfm_jax.train_state import Learner, TrainState

ENCODER = {"image_size": 32, "width": 32, "depth": 2}
NETWORK = ENCODER | {"decoder_width": 32, "decoder_depth": 1}
STATS = Stats((0.5, 0.4, 0.4), (0.2, 0.2, 0.2))

TINY = {
    "epochs": 8,  # 20 steps of 16 images from a set of 40
    "batch_size": 16,
    **{f"model.{name}": value for name, value in NETWORK.items()},
    "data.num_samples": 40,
    "data.mean": STATS.mean,
    "data.std": STATS.std,
    "checkpoint.every": 10,
    "tracking.log_every": 1,
    "tracking.picture_every": 10,
    "probe.every": 0,
}
TINY_DETECTION = {
    "batch_size": 16,
    **{f"model.{name}": value for name, value in ENCODER.items()},
    "data.mean": STATS.mean,
    "data.std": STATS.std,
    "tracking.log_every": 1,
}

# Sections and fields of a config that the training step does not depend on.
NOT_IN_THE_STEP = ("checkpoint", "data", "epochs", "init", "max_skipped_steps", "resume")
NOT_IN_THE_STEP += ("schedule_epochs", "total_steps", "tracking", "watchdog", "probe", "monitor")
_made: dict[tuple, Any] = {}


@contextlib.contextmanager
def compiled_once(config: ConfigDict) -> Iterator[None]:
    """Lets runs with the same training step share programs and first states in this process.

    To trace and compile takes most of a tiny run's time, and the cache on disk saves a part of it.

    Args:
        config: The run's.
    """
    fields = {name: x for name, x in config.to_dict().items() if name not in NOT_IN_THE_STEP}

    def once(make: Callable, rows: Callable = lambda *args: None, keep: Callable = lambda x: x):
        def made(learner: Learner, *args, **options) -> Any:
            key = (make.__name__, repr(fields), learner.stats, rows(*args))
            if key not in _made:
                _made[key] = keep(make(learner, *args, **options))
            return _made[key]

        return made

    def first_state(learner: Learner, template: TrainState, *, seed: int) -> TrainState:
        # A step donates its state: each run is given a copy.
        state = once(compilation.fresh_state, keep=jax.device_get)(learner, template, seed=seed)
        return jax.device_put(state, sharding.shardings_of(template))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "compile_step", once(compilation.compile_step))
        of_rows = once(pictures.compile_picture, lambda *args: len(args[-1]["image"]))
        patch.setattr(pictures, "compile_picture", of_rows)
        patch.setattr(train, "state_template", once(train.state_template))
        patch.setattr(train, "fresh_state", first_state)
        yield


def tiny_config(changes: dict | None = None) -> ConfigDict:
    """Returns the resolved config of a tiny pretraining run."""
    config = vit_s.get_config("smoke")
    config.update_from_flattened_dict(TINY | (changes or {}))
    return resolve(config)


def run(workdir: Path, changes: dict | None = None, **options) -> None:
    """Pretrains in this process; `options` are those of `train`."""
    config = tiny_config(changes)
    with compiled_once(config):
        train.train(config, epath.Path(workdir), task=TASKS["pretrain"], **options)


def compiled_step(config: ConfigDict) -> tuple[jax.stages.Compiled, Learner, Mesh]:
    """Returns the program of a config's training step on all devices, the learner and the mesh."""
    learner = make_learner(config, stats=STATS)
    mesh = sharding.make_mesh(config.mesh)
    with compiled_once(config):
        step = compilation.compile_step(
            learner,
            mesh,
            batch_size=config.batch_size,
            accum_steps=config.accum_steps,
            available=None,
            options={},
        )
    return step.program, learner, mesh


def detection_config(mode: str = "full", changes: dict | None = None) -> ConfigDict:
    """Returns the resolved config of a tiny detector's run."""
    config = transfer.get_config("vit_small_patch16", smoke=True, mode=mode)
    config.update_from_flattened_dict(TINY_DETECTION | (changes or {}))
    with config.data.unlocked():
        for kind, videos in (("train", 12), ("val", 4)):
            config.data[kind] = {"a": transfer.rendered_set("swap-a", kind, videos=videos)}
    return resolve(config)


def run_detection(workdir: Path, config: ConfigDict, **options) -> None:
    """Trains a detector in this process; `options` are those of `train`."""
    with compiled_once(config):
        train.train(config, epath.Path(workdir), task=TASKS["finetune"], **options)


def read_metrics(workdir: Path) -> list[dict]:
    """Returns the lines of a run's metrics."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_rate(lines: list[dict]) -> list[dict]:
    """Leaves out what depends on the speed of the machine."""
    timed = ("images_per_second", "data_wait")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def restore(workdir: Path, config: ConfigDict) -> Restored:
    """Returns the newest valid checkpoint of a pretraining run."""
    learner = pretrain.make_learner(config, stats=Stats(config.data.mean, config.data.std))
    template = compilation.state_template(learner, sharding.make_mesh(config.mesh))
    with Checkpoints(epath.Path(workdir) / "checkpoints", keep=3) as checkpoints:
        return checkpoints.restore_newest_valid(template)


def comparison():
    """Returns a comparison of two modes of the smallest network."""
    c = rendered.get_config("smoke")
    for mode in c.train:
        c.train[mode].model.update(ENCODER)
    c.modes = ("full", "linear")
    return c
