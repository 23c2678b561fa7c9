"""What the checks of all kinds of runs share: choices, ranges, and fields that all have."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from fsvfm_jax.data.stats import make_stats
from fsvfm_jax.errors import ConfigError, nearest
from fsvfm_jax.sharding import AUTO

# What a number of any training run may be, both ends included.
RUN_RANGES = {
    **dict.fromkeys(
        [
            "batch_size",
            "model.image_size",
            "model.patch_size",
            "model.width",
            "model.depth",
            "model.num_heads",
            "model.unroll",
            "checkpoint.keep",
            "tracking.log_every",
            "tracking.picture_every",
        ],
        (1, math.inf),
    ),
    **dict.fromkeys(
        [
            "optimizer.blr",
            "optimizer.min_lr",
            "optimizer.warmup_epochs",
            "optimizer.weight_decay",
            "optimizer.grad_clip",
            "data.num_workers",
            "data.skip_corrupt",
            "checkpoint.every",
            "checkpoint.keep_every",
            "checkpoint.keep_best",
            "max_skipped_steps",
            "watchdog.start_seconds",
            "watchdog.step_seconds",
            "watchdog.save_seconds",
        ],
        (0, math.inf),
    ),
    "seed": (0, 2**31 - 1),
}


def check_choices(config: ConfigDict, choices: Mapping[str, Sequence[str]]) -> None:
    """Raises ConfigError unless every field named has one of its choices."""
    for path, known in choices.items():
        section, name = locate(config, path)
        if section[name] not in known:
            hint = nearest(str(section[name]), known)
            raise ConfigError(f"config.{path} = {section[name]!r} is unknown; {hint}")


def check_ranges(config: ConfigDict, ranges: Mapping[str, tuple[float | int, float | int]]) -> None:
    """Raises ConfigError unless every field named is within its ends."""
    for path, (low, high) in ranges.items():
        section, name = locate(config, path)
        if not low <= section[name] <= high:
            limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise ConfigError(f"config.{path} = {section[name]} must be {limits}")


def check_stats(data: ConfigDict) -> None:
    """Raises ConfigError unless `mean` and `std` are both there and in order, or neither is."""
    if (data.mean is None) != (data.std is None):
        raise ConfigError("give both config.data.mean and config.data.std, or neither")
    if data.mean is not None:
        try:
            make_stats(data.mean, data.std)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"config.data.mean and config.data.std: {error}") from error


def check_accum_steps(accum_steps: Any, *, comparing: str | None) -> None:
    """Raises ConfigError unless it is a number of micro-batches, or "auto".

    Args:
        accum_steps: The field.
        comparing: What compares the faces of a micro-batch with each other, so that their number
            must not hang on the devices' memory; None if nothing does.
    """
    if accum_steps == AUTO and comparing is not None:
        raise ConfigError(
            "config.accum_steps = 'auto' would let the devices' memory decide how many faces"
            f" {comparing} compares with each other: give a number"
        )
    number = isinstance(accum_steps, int) and accum_steps >= 1
    if accum_steps != AUTO and not number:
        raise ConfigError(f"config.accum_steps = {accum_steps!r} must be 'auto' or at least 1")


def check_warmup(warmup_epochs: float | int, epochs: float | int, *, of: str) -> None:
    """Raises ConfigError unless the warm-up ends before these epochs do; `of` is what has them."""
    if warmup_epochs >= epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs = {warmup_epochs} leaves nothing of {of}: set"
            " --config.optimizer.warmup_epochs below that, such as 0"
        )


def check_skip_ranges(ranges: Any) -> None:
    """Ascending, apart, and none of them empty."""
    try:
        ends = [end for pair in ranges for end in pair]
        pairs = all(len(pair) == 2 for pair in ranges)
        fine = pairs and all(isinstance(end, int) and end >= 0 for end in ends)
        fine = fine and all(a < b for a, b in itertools.pairwise(ends))
    except TypeError:
        fine = False
    if not fine:
        raise ConfigError(
            f"config.data.skip_ranges = {ranges!r} must be pairs of samples of the stream, first"
            " and one past the last, ascending and apart, such as ((4096, 8192),)"
        )


def locate(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    """The section that holds a field, and the field's own name."""
    *sections, name = path.split(".")
    section = config
    try:
        for one in sections:
            section = section[one]
        section[name]
    except (KeyError, AttributeError) as error:
        raise ConfigError(
            f"config.{path} is missing, and config.task = {config.get('task')!r} needs it: use a"
            " config file of that task"
        ) from error
    return section, name
