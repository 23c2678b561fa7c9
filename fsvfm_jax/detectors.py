"""Makes detectors of weights: checks the classes and their order, and finds mean and deviation."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

from fsvfm_jax.convert.measures import network, unseen
from fsvfm_jax.convert.weights import LoadedWeights, read_source
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.rand_augment import CROP_PCT
from fsvfm_jax.data.stats import Stats, known_stats
from fsvfm_jax.devices import distributed
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.adapter import Detector
from fsvfm_jax.train_state import Params

logger = logging.getLogger(__name__)

NO_DETECTOR = "is no detector: fine-tune it first (config.task = 'finetune')"
CONFIG_FIELDS = {
    "stats": "config.data.mean and config.data.std, or config.data.stats_file",
    "labels": f"config.init.labels={LABELS!r}",
}


class LoadedDetector(NamedTuple):
    """A detector that can score faces.

    Attributes:
        model: The network.
        params: The network's parameters; the logits are in the order of `LABELS`.
        stats: Mean and standard deviation that normalise the images.
    """

    model: Detector
    params: Params
    stats: Stats


def load_detector(path: Path, config: ConfigDict, *, step: int | None) -> LoadedDetector:
    """Reads a detector from a run, an exported folder or a file of weights.

    Args:
        path: The run, folder or file.
        config: The resolved config of an evaluation: `init`, `data`, `dtype`.
        step: The step of a run's checkpoint; None for the newest.

    Raises:
        DataError: The path does not contain a detector with two classes.
        ConfigError: Mean and std, or the order of the classes, are not known.
    """
    given = {} if config.init.num_heads is None else {"num_heads": config.init.num_heads}
    encoder = Path(config.init.encoder) if config.init.encoder else None
    weights = {"step": step, "entry": config.init.entry, "encoder": encoder}
    source = read_source(path, branch="student", given=given, **weights)
    detector = to_detector(
        source,
        path,
        stats=known_stats(config.data, epath.Path(path)),
        labels=config.init.labels,
        dtype=config.dtype,
        fields=CONFIG_FIELDS,
    )
    crop_pct, view = source.facts.get("crop_pct"), config.data.view
    if crop_pct is not None and crop_pct != CROP_PCT[view]:
        logger.info(
            "config.data.view = %r is not that of the detector's validation (crop_pct %g): the"
            " scores differ from those of the validation and of `predict`",
            *(view, crop_pct),
        )
    heads = {"num_heads": detector.model.num_heads}
    distributed.check_same_arrays(
        (detector.params, heads, detector.stats),
        what="weights or statistics (config.init.params, config.data)",
    )
    return detector


def to_detector(
    source: LoadedWeights,
    path: Path,
    *,
    stats: Stats | None,
    labels: Sequence[str],
    dtype: str,
    fields: Mapping[str, str],
) -> LoadedDetector:
    """Makes a detector of weights that were read.

    Args:
        source: The weights, and what is known of them.
        path: The run, folder or file that they come from, for messages.
        stats: Mean and standard deviation to use; None for those of the weights.
        labels: The class of each logit, if the weights do not contain the names.
        dtype: Type of the computation.
        fields: The names of the settings "stats" and "labels", for messages.

    Raises:
        DataError: The weights are not those of a detector with two classes.
        ConfigError: Mean and std, or the order of the classes, are not known.
    """
    if "head" not in source.params and "classifier" not in source.params:
        raise DataError(f"{path} {NO_DETECTOR}")
    model = network(source.params, **unseen(source.model)).clone(dtype=dtype)
    if (classes := model.num_classes) != len(LABELS):
        raise DataError(f"{path} has {classes} classes, not two: {' and '.join(LABELS)}")
    stats = stats_of(source, path, given=stats, field=fields["stats"])
    names = tuple(source.facts.get("label_names") or labels)
    if sorted(names) != sorted(LABELS):
        raise ConfigError(
            f"{path} does not say which logit is which: give {fields['labels']}, as for the"
            f" authors' detectors, or the other order (found {names!r})"
        )
    params = source.params
    if names != LABELS:
        params = _reversed(params)
    return LoadedDetector(model, params, stats)


def stats_of(source: LoadedWeights, path: Path, *, given: Stats | None, field: str) -> Stats:
    """Returns the given mean and standard deviation, or else those of the weights.

    Args:
        source: The weights, and what is known of them.
        path: The run, folder or file that they come from, for messages.
        given: Mean and standard deviation to use; None for those of the weights.
        field: The name of the setting that gives them, for messages.

    Raises:
        ConfigError: Neither is known.
    """
    stats = given or source.facts.get("stats")
    if stats is None:
        raise ConfigError(f"{path} does not contain mean and std: give {field}")
    return stats


def _reversed(params: Params) -> Params:
    """Returns the parameters with the two classes of the last layer exchanged."""
    last = "classifier" if "classifier" in params else "head"
    return params | {last: {name: x[..., ::-1] for name, x in params[last].items()}}
