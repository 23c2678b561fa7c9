"""The rows of a comparison of encoders, checked before anything is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from fsvfm_jax.config.checks import check_fields
from fsvfm_jax.config.comparison_fields import COMPARISON, ENCODER
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.convert.measures import UnknownHeads
from fsvfm_jax.convert.weights import read_source
from fsvfm_jax.data.labelled.detection_sets import open_sets
from fsvfm_jax.data.stats import make_stats
from fsvfm_jax.errors import ConfigError, DataError, brief
from fsvfm_jax.models import build_detector
from fsvfm_jax.models.vit import OPTIONS, SIZE_FIELDS


class Cell(NamedTuple):
    """One row of the comparison.

    Attributes:
        encoder: Name of the encoder.
        mode: The mode of fine-tuning.
        config: The config of its runs, without learning rate and seed.
        published: The model of the papers to compare with, a name of `published.MODELS`, or "".
        sha256: SHA-256 of the encoder's weights; "" for random weights.
    """

    encoder: str
    mode: str
    config: ConfigDict
    published: str
    sha256: str

    @property
    def name(self) -> str:
        """The name of the row in messages, and of its folder."""
        return f"{self.encoder}-{self.mode}"

    def run_config(self, *, rate: float, seed: int) -> ConfigDict:
        """Returns the config of a run, not resolved.

        Args:
            rate: The peak learning rate.
            seed: The seed of the run.
        """
        c = self.config.copy_and_resolve_references()
        c.optimizer.lr = rate
        c.seed = seed
        return c


def cells_of(config: ConfigDict) -> tuple[list[Cell], list[str]]:
    """Returns the rows of a comparison, and the names of the encoders that have no weights.

    All configs are checked before anything is trained.

    Args:
        config: A config of configs/compare/.

    Raises:
        ConfigError: A field has a value that is not allowed.
        DataError: The weights of an encoder do not exist.
    """
    config = config.copy_and_resolve_references()
    check_fields(config, COMPARISON)
    _check_numbers(config)
    for mode in config.modes:
        if mode not in config.train:
            raise ConfigError(
                f"config.train has no config for the mode {mode!r} of config.modes: it has"
                f" {', '.join(config.train)}"
            )
        if config.train[mode].get("mode") != mode:
            raise ConfigError(
                f"config.train.{mode}.mode = {brief(config.train[mode].get('mode'))}: it must be"
                f" {mode!r}"
            )
    cells, left_out = [], []
    for name, encoder in config.encoders.items():
        check_fields(encoder, ENCODER, within=f"encoders.{name}.")
        if encoder.params is None:
            left_out.append(name)
            continue
        of_weights = _of_weights(name, encoder) if encoder.params else OfWeights({}, {}, "")
        for mode in config.modes:
            c = config.train[mode].copy_and_resolve_references()
            c.update_from_flattened_dict(of_weights.fields)
            c.model.pool = encoder.pool or c.model.pool
            # Without weights the encoder has the options of the run.
            model = of_weights.model or {"pool_heads": c.model.pool_heads}
            _check_pool(name, dict(model) | {"pool": c.model.pool, "fas": c.model.fas})
            c.init.update(params=encoder.params, entry=encoder.entry, branch=encoder.branch)
            if config.paths:
                c.data.paths = config.paths
            cells.append(Cell(name, mode, c, encoder.published[mode], of_weights.sha256))
    if not cells:
        raise ConfigError(
            "config.encoders has no weights: give some, such as --config.encoders."
            f"{left_out[0] if left_out else 'NAME'}.params=WEIGHTS"
        )
    for cell in cells:
        for rate in config.rates[cell.mode]:
            resolve(cell.run_config(rate=rate, seed=config.seeds[0]))
    _check_test(config)
    return cells, left_out


def evaluation(config: ConfigDict) -> ConfigDict:
    """Returns the config of a comparison's evaluation, with the folders of the comparison.

    Args:
        config: A config of configs/compare/.
    """
    test = config.test.copy_and_resolve_references()
    test.data.paths = config.paths or test.data.paths
    return test


class OfWeights(NamedTuple):
    """What the weights of an encoder decide.

    Attributes:
        fields: Fields of a run.
        model: Sizes and options of the encoder; empty for random weights.
        sha256: SHA-256 of the weights; "" for random weights.
    """

    fields: dict[str, Any]
    model: Mapping[str, Any]
    sha256: str


def _of_weights(name: str, encoder: ConfigDict) -> OfWeights:
    """Returns what the weights of an encoder decide.

    Raises:
        DataError: There are no such weights.
        ConfigError: A value that the weights do not contain is not given.
    """
    path, field = Path(encoder.params), f"config.encoders.{name}"
    if not path.exists():
        raise DataError(f"{field}.params = {encoder.params!r} does not exist")
    given = {name: encoder[name] for name in ("num_heads", "activation")}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        source = read_source(path, branch=encoder.branch, entry=encoder.entry or None, given=given)
    except UnknownHeads as error:
        raise ConfigError(
            f"{path} does not contain its number of heads: give {field}.num_heads ({error})"
        ) from error
    stats = source.facts.get("stats")
    if encoder.mean and encoder.std:
        stats = make_stats(encoder.mean, encoder.std)
    if stats is None:
        raise ConfigError(
            f"{path} does not contain the mean and std of its pretraining: give {field}.mean and"
            f" {field}.std"
        )
    model = {f"model.{size}": source.model[size] for size in SIZE_FIELDS}
    if encoder.activation is not None:
        model["model.activation"] = encoder.activation
    fields = model | {"data.mean": stats.mean, "data.std": stats.std}
    options = {x: source.model[x] for x in (*SIZE_FIELDS, *OPTIONS) if x in source.model}
    return OfWeights(fields, options, source.facts["source_sha256"])


def _check_pool(name: str, model: Mapping[str, Any]) -> None:
    """Raises ConfigError if a detector with these attributes has no such pool."""
    try:
        build_detector(model)
    except ConfigError as error:
        raise ConfigError(
            f"config.encoders.{name} with the pool {model['pool']!r}: {error}"
        ) from error


def _check_test(config: ConfigDict) -> None:
    """Raises UserError if the evaluation is not valid, or a set cannot be opened."""
    test = evaluation(config)
    test.init.params = "RUN"
    test = resolve(test)
    if len(test.select) > 1:
        raise ConfigError(
            f"config.test.select = {brief(test.select)} has several ways to choose a checkpoint:"
            " name one"
        )
    open_sets(test.data.test, test.data.paths, image_size=1, field="config.test.data.test")


def _check_numbers(config: ConfigDict) -> None:
    """Raises ConfigError if modes, seeds or rates are missing or repeat."""
    lists = {"modes": config.modes, "seeds": config.seeds}
    lists |= {f"rates.{mode}": config.rates[mode] for mode in config.modes}
    for name, values in lists.items():
        if not values or len(set(values)) < len(values):
            given = brief(tuple(values))
            raise ConfigError(f"config.{name} = {given} must be different, at least one")
    if config.tuning_seed in config.seeds:
        raise ConfigError(
            f"config.tuning_seed = {config.tuning_seed} is among config.seeds: give another one, so"
            " that no learning rate is chosen on a run that is compared"
        )
