"""Provides the data, starting weights and validation of each task that the loop can train."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fsvfm_jax import scoring
from fsvfm_jax.convert import warm_start
from fsvfm_jax.data.elements import detection_element, pretraining_element
from fsvfm_jax.data.labelled.detection_sets import (
    DetectionSet,
    check_classes,
    fingerprints_of,
    join_for_training,
    open_sets,
    sets_of,
    warn_of_common_videos,
)
from fsvfm_jax.data.pipeline import Element
from fsvfm_jax.data.sources import FaceSet, JoinedSets, make_source
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import distributed
from fsvfm_jax.models import build_detector
from fsvfm_jax.optim import peak_learning_rate
from fsvfm_jax.probe.probing import open_probe
from fsvfm_jax.train_state import Probe, TrainState, Validate

logger = logging.getLogger(__name__)


class Task(NamedTuple):
    """A task that `config.task` can name. Each function takes the resolved config.

    Attributes:
        open_source: Opens the training faces.
        element: Takes `stats` too, and returns the function that turns a face into a row of a
            batch. Data workers call that function.
        with_options: Takes the workdir too, and returns the config with the options of the encoder
            that the starting weights have.
        starting_stats: Returns the mean and standard deviation of the starting weights' training
            images, or None if they are not known.
        fingerprint: Returns by name all fields that decide which faces are read and what is done
            to each.
        load_weights: Takes a state at step 0 and returns it with the weights that `config.init`
            names, and the origin of the weights.
        open_validation: Takes `source` and `mesh` too, opens the validation faces and returns a
            function from `stats` to a `Validate`, or None if there are no such faces.
        open_probe: Takes `source` and `mesh` too, opens labelled faces and returns a function from
            the learner and the template of its state to a `Probe`, or None without a probe.
    """

    open_source: Callable[[ConfigDict], FaceSet]
    element: Callable[..., Element]
    with_options: Callable[[ConfigDict, epath.Path], ConfigDict]
    starting_stats: Callable[[ConfigDict], Stats | None]
    fingerprint: Callable[[ConfigDict], dict[str, Any]]
    load_weights: Callable[[TrainState, ConfigDict], tuple[TrainState, dict[str, Any]]]
    open_validation: Callable[..., Callable[[Stats], Validate] | None]
    open_probe: Callable[..., Callable[..., Probe] | None]


def open_faces(config: ConfigDict) -> FaceSet:
    """Opens the unlabelled faces that the config's data section names."""
    source = make_source(
        config.data.source,
        image_size=config.model.image_size,
        paths=config.data.paths,
        split=config.data.split,
        num_samples=config.data.num_samples,
        seed=config.seed,
    )
    places = ", ".join(config.data.paths)
    logger.info("data: %d faces, %s", len(source), f"{config.data.source} {places}".strip())
    return source


def face_element(config: ConfigDict, *, stats: Stats) -> Element:
    """Returns the function that turns a face into image and words, augmented with `data.augment`.

    Args:
        config: The resolved config of pretraining.
        stats: Not used: images are normalised on the device.
    """
    del stats
    return partial(
        pretraining_element, patch_size=config.model.patch_size, augment=config.data.augment
    )


def _mask_fields(config: ConfigDict) -> dict[str, Any]:
    masks = {f"mask.{name}": value for name, value in config.mask.items()}
    return {"data.augment": config.data.augment, **masks}


def open_detection_sets(config: ConfigDict, kind: str) -> dict[str, DetectionSet]:
    """Opens labelled sets of a config.

    Args:
        config: The resolved config of fine-tuning.
        kind: The field of `config.data` that names the sets, such as "train".

    Returns:
        The sets by name.
    """
    return open_sets(
        config.data[kind],
        config.data.paths,
        image_size=config.model.image_size,
        field=f"config.data.{kind}",
    )


def open_labelled(config: ConfigDict) -> JoinedSets:
    """Opens the labelled faces to train on, as one set."""
    if not config.init.params:
        frozen = {"full": "", "adapter": " and is not trained", "linear": " and is not trained"}
        stays = frozen.get(config.mode, " and most of it is not trained")
        logger.warning("config.init.params is empty: the encoder has random weights%s", stays)
    optimizer = config.optimizer
    logger.info(
        "mode %s: learning rate %g, weight decay %g, layer decay %g",
        *(config.mode, peak_learning_rate(config)),
        *(optimizer.weight_decay, optimizer.layer_decay),
    )
    sets = open_detection_sets(config, "train")
    joined = join_for_training(sets, balanced=config.data.balanced)
    logger.info("data: %d labelled faces, %s", len(joined), ", ".join(sets))
    return joined


def labelled_element(config: ConfigDict, *, stats: Stats) -> Element:
    """Returns the function that turns a face into image and label, with the host's augmentation.

    Args:
        config: The resolved config of fine-tuning.
        stats: Statistics of the pixels; the mean is the colour of areas that RandAugment uncovers.
    """
    augment = config.augment
    return partial(
        detection_element,
        size=config.model.image_size,
        mean=stats.mean,
        crop=augment.crop,
        flip=augment.flip,
        rand_magnitude=augment.rand_magnitude,
        saturation=augment.saturation,
    )


def open_validation(
    config: ConfigDict, *, source: JoinedSets, mesh: Mesh
) -> Callable[[Stats], Validate] | None:
    """Opens the validation sets of `config.data.val`, and warns of videos that are also trained on.

    Args:
        config: The resolved config of fine-tuning.
        source: The training faces.
        mesh: The mesh over all devices.

    Returns:
        A function from mean and standard deviation to a `Validate`; None if there are no sets.
    """
    sets = open_detection_sets(config, "val")
    if not sets:
        return None
    distributed.check_same(fingerprints_of(sets), what="validation sets")
    check_classes(sets, purpose="validation", where=" (config.data.val)")
    warn_of_common_videos(sets_of(source), sets.values(), use="is trained on")
    return partial(
        scoring.open_validation,
        config,
        list(sets.values()),
        mesh=mesh,
        model=build_detector(config.model),
    )


def _detection_fields(config: ConfigDict) -> dict[str, Any]:
    sections = {
        "augment": config.augment,
        "data.train": config.data.train,
        "data.val": config.data.val,
    }
    # The targets and the rank are in the shapes of the state, and alpha in no array.
    alpha = {"lora.alpha": config.lora.alpha} if config.mode == "lora" else {}
    of_sections = {
        f"{name}.{field}": value.to_dict() if isinstance(value, ConfigDict) else value
        for name, section in sections.items()
        for field, value in section.items()
    }
    both = {"data.balanced": config.data.balanced, "data.view": config.data.view}
    return both | alpha | of_sections


TASKS = {
    "pretrain": Task(
        open_source=open_faces,
        element=face_element,
        with_options=warm_start.with_options,
        starting_stats=lambda config: None,
        fingerprint=_mask_fields,
        load_weights=lambda state, config: warm_start.load_weights(
            state, init=config.init, model=config.model
        ),
        open_validation=lambda config, **_: None,
        open_probe=open_probe,
    ),
    "finetune": Task(
        open_source=open_labelled,
        element=labelled_element,
        with_options=warm_start.with_options,
        starting_stats=warm_start.starting_stats,
        fingerprint=_detection_fields,
        load_weights=warm_start.load_encoder,
        open_validation=open_validation,
        open_probe=lambda config, **_: None,
    ),
}
