"""From a config file's fields to the resolved config that a run stores: recipes and checks."""

import json
from typing import Any

from ml_collections import ConfigDict

from fsvfm_jax.errors import ConfigError, nearest
from fsvfm_jax.losses import SIMILARITIES
from fsvfm_jax.masking import REGION_CHOICES, STRATEGIES, num_removed
from fsvfm_jax.models import build

# What each recipe gives to the fields left None; `schedule_epochs` of "paper" is `epochs`.
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
CHOICES = {
    "recipe": tuple(RECIPES),
    "mask.strategy": STRATEGIES,
    "mask.region_choice": REGION_CHOICES,
    "loss.similarity": tuple(SIMILARITIES),
    "teacher.mode": ("ema", "frozen"),
}
POSITIVE = (
    "epochs",
    "batch_size",
    "accum_steps",
    "mask.region_group_size",
    "data.num_samples",
    "checkpoint.every",
    "checkpoint.keep",
    "tracking.log_every",
    "tracking.picture_every",
)


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a copy with every field of the recipe filled in, checked as far as it can be alone.

    Raises:
        ConfigError: A field has a value it cannot have; the message names field and choices.
    """
    config = config.copy_and_resolve_references()
    _check_choice(config, "recipe")
    defaults = {"schedule_epochs": config.epochs} | RECIPES[config.recipe]
    for path, value in defaults.items():
        section, name = _locate(config, path)
        if section[name] is None:
            section[name] = value
    _check(config)
    return config


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2)


def _check(config: ConfigDict) -> None:
    for path in CHOICES:
        _check_choice(config, path)
    for path in POSITIVE:
        section, name = _locate(config, path)
        if section[name] <= 0:
            raise ConfigError(f"config.{path} = {section[name]} must be greater than 0")
    if config.schedule_epochs < config.epochs:
        raise ConfigError(
            f"config.schedule_epochs = {config.schedule_epochs} ends before config.epochs ="
            f" {config.epochs}: raise it, or leave it None"
        )
    if config.optimizer.warmup_epochs >= config.schedule_epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs = {config.optimizer.warmup_epochs} leaves nothing of"
            f" config.schedule_epochs = {config.schedule_epochs}: lower the first"
        )
    for name in ("mean", "std"):
        value = config.data[name]
        if value is not None and len(value) != 3:
            raise ConfigError(f"config.data.{name} = {value} must have three values: r, g, b")
    if (config.data.mean is None) != (config.data.std is None):
        raise ConfigError("give both config.data.mean and config.data.std, or neither")
    model = build(config.model)
    num_removed(model.num_patches, config.mask.mask_ratio)


def _check_choice(config: ConfigDict, path: str) -> None:
    section, name = _locate(config, path)
    if section[name] not in CHOICES[path]:
        hint = nearest(str(section[name]), CHOICES[path])
        raise ConfigError(f"config.{path} = {section[name]!r} is unknown; {hint}")


def _locate(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    *sections, name = path.split(".")
    for section in sections:
        config = config[section]
    return config, name
