"""Resolution and checks of a fine-tuning run's config, and of an evaluation's."""

import math
from typing import Any

from ml_collections import ConfigDict

from fsvfm_jax.config_checks import (
    RUN_RANGES,
    check_accum_steps,
    check_choices,
    check_ranges,
    check_skip_ranges,
    check_stats,
    check_warmup,
)
from fsvfm_jax.data.labelled import LABELS
from fsvfm_jax.data.rand_augment import EVALUATION_TRANSFORMS
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.models import build_detector
from fsvfm_jax.optim import peak_learning_rate
from fsvfm_jax.published import PUBLISHED

ADAPTER_REDUCTION = 4
SELECTIONS = ("validation", "last", "test-oracle", "given")

CHOICES = {
    "mode": ("full", "adapter", "linear"),
    "init.branch": ("student", "teacher"),
    "loss.anchors": ("real", "all"),
    "optimizer.name": ("adamw", "adam"),
    "optimizer.schedule": ("cosine", "constant"),
    "data.view": EVALUATION_TRANSFORMS,
}
RANGES = {
    **RUN_RANGES,
    **dict.fromkeys(
        [
            "epochs",
            "loss.weight_anchor",
            "augment.mixup",
            "augment.cutmix",
        ],
        (0, math.inf),
    ),
    **dict.fromkeys(
        ["loss.smoothing", "optimizer.layer_decay", "augment.saturation", "augment.erase"], (0, 1)
    ),
    "loss.temperature": (1e-3, math.inf),
    "augment.crop": (1e-2, 1),
    "augment.rand_magnitude": (0, 10),
}


def resolve_finetuning(config: ConfigDict) -> None:
    """Fills in what `mode` and `optimizer.schedule` decide, in place, and checks every field.

    Raises:
        ConfigError: A field has a value it cannot have; the message names field and choices.
    """
    check_choices(config, CHOICES)
    check_ranges(config, RANGES)
    check_stats(config.data)
    check_skip_ranges(config.data.skip_ranges)
    if config.model.adapter_reduction is None:
        config.model.adapter_reduction = ADAPTER_REDUCTION if config.mode == "adapter" else 0
    if (config.mode == "adapter") != (config.model.adapter_reduction > 0):
        raise ConfigError(
            f"config.mode = {config.mode!r} with config.model.adapter_reduction ="
            f" {config.model.adapter_reduction}: only and always mode 'adapter' has an adapter"
        )
    if config.optimizer.schedule == "constant":
        config.optimizer.min_lr = peak_learning_rate(config)
        config.optimizer.warmup_epochs = 0.0
    accum_steps = config.accum_steps
    comparing = "the contrastive loss" if config.loss.weight_anchor else None
    check_accum_steps(accum_steps, comparing=comparing)
    if config.total_steps is None:  # Else it takes the number of faces: `optim.make_schedule`.
        of = f"config.epochs = {config.epochs}"
        check_warmup(config.optimizer.warmup_epochs, config.epochs, of=of)
    _check_optimizer(config)
    if config.loss.weight_anchor and config.mode != "adapter":
        raise ConfigError(
            f"config.loss.weight_anchor = {config.loss.weight_anchor} is of an adapter's"
            f" projection, and config.mode = {config.mode!r} has none: set it to 0"
        )
    if config.loss.weight_anchor and config.data.balanced and accum_steps != 1:
        raise ConfigError(
            f"config.accum_steps = {accum_steps}: micro-batches of a balanced batch may hold one"
            " class alone, which the contrastive loss cannot tell from another: set it to 1"
        )
    _check_sets(config.data, "train")
    if config.data.balanced:
        groups = len(LABELS) * len(config.data.train)
        if config.batch_size % groups:
            raise ConfigError(
                f"config.batch_size = {config.batch_size} does not divide over {groups} groups"
                f" (config.data.balanced: sets x classes): make it a multiple of {groups}"
            )
        # One group after another, so that every batch holds as many of each.
        weights = (1,) * groups
    else:
        weights = ()
    with config.data.unlocked():
        config.data.weights = weights
    build_detector(config.model)


def resolve_evaluation(config: ConfigDict) -> None:
    """Checks every field of an evaluation.

    Raises:
        ConfigError: A field has a value it cannot have.
    """
    check_choices(
        config,
        {
            "data.view": EVALUATION_TRANSFORMS,
            "report": ("detection", "spoof"),
            "dtype": ("float32", "bfloat16"),
            "compare": ("", *dict.fromkeys(figure.model for figure in PUBLISHED)),
        },
    )
    check_ranges(config, {"batch_size": (1, math.inf), "data.num_workers": (0, math.inf)})
    check_stats(config.data)
    if not config.init.params:
        raise ConfigError(
            "config.init.params is empty: name the detector, such as"
            " --config.init.params=RUN_OR_FOLDER_OR_FILE"
        )
    if not config.select:
        raise ConfigError(f"config.select is empty: name some of {', '.join(SELECTIONS)}")
    for selection in config.select:
        check_choices(ConfigDict({"select": selection}), {"select": SELECTIONS})
    _check_sets(config.data, "test")


def _check_optimizer(config: ConfigDict) -> None:
    optimizer = config.optimizer
    for name, value in (("optimizer.lr", optimizer.lr), ("total_steps", config.total_steps)):
        if value is not None and value <= 0:
            raise ConfigError(f"config.{name} = {value} must be above 0")
    if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
        raise ConfigError(f"config.optimizer.betas = {optimizer.betas!r} must be two from 0 to 1")
    if optimizer.name == "adam" and (optimizer.layer_decay != 1 or optimizer.grad_clip):
        raise ConfigError(
            "config.optimizer.name = 'adam' has no layer_decay and no grad_clip: set"
            " config.optimizer.layer_decay=1 and config.optimizer.grad_clip=0"
        )


def _check_sets(data: ConfigDict, name: str) -> None:
    sets: Any = data[name]
    if not sets:
        raise ConfigError(
            f"config.data.{name} names no set: add one with configs.transfer.face_set"
        )
    if data.paths:
        return
    for key, one in sets.items():
        if one.layout != "rendered":
            raise ConfigError(
                f"config.data.paths is empty, and config.data.{name}.{key} has the layout"
                f""" {one.layout!r}: say where it lies, such as --config.data.paths="('DIR',)" """
                "or add :smoke after the config file to run on rendered faces"
            )
