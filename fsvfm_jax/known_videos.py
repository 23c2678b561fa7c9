"""Warns of videos of a test set that a detector has already used, by the config of its run."""

import logging
from collections.abc import Iterable
from pathlib import Path

from fsvfm_jax.convert.runs import is_run, run_config
from fsvfm_jax.data.labelled.detection_sets import DetectionSet, open_sets, warn_of_common_videos
from fsvfm_jax.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def warn_of_known_videos(
    path: Path,
    tests: Iterable[DetectionSet],
    *,
    thresholds: Iterable[DetectionSet] = (),
    image_size: int,
) -> None:
    """Logs which videos were also used to train, to choose the checkpoint, or for thresholds.

    Args:
        path: The detector: a run, folder or file; only a run says what it was trained on.
        tests: The sets that metrics are measured on.
        thresholds: The sets on which a threshold is chosen.
        image_size: Side of rendered faces in pixels.
    """
    tests, thresholds = list(tests), list(thresholds)
    trained, chose = (_sets_of_run(path, kind, image_size=image_size) for kind in ("train", "val"))
    warn_of_common_videos(trained, [*thresholds, *tests], use="was trained on")
    warn_of_common_videos(chose, tests, use="chose the checkpoint")
    warn_of_common_videos(thresholds, tests, use="chooses the threshold")


def _sets_of_run(path: Path, kind: str, *, image_size: int) -> list[DetectionSet]:
    """Returns the sets that a run used as `kind`, "train" or "val", or none if they are missing."""
    if not is_run(path):
        return []
    data = run_config(path).data
    try:
        sets = open_sets(
            data.get(kind, {}), data.paths, image_size=image_size, field=f"config.data.{kind}"
        )
        return list(sets.values())
    except (ConfigError, DataError) as error:
        logger.warning("it is not known whether the run used videos of the test sets: %s", error)
        return []
