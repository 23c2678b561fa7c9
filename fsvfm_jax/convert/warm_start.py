"""Loads the starting weights of a training run from `config.init`: only weights, at step 0."""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from fsvfm_jax.convert.architectures import StoredOptions
from fsvfm_jax.convert.measures import HEADS, UnknownHeads
from fsvfm_jax.convert.runs import is_run
from fsvfm_jax.convert.weights import LoadedWeights, read_source
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices.distributed import check_same_arrays
from fsvfm_jax.errors import ConfigError, DataError, brief
from fsvfm_jax.host.storage import read_stored_json
from fsvfm_jax.models.fsvfm import encoder_subset, teacher_subset
from fsvfm_jax.models.vit import OPTIONS, SIZE_FIELDS, ViT
from fsvfm_jax.run.failed_start import CHECKPOINTS, CONFIG_FILE
from fsvfm_jax.run.origin import ORIGIN
from fsvfm_jax.train_state import Params, TrainState

logger = logging.getLogger(__name__)


class _StoredConfig(TypedDict):
    """The part of a run's config.json that is read here."""

    model: StoredOptions


class WarmStart(NamedTuple):
    """A state at step 0 with loaded weights, and the origin of the weights."""

    state: TrainState
    origin: dict[str, Any]


def load_weights(state: TrainState, *, init: ConfigDict, model: ConfigDict) -> WarmStart:
    """Puts loaded weights into a new state; weights that are missing stay random.

    Args:
        state: The state at step 0.
        init: The config's init section.
        model: The config's model section, which contains the numbers of heads; no array does.

    Returns:
        The state with those weights, each array with its sharding, and their origin.

    Raises:
        DataError: The weights cannot be read or belong to another network.
        ConfigError: The config selects the teacher and there is no teacher, or the weights are
            known to have another number of heads.
    """
    path, heads = Path(init.params), {name: model[name] for name in HEADS}
    source = _read_for(model, init)
    params = _replace(state.params, source.params, path)
    teacher = teacher_subset(params)
    if init.teacher == "checkpoint":
        logger.warning(
            "config.init.teacher = 'checkpoint': the teachers of released checkpoints were never"
            " updated and have random weights; with 'student' the teacher copies trained weights"
        )
        beside = _teacher_of(path)
        theirs = _read(beside, branch="teacher", entry=init.entry, heads=heads)
        teacher = _replace(state.teacher_params, theirs.params, beside)
    state = state._replace(
        params=_put(params, state.params), teacher_params=_put(teacher, state.teacher_params)
    )
    return WarmStart(state, {name: source.facts.get(name) for name in ORIGIN})


def load_encoder(state: TrainState, config: ConfigDict) -> WarmStart:
    """Puts a loaded encoder into a detector's new state; the heads stay random.

    The final norm of the encoder is not used with the pool "mean".

    Args:
        state: The state at step 0.
        config: The resolved config.

    Returns:
        The state with those weights, each array with its sharding, and their origin.

    Raises:
        DataError: The weights cannot be read or belong to another network.
        ConfigError: The weights are known to have another number of heads.
    """
    source = _read_for(config.model, config.init)
    encoder = encoder_subset(source.params)
    params = _replace(state.params, encoder, Path(config.init.params))
    state = state._replace(params=_put(params, state.params))
    return WarmStart(state, {name: source.facts.get(name) for name in ORIGIN})


