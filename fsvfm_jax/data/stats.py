"""Mean and standard deviation of a data set's pixels, which normalise the images.

A file contains them as one line of JSON, {"mean": [r, g, b], "std": [r, g, b]}, for pixels in 0 to
1. The reference's `pretrain_ds_mean_std.txt` has the same form. The reference adds a line whenever
a run starts again, and reads only the first line.
"""

import json
import logging
from functools import partial
from typing import Any, NotRequired, TypedDict

import grain
import numpy as np
from etils import epath
from jaxtyping import Int64
from ml_collections import ConfigDict

from fsvfm_jax.data.moments import MIN_STD, Stats, power_sums, stats_of_sums
from fsvfm_jax.data.pipeline import read_faces
from fsvfm_jax.data.sources import Source
from fsvfm_jax.errors import DataError, reason_of
from fsvfm_jax.host.json_files import parse_json
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.host.progress import progress
from fsvfm_jax.host.storage import read_bytes, write_text

logger = logging.getLogger(__name__)

# The name of the file in a run's workdir.
STATS_FILE = "data_stats.json"
# The name of the reference's file, beside its weights.
REFERENCE_STATS_FILE = "pretrain_ds_mean_std.txt"
MAX_STATS_BYTES = 2**20  # about 7,000 lines


class StoredStats(TypedDict):
    """The JSON value of a statistics file."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dataset: NotRequired[str]  # fingerprint of the faces, written by this package's runs


def compute_stats(source: Source, *, replace: bool = False) -> Stats:
    """Returns the mean and the (population) standard deviation over all pixels of a source.

    The sums are exact because they are sums of integers, so the result does not depend on the order
    of the images. Threads read the images; progress goes to stderr.

    Args:
        source: The faces.
        replace: Whether to replace damaged faces as training does.

    Raises:
        DataError: A face is damaged and not replaced.
    """
    threads = available_cores()
    sums = iter(
        grain.MapDataset.range(len(source))
        .map(partial(_power_sums, source, replace=replace))
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    )
    totals = np.zeros((3, 3), np.int64)
    for of_image in progress(sums, total=len(source), description="mean and std"):
        totals += of_image
    sums.close()
    return stats_of_sums(totals.tolist())


def save_stats(path: epath.PathLike, stats: Stats, *, dataset: str | None = None) -> None:
    """Writes the statistics as one line of JSON.

    Args:
        path: The file.
        stats: The statistics.
        dataset: Fingerprint of the faces, if it is known.

    Raises:
        StorageError: The file cannot be written.
    """
    of_data = {} if dataset is None else {"dataset": dataset}
    write_text(epath.Path(path), json.dumps(stats._asdict() | of_data) + "\n")


def load_stats(path: epath.PathLike) -> Stats:
    """Returns the statistics of a JSON file: the first value if the file has several.

    Raises:
        DataError: The file is missing, not a plain file or not such JSON, or has a mean outside 0
            to 1 or a standard deviation outside `MIN_STD` to 1.
    """
    return _load(path)[0]


def forget_stats_of_other_data(workdir: epath.Path, dataset: str) -> None:
    """Deletes statistics that an earlier start of the run stored in the workdir for other data.

    Args:
        workdir: Workdir of a run without a checkpoint. For a run with checkpoints the fingerprint
            decides whether the run may continue with other data.
        dataset: Fingerprint of the faces of this start.

    Raises:
        DataError: As `load_stats`.
    """
    stored = workdir / STATS_FILE
    if not stored.exists():
        return
    of_data = _load(stored)[1]
    if of_data not in (None, dataset):
        logger.warning("%s belongs to other data, from an earlier start: it is replaced", stored)
        stored.unlink()


def _load(path: epath.PathLike) -> tuple[Stats, str | None]:
    """Returns the statistics in a file, and the fingerprint of their data if the file has one."""
    try:
        text = read_bytes(epath.Path(path), max_bytes=MAX_STATS_BYTES).decode("utf-8-sig")
        stored = parse_json(_first_value(text), StoredStats)
        return make_stats(stored["mean"], stored["std"]), stored.get("dataset")
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise DataError(
            f"statistics {path} cannot be read ({reason}); the file must be JSON like"
            ' {"mean": [r, g, b], "std": [r, g, b]} for pixels in 0 to 1'
        ) from error


def _first_value(text: str) -> str:
    """Returns the JSON of the first value, of one line or several; all text if there is none."""
    text = text.lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return text
    rest = text[end:].lstrip(" \t\r")
    return text[:end] if rest.startswith("\n") else text


def known_stats(config: ConfigDict, workdir: epath.Path) -> Stats | None:
    """Returns the statistics in the config, in its file, or from an earlier start of the run.

    Args:
        config: The config's data section.
        workdir: Workdir of the run.

    Returns:
        The statistics, or None before the first start.

    Raises:
        DataError: As `load_stats`.
    """
    if config.mean is not None:
        return make_stats(config.mean, config.std)
    if config.stats_file is not None:
        return load_stats(config.stats_file)
    stored = workdir / STATS_FILE
    return load_stats(stored) if stored.exists() else None


def make_stats(mean: Any, std: Any) -> Stats:
    """Returns the statistics with these means and standard deviations, for pixels in 0 to 1.

    Args:
        mean: Three numbers of a file or config, not yet checked.
        std: Three numbers of a file or config, not yet checked.

    Raises:
        ValueError: There are not three numbers each, or one is out of range.
        TypeError: A value is not a number.
    """
    stats = Stats(_three_floats(mean), _three_floats(std))
    if not all(0 <= mean <= 1 and MIN_STD <= std <= 1 for mean, std in zip(*stats, strict=True)):
        raise ValueError(f"a mean is not in 0 to 1, or a std is not in {MIN_STD} to 1")
    return stats


def _three_floats(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _power_sums(source: Source, index: int, *, replace: bool) -> Int64[np.ndarray, "3 3"]:
    faces, _ = read_faces(source, [int(index)], replace=replace)
    return power_sums(faces[0]["image"])
