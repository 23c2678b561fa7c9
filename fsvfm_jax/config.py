"""From a config file's fields to the resolved config that a run stores: recipes and checks.

The fields of a pretraining run are checked here, those of a fine-tuning run or an evaluation in
`transfer_config.py`.
"""

import json
import math
from typing import Any

from ml_collections import ConfigDict

from fsvfm_jax import transfer_config
from fsvfm_jax.config_checks import (
    RUN_RANGES,
    check_accum_steps,
    check_choices,
    check_ranges,
    check_skip_ranges,
    check_stats,
    check_warmup,
    locate,
)
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.losses import SIMILARITIES, info_nce
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
    "init.branch": ("student", "teacher"),
    "init.teacher": ("student", "checkpoint"),
}
# What a number may be, both ends included.
RANGES = {
    **RUN_RANGES,
    **dict.fromkeys(
        [
            "epochs",
            "model.decoder_width",
            "model.decoder_depth",
            "model.decoder_num_heads",
            "model.rep_decoder_depth",
            "model.rep_decoder_num_heads",
            "model.projection_dim",
            "model.projection_hidden",
            "mask.region_group_size",
            "data.num_samples",
        ],
        (1, math.inf),
    ),
    **dict.fromkeys(
        [
            "loss.weight_region",
            "loss.weight_sim",
        ],
        (0, math.inf),
    ),
    "teacher.momentum": (0, 1),
}


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a copy with every field of the recipe filled in, checked as far as it can be alone.

    Raises:
        ConfigError: A field has a value it cannot have; the message names field and choices.
    """
    config = config.copy_and_resolve_references()
    resolvers = {
        "pretrain": _resolve_pretraining,
        "finetune": transfer_config.resolve_finetuning,
        "evaluate": transfer_config.resolve_evaluation,
    }
    check_choices(config, {"task": tuple(resolvers)})
    resolvers[config.task](config)
    return config


def _resolve_pretraining(config: ConfigDict) -> None:
    check_choices(config, {"recipe": tuple(RECIPES)})
    defaults = {"schedule_epochs": config.epochs} | RECIPES[config.recipe]
    for path, value in defaults.items():
        section, name = locate(config, path)
        if section[name] is None:
            section[name] = value
    _check(config)


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2)


def _check(config: ConfigDict) -> None:
    check_choices(config, CHOICES)
    check_ranges(config, RANGES)
    similarity = config.loss.similarity
    compares = SIMILARITIES[similarity].loss is info_nce
    comparing = f"config.loss.similarity = {similarity!r}" if compares else None
    check_accum_steps(config.accum_steps, comparing=comparing)
    if config.schedule_epochs < config.epochs:
        raise ConfigError(
            f"config.schedule_epochs = {config.schedule_epochs} (by recipe {config.recipe!r} unless"
            f" you set it) ends before config.epochs = {config.epochs}: give it at least that"
        )
    schedule_epochs = config.schedule_epochs
    of = f"config.schedule_epochs = {schedule_epochs}"
    check_warmup(config.optimizer.warmup_epochs, schedule_epochs, of=of)
    if config.data.source == "synthetic" and config.data.paths:
        raise ConfigError(
            "config.data.source = 'synthetic' reads no paths: set --config.data.source=folder too"
        )
    weights = config.data.weights
    if weights and (len(weights) != len(config.data.paths) or min(weights) <= 0):
        raise ConfigError(
            f"config.data.weights = {weights!r} must be a number above 0 for each of the"
            f" {len(config.data.paths)} config.data.paths"
        )
    check_stats(config.data)
    check_skip_ranges(config.data.skip_ranges)
    model = build(config.model)
    num_removed(model.num_patches, config.mask.mask_ratio)