def with_options(config: ConfigDict, workdir: epath.Path | None) -> ConfigDict:
    """Returns the config with a value for each option of the encoder (`vit.OPTIONS`) that is None.

    The value is that of the run in the workdir or of the weights that `config.init` names, and
    otherwise that of the papers' network. What differs from the papers' network is logged.

    Args:
        config: The resolved config.
        workdir: Workdir of the run; None if there is no run, as in a plan or a benchmark. Then the
            weights need not exist: a warning says so.

    Raises:
        DataError: The weights cannot be read.
        StorageError: The config.json of the run in the workdir is damaged.
        ConfigError: A given value is not that of the weights or of the run.
    """
    pools = _pools_by_attention(config.model)
    if config.model.pool_heads and not pools:
        raise ConfigError(
            f"config.model.pool_heads = {brief(config.model.pool_heads)}: this network has no"
            " attention pool, since config.model.pool is not 'attention'; leave it out"
        )
    missing = [name for name in OPTIONS if config.model[name] is None]
    known: Mapping[str, Any] = {}
    if workdir and (workdir / CHECKPOINTS).exists() and (workdir / CONFIG_FILE).exists():
        known = _options_of_run(config, workdir)
    elif config.init.params and Path(config.init.params).exists():
        known = _read_for(config.model, config.init).model
    elif config.init.params and workdir is None:
        logger.warning(
            "config.init.params = %r does not exist here: its encoder may have other options than"
            " those of the papers' network, which are used",
            config.init.params,
        )
    found = {name: known.get(name) for name in missing}
    found = {name: getattr(ViT, name) if x is None else x for name, x in found.items()}
    if not pools:
        found |= {"pool_heads": ViT.pool_heads}
    config = config.copy_and_resolve_references()
    config.model.update(found)
    if pools and not config.model.pool_heads:
        raise ConfigError(_no_pool(config.init.params, is_run=workdir is not None))
    others = {name: x for name, x in found.items() if x != getattr(ViT, name)}
    if others:
        shown = ", ".join(f"config.model.{name} = {value}" for name, value in others.items())
        logger.info("options of the encoder by its weights: %s", shown)
    return config


def _no_pool(params: str, *, is_run: bool) -> str:
    """Returns why there is no attention pool, and the way out, for the path of starting weights."""
    if params and not Path(params).exists():
        missing = f"config.init.params = {brief(params)} does not exist"
        if is_run:
            return f"{missing}: give another path"
        return (
            f"{missing}: without the weights, config.model.pool = 'attention' needs"
            " config.model.pool_heads"
        )
    encoder = f"the encoder in {brief(params)}" if params else "an encoder with random weights"
    return (
        f"config.model.pool = 'attention', and {encoder} has no attention pool: use"
        " config.model.pool='mean'"
    )


def _pools_by_attention(model: ConfigDict) -> bool:
    """Returns whether a network uses the attention pool of its encoder."""
    return model.get("pool") == "attention"


