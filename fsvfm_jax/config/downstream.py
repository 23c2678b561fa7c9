"""Resolves the configs of fine-tuning and evaluation, and checks how their fields fit together."""

from typing import Any

from ml_collections import ConfigDict

from fsvfm_jax.config.checks import check_comparison, check_fields, check_stats, check_weights
from fsvfm_jax.config.downstream_fields import (
    EVALUATION,
    FACE_SET,
    FINETUNING,
    OF_LAYOUTS,
    ON_DISK,
    SELECTIONS,
    set_fields,
)
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.labelled.set_options import RENDERED, check_options, given
from fsvfm_jax.errors import ConfigError, brief
from fsvfm_jax.models import build_detector
from fsvfm_jax.optim import check_rates, check_warmup, peak_learning_rate
from fsvfm_jax.tuning import TARGETS

ADAPTER_REDUCTION = 4
# The values of fields of `optimizer` that are None, in modes in which those of config.full, which
# are made for training all weights, would be too small. The rate and the weight decay of "norms"
# are GenD's (arXiv:2508.06248), the rate of "lora" is that of the paper (arXiv:2106.09685) for
# RoBERTa base with the same rank, alpha and targets.
BY_MODE = {
    "norms": {"lr": 3e-4, "weight_decay": 0.0, "layer_decay": 1.0},
    "lora": {"lr": 5e-4, "weight_decay": 0.0, "layer_decay": 1.0},
}


def resolve_finetuning(config: ConfigDict) -> None:
    """Fills in the fields that depend on the mode and on the schedule, and checks all fields.

    Args:
        config: The config; it is changed in place.

    Raises:
        ConfigError: A field has a value that is not allowed; the message names field and choices.
    """
    check_fields(config, FINETUNING)
    check_stats(config.data)
    resolve_sets(config.data, "train", "val")
    if config.model.adapter_reduction is None:
        config.model.adapter_reduction = ADAPTER_REDUCTION if config.mode == "adapter" else 0
    if (config.mode == "adapter") != (config.model.adapter_reduction > 0):
        raise ConfigError(
            f"config.mode = {config.mode!r} with config.model.adapter_reduction ="
            f" {config.model.adapter_reduction}: only and always mode 'adapter' has an adapter"
        )
    _resolve_optimizer(config)
    if config.optimizer.schedule == "constant":
        config.optimizer.min_lr = peak_learning_rate(config)
        config.optimizer.warmup_epochs = 0.0
    check_rates(config.optimizer.min_lr, peak_learning_rate(config))
    accum_steps = config.accum_steps
    comparing = "the contrastive loss" if config.loss.weight_anchor else None
    check_comparison(accum_steps, comparing=comparing)
    if config.total_steps is None:  # Otherwise `optim.make_schedule` checks.
        of = f"config.epochs = {config.epochs}"
        check_warmup(config.optimizer.warmup_epochs, config.epochs, of=of)
    optimizer = config.optimizer
    if optimizer.name == "adam" and (optimizer.layer_decay != 1 or optimizer.grad_clip):
        raise ConfigError(
            "config.optimizer.name = 'adam' has no layer_decay and no grad_clip: set"
            " config.optimizer.layer_decay=1 and config.optimizer.grad_clip=0"
        )
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
    check_sets(config.data, "train")
    if config.data.paths and all(one.layout == RENDERED for one in config.data.train.values()):
        raise ConfigError(
            f"config.data.paths = {brief(config.data.paths)} is read by no set of config.data"
            ".train, which are all rendered: leave it out, or :smoke"
        )
    _resolve_weights(config)
    # Whether there is an attention pool depends on the starting weights.
    pool_heads = 1 if config.model.pool_heads is None else config.model.pool_heads
    build_detector(dict(config.model) | {"pool_heads": pool_heads})
    _check_mode(config)


def _resolve_optimizer(config: ConfigDict) -> None:
    """Fills in the fields of the optimizer that are None: by mode, or else from config.full."""
    optimizer, own = config.optimizer, BY_MODE.get(config.mode, {})
    if optimizer.lr is None and optimizer.blr is None:
        optimizer.lr = own.get("lr")
    for name, value in {**config.full, **own}.items():
        if name != "lr" and optimizer[name] is None:
            optimizer[name] = value


