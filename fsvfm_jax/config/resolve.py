"""Turns the fields of a config file into the resolved config that a run stores: recipes and checks.

The allowed values of each field are in `fields.py` and `downstream_fields.py`. This module checks
how the fields of pretraining fit together, `downstream.py` those of the other tasks.
"""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fsvfm_jax.config import downstream
from fsvfm_jax.config.checks import (
    check_comparison,
    check_fields,
    check_stats,
    check_weights,
    find_field,
)
from fsvfm_jax.config.fields import PRETRAINING, TASK
from fsvfm_jax.errors import ConfigError, brief
from fsvfm_jax.losses import SIMILARITIES, info_nce
from fsvfm_jax.masking import num_removed
from fsvfm_jax.models import build
from fsvfm_jax.models.vit import OPTIONS
from fsvfm_jax.optim import check_rates, check_warmup, peak_learning_rate

# The errors of other libraries for a stored config with wrong types.
ODD_CONFIG = (KeyError, AttributeError, TypeError, ValueError, ArithmeticError)

# The values that each recipe sets for fields that are None. With the recipe "paper",
# `schedule_epochs` is `epochs`.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {
        "teacher.mode": "ema",
        "model.rep_pos": "sincos",
        "mask.region_choice": "per_image",
        "optimizer.grad_clip": 1.0,
    },
    "released": {
        "schedule_epochs": 800,
        "teacher.mode": "frozen",
        "model.rep_pos": "zeros",
        "mask.region_choice": "per_group",
        "optimizer.grad_clip": 0.0,
    },
}
# Fields that earlier versions did not store, with the values that have the same effect.
ADDED: dict[str, Any] = {
    "init.entry": "",
    "tracking.also": (),
    **{f"model.{name}": None for name in OPTIONS},
}
# Sections that earlier versions did not store, by task, with values that have no effect.
ADDED_SECTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "pretrain": {
        "monitor": {"collapse": "off"},
        "probe": {
            "every": 0,
            "faces": 512,
            "branch": "student",
            "k": 20,
            "paths": (),
            "train": {},
            "test": {},
        },
    },
    "finetune": {
        "lora": {"rank": 8, "alpha": 8.0, "targets": ("q", "v")},
        "partial": {"blocks": 2},
        "full": {"blr": 2e-4, "weight_decay": 0.03, "layer_decay": 0.6},
    },
}


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a copy of a config in which the fields of the recipe are filled in and checked.

    Raises:
        ConfigError: A field has a value that is not allowed; the message names field and choices.
    """
    config = config.copy_and_resolve_references()
    resolvers = {
        "pretrain": _resolve_pretraining,
        "finetune": downstream.resolve_finetuning,
        "evaluate": downstream.resolve_evaluation,
    }
    section, name = find_field(config, "task")
    if section[name] == "compare":
        raise ConfigError(
            "config.task = 'compare' is a comparison of several runs: give the config to"
            " python -m fsvfm_jax.benchmark compare"
        )
    if wrong := TASK["task"].problem(section[name]):
        raise ConfigError(f"config.task = {brief(section[name])} {wrong}")
    resolvers[config.task](config)
    return config


def resolve_stored(content: Mapping[str, Any]) -> ConfigDict:
    """Returns the resolved config of a run, perhaps of an earlier version of this package.

    Args:
        content: The content of the run's config.json.

    Raises:
        ConfigError: No run can have stored this content.
    """
    config = ConfigDict(content)
    for path, value in ADDED.items():
        section, name = path.split(".")
        if isinstance(config.get(section), ConfigDict) and name not in config[section]:
            config[section][name] = value
    added = ADDED_SECTIONS.get(str(config.get("task")), {})
    return resolve(ConfigDict(added | dict(config.items())))


def _resolve_pretraining(config: ConfigDict) -> None:
    check_fields(config, PRETRAINING)
    defaults = {"schedule_epochs": config.epochs} | RECIPES[config.recipe]
    for path, value in defaults.items():
        section, name = find_field(config, path)
        if section[name] is None:
            section[name] = value
    _check_relations(config)


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON text."""
    return json.dumps(config.to_dict(), indent=2)


def _check_relations(config: ConfigDict) -> None:
    similarity = config.loss.similarity
    compares = SIMILARITIES[similarity].loss is info_nce
    comparing = f"config.loss.similarity = {similarity!r}" if compares else None
    check_comparison(config.accum_steps, comparing=comparing)
    if config.schedule_epochs < config.epochs:
        raise ConfigError(
            f"config.schedule_epochs = {config.schedule_epochs} (by recipe {config.recipe!r} unless"
            f" you set it) ends before config.epochs = {config.epochs}: give it at least that"
        )
    schedule_epochs = config.schedule_epochs
    of = f"config.schedule_epochs = {schedule_epochs}"
    check_warmup(config.optimizer.warmup_epochs, schedule_epochs, of=of)
    check_rates(config.optimizer.min_lr, peak_learning_rate(config))
    if config.data.source == "synthetic" and config.data.paths:
        raise ConfigError(
            "config.data.source = 'synthetic' reads no paths: set --config.data.source=folder too"
        )
    check_weights(config.data.weights, len(config.data.paths), of="config.data.paths")
    check_stats(config.data)
    downstream.resolve_sets(config.probe, "train", "test", of="config.probe")
    if config.probe.every:
        downstream.check_sets(config.probe, "train", of="config.probe")
        downstream.check_sets(config.probe, "test", of="config.probe")
        _check_probe(config.probe)
    model = build(config.model)
    num_removed(model.num_patches, config.mask.mask_ratio)


def _check_probe(probe: ConfigDict) -> None:
    if probe.k > probe.faces:
        raise ConfigError(
            f"config.probe.k = {probe.k} is above config.probe.faces = {probe.faces}: only as many"
            " faces can vote; lower it"
        )
    sets = [*probe.train.values(), *probe.test.values()]
    if probe.paths and all(one.layout == downstream.RENDERED for one in sets):
        raise ConfigError(
            f"config.probe.paths = {brief(probe.paths)} is read by no set of config.probe, which"
            " are all rendered: write a config file with your sets (docs/pretraining.md)"
        )