def _options_of_run(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Returns the options of the run in a workdir; raises ConfigError if the config's differ."""
    known = read_stored_json(workdir / CONFIG_FILE, _StoredConfig, mend="restore it from a copy")[
        "model"
    ]
    for name in OPTIONS:
        given, stored = config.model[name], known.get(name, getattr(ViT, name))
        if given is not None and given != stored:
            raise ConfigError(
                f"config.model.{name} = {brief(given)}, and the run in {workdir} has"
                f" {brief(stored)}: leave it out, or start another run"
            )
    return dict(known)


def starting_stats(config: ConfigDict) -> Stats | None:
    """Returns mean and deviation that the weights of `config.init` need; None without weights.

    Raises:
        ConfigError: They are unknown. The mean and deviation of the run's own faces would differ.
    """
    if not config.init.params:
        return None
    stats = _read_for(config.model, config.init).facts.get("stats")
    if stats is None:
        raise ConfigError(
            f"{config.init.params} does not contain the mean and std of its pretraining: give"
            " config.data.mean and config.data.std, or config.data.stats_file"
        )
    return stats


def _read_for(model: ConfigDict, init: ConfigDict) -> LoadedWeights:
    """The weights, if they may be of that network by the number of its heads."""
    path, heads = Path(init.params), {name: model[name] for name in HEADS if name in model}
    given = {name: model[name] for name in OPTIONS if model[name] is not None}
    known = {name: given[name] for name in ("activation",) if name in given}
    source = _read(path, branch=init.branch, entry=init.entry, heads=heads, known=known)
    if not _pools_by_attention(model):
        given.pop("pool_heads", None)
    for name, value in given.items():
        if (theirs := source.model.get(name, getattr(ViT, name))) != value:
            raise ConfigError(
                f"{path} has {name} = {theirs}, config.model.{name} = {value}: leave it out, and"
                " the weights decide"
            )
    others = {x: source.model[x] for x in SIZE_FIELDS if source.model[x] != model[x]}
    if others.keys() - {"image_size", "num_heads"}:
        shown = " ".join(f"--config.model.{name}={value}" for name, value in others.items())
        raise ConfigError(f"{path} is a network of other sizes than config.model: give {shown}")
    for name, number in source.model.items():
        if name in heads and number != model[name]:
            raise ConfigError(
                f"{path} has {name} = {number}, config.model.{name} = {model[name]}: the arrays"
                f" would fit, and compute something else; give --config.model.{name}={number}"
            )
    return source


def _read(
    path: Path,
    *,
    branch: str,
    entry: str,
    heads: dict[str, int],
    known: Mapping[str, Any] = MappingProxyType({}),
) -> LoadedWeights:
    """Heads that the source does not contain are taken from the config, with a warning."""
    try:
        return read_source(path, branch=branch, entry=entry, given=dict(known))
    except UnknownHeads as error:
        taken = {name: heads.get(name, 1) for name, n in error.measures.items() if n is None}
        logger.warning(
            "%s does not contain its numbers of heads: the config's are used, %s. With a wrong"
            " number the weights load and compute something else; set config.model to the right one"
            " (%s)",
            *(path, ", ".join(f"config.model.{k} = {v}" for k, v in taken.items()), error),
        )
        return read_source(path, branch=branch, entry=entry, given=taken | known)


def _teacher_of(path: Path) -> Path:
    """Returns the path of the teacher's weights.

    A workdir contains both; a reference's checkpoint-N.pth has checkpoint-te-N.pth beside it.
    """
    if is_run(path):
        return path
    beside = path.with_name(path.name.replace("checkpoint-", "checkpoint-te-"))
    if not beside.is_file() or beside == path:
        raise ConfigError(
            f"config.init.teacher = 'checkpoint', but {path} has no teacher beside it; use"
            " config.init.teacher='student'"
        )
    return beside


def _replace(params: Params, weights: dict[str, Any], path: Path) -> Params:
    """Returns the tree with the arrays of `weights`, except for heads of detectors.

    Raises:
        DataError: An array has another shape.
        ConfigError: The processes have read different weights, each from a path of its own.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    theirs = traverse_util.flatten_dict(weights, sep="/")
    used = {name: x for name, x in theirs.items() if name in flat}
    for name, x in used.items():
        if x.shape != flat[name].shape:
            raise DataError(
                f"{path} is of another network: {name} is {list(x.shape)} there and"
                f" {list(flat[name].shape)} in this config; another image size is made by"
                " python -m fsvfm_jax.convert to folder --image-size"
            )
    check_same_arrays(used, what="weights (config.init.params)")
    fresh, left_out = (
        ", ".join(sorted({name.split("/")[0] for name in names}))
        for names in (flat.keys() - used.keys(), theirs.keys() - used.keys())
    )
    logger.info(
        "weights from %s%s%s",
        path,
        f"; random weights for {fresh}" if fresh else "",
        f"; not used: {left_out}" if left_out else "",
    )
    return traverse_util.unflatten_dict(flat | used, sep="/")


def _put(params: Params, like: Params) -> Params:
    """Returns float32 copies with the shardings of `like`; a step donates its arguments."""

    def put(x: np.ndarray | jax.Array, old: jax.Array) -> jax.Array:
        if isinstance(x, jax.Array):
            return jnp.copy(x)
        return jax.device_put(np.asarray(x, np.float32), old.sharding, may_alias=False)

    return jax.tree.map(put, params, like)
