"""Finds the mean and standard deviation of the pixels when a run starts, and stores them."""

import logging
from collections.abc import Callable

import jax
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from fsvfm_jax.data.sources import FaceSet
from fsvfm_jax.data.stats import (
    STATS_FILE,
    Stats,
    compute_stats,
    forget_stats_of_other_data,
    known_stats,
    save_stats,
)
from fsvfm_jax.run import integrity
from fsvfm_jax.run.failed_start import CHECKPOINTS

logger = logging.getLogger(__name__)


def find_stats(
    data: ConfigDict,
    source: FaceSet,
    workdir: epath.Path,
    *,
    starting: Callable[[], Stats | None],
    compute: bool,
) -> Stats:
    """Returns mean and deviation from the config, a file, an earlier start, weights, or the set.

    Args:
        data: The config's data section.
        source: The training faces.
        workdir: The run's folder.
        starting: Returns the statistics of the starting weights, or None.
        compute: Whether to compute unknown statistics over the set, and to store them in the
            workdir. If False, nothing is written, and unknown statistics are 0.5.
    """
    dataset = source.fingerprint()
    if compute and jax.process_index() == 0 and not integrity.steps(workdir / CHECKPOINTS):
        forget_stats_of_other_data(workdir, dataset)
    stats = known_stats(data, workdir)
    found = stats or starting() or source.stats()
    if compute:
        # The statistics are always stored, because the weights cannot be used without them.
        if stats is None and jax.process_index() == 0:
            computed = found or compute_stats(source, replace=data.skip_corrupt > 0)
            save_stats(workdir / STATS_FILE, computed, dataset=dataset)
        # Processes that have found statistics wait too: one of them may have looked for the file
        # after the first process had stored it.
        multihost_utils.sync_global_devices("mean and std are stored")
        found = known_stats(data, workdir)
    if found is None:
        logger.info("mean and std will be computed over the set when training starts")
        return Stats((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    mean, std = (" ".join(f"{x:.4f}" for x in of_three) for of_three in found)
    logger.info("mean %s  std %s", mean, std)
    return found