def _check_mode(config: ConfigDict) -> None:
    """Raises ConfigError unless the network has what `lora` or `partial` shall train."""
    model, lora = config.model, config.lora
    if config.mode == "lora":
        if lora.rank > model.width:
            raise ConfigError(
                f"config.lora.rank = {lora.rank} is above config.model.width = {model.width}:"
                " lower it, such as to 8"
            )
        kernels = [TARGETS[name].path for name in lora.targets]
        parts = {name for name in lora.targets if TARGETS[name].parts > 1}
        if (
            not kernels
            or len(set(lora.targets)) < len(kernels)
            or ("qkv" in lora.targets and parts)
        ):
            raise ConfigError(
                f"config.lora.targets = {brief(lora.targets)} must name some kernels, each once,"
                " and not both qkv and a part of it (q, k, v), such as ('q', 'v')"
            )
    if config.mode == "partial" and config.partial.blocks > model.depth:
        raise ConfigError(
            f"config.partial.blocks = {config.partial.blocks} is above config.model.depth ="
            f" {model.depth}: lower it, or use --config.mode=full"
        )


def resolve_evaluation(config: ConfigDict) -> None:
    """Checks all fields of an evaluation, and removes the options that its sets do not give.

    Args:
        config: The config; it is changed in place.

    Raises:
        ConfigError: A field has a value that is not allowed.
    """
    check_fields(config, EVALUATION)
    check_stats(config.data)
    resolve_sets(config.data, "test", "val")
    # The order of these checks is the order in which a user fills in the fields: the detector, the
    # selection, the sets.
    if not config.init.params:
        raise ConfigError(
            "config.init.params is empty: name the detector, such as"
            " --config.init.params=RUN_OR_FOLDER_OR_FILE"
        )
    if not config.select:
        raise ConfigError(f"config.select is empty: name some of {', '.join(SELECTIONS)}")
    labels = config.init.labels
    if labels and sorted(labels) != sorted(LABELS):
        raise ConfigError(
            f"config.init.labels = {brief(labels)} must name each class once, in the order of the"
            f" logits, such as {LABELS!r}"
        )
    if bool(config.groups.file) != bool(config.groups.column):
        raise ConfigError(
            f"config.groups.file = {brief(config.groups.file)} with config.groups.column ="
            f" {brief(config.groups.column)}: give both, or neither"
        )
    check_sets(config.data, "test")


def _resolve_weights(config: ConfigDict) -> None:
    """Fills in the weights of the parts of the data: sets or, if balanced, classes of sets."""
    parts = len(config.data.train) * (len(LABELS) if config.data.balanced else 1)
    if config.data.balanced and config.batch_size % parts:
        raise ConfigError(
            f"config.batch_size = {config.batch_size} does not divide over {parts} groups"
            f" (config.data.balanced: sets x classes): make it a multiple of {parts}"
        )
    if config.data.weights is None:
        # Equal weights take one group after another: every batch has as many faces of each.
        config.data.weights = (1,) * parts if config.data.balanced else ()
    check_weights(config.data.weights, parts, of="sets (config.data.balanced: sets x classes)")


def resolve_sets(data: ConfigDict, *kinds: str, of: str = "config.data") -> None:
    """Checks every set, and removes the options that the set does not give.

    Args:
        data: The section that contains the sets.
        kinds: The fields of the section that name sets, such as "train".
        of: Name of the section, for messages.

    Raises:
        ConfigError: An option is missing, unknown or has a wrong value.
    """
    for kind in kinds:
        for name, one in data[kind].items():
            _resolve_set(one, f"{of}.{kind}.{name}")


def _resolve_set(one: ConfigDict, path: str) -> None:
    for name in FACE_SET:
        if name not in one:
            raise ConfigError(f"{path}.{name} is missing: make the set with transfer.face_set")
    layout = one.layout
    if wrong := FACE_SET["layout"].problem(layout):
        raise ConfigError(f"{path}.layout = {brief(layout)} {wrong}")
    fields = set_fields(layout)
    for name in one.keys() - given(dict(one.items())).keys():
        if name not in fields or name in OF_LAYOUTS:
            with one.unlocked():
                del one[name]
    for name, value in one.items():
        if name in fields and (wrong := fields[name].problem(value)):
            raise ConfigError(f"{path}.{name} = {brief(value)} {wrong} ({fields[name].meaning})")
    of_all = FACE_SET if layout == RENDERED else FACE_SET | ON_DISK
    options = {name: value for name, value in one.items() if name not in of_all}
    check_options(layout, options, field=path)


def check_sets(data: ConfigDict, name: str, *, of: str = "config.data") -> None:
    """Raises ConfigError if there is no set, or no folder for a set on disk; see `resolve_sets`."""
    sets: Any = data[name]
    if not sets:
        raise ConfigError(f"{of}.{name} names no set: add one with configs.transfer.face_set")
    if data.paths:
        return
    for key, one in sets.items():
        if one.layout != RENDERED:
            raise ConfigError(
                f"{of}.paths is empty, and {of}.{name}.{key} has the layout"
                f""" {one.layout!r}: say where it lies, such as --{of}.paths="('DIR',)" """
                "or add :smoke after the config file to run on rendered faces"
            )
