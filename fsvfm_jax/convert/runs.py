"""Reads training runs of this project from their workdir: config, data, checkpoints and origin."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import jax
from etils import epath
from ml_collections import ConfigDict
from msgspec import Meta

from fsvfm_jax.config.resolve import ODD_CONFIG, resolve_stored
from fsvfm_jax.convert.card import Text
from fsvfm_jax.convert.source_files import file_sha256, read_source_json
from fsvfm_jax.data.stats import STATS_FILE, Stats, known_stats
from fsvfm_jax.devices import compilation, sharding
from fsvfm_jax.errors import ConfigError, DataError, in_one_line
from fsvfm_jax.learners import LEARNERS, make_learner
from fsvfm_jax.run.checkpoint import Checkpoints
from fsvfm_jax.run.fingerprint import FINGERPRINT_FILE
from fsvfm_jax.run.integrity import STEP_MANIFEST
from fsvfm_jax.run.origin import ORIGIN_FILE
from fsvfm_jax.train_state import TrainState


class Origin(TypedDict):
    """The content of a workdir's origin.json: the weights that its run started from."""

    source: str | None
    source_sha256: str | None
    license: Text | None


class RunData(TypedDict):
    """The part of a run's fingerprint that this module reads."""

    dataset: str
    images: Annotated[int, Meta(ge=1)]


class RunFingerprint(TypedDict):
    """The part of a workdir's fingerprint.json that this module reads."""

    fingerprint: RunData


class Run(NamedTuple):
    """A training run of this project at a checkpoint.

    Attributes:
        state: The training state.
        config: The resolved config.
        stats: Mean and deviation that normalise the images.
        epoch: The last finished epoch, from 0; -1 if none is finished.
        dataset_fingerprint: Fingerprint of the training set.
        sha256: SHA-256 of the checkpoint's manifest, which contains the hashes of all its files.
        license: Licence of the weights that the run started from, if any and if known.
    """

    state: TrainState
    config: ConfigDict
    stats: Stats
    epoch: int
    dataset_fingerprint: str
    sha256: str
    license: str | None


def is_run(path: Path) -> bool:
    """Returns whether a path is a workdir of this project that has checkpoints."""
    return (path / "checkpoints").is_dir()


def origin_license(workdir: Path) -> str | None:
    """Returns the licence of the weights that a run started from.

    It is None if there were no such weights, or their licence is unknown.

    Raises:
        DataError: The file that contains the licence is damaged.
    """
    file = workdir / ORIGIN_FILE
    if not file.exists():
        return None
    return read_source_json(file, Origin, what="the origin of a run")["license"]


def run_config(workdir: Path) -> ConfigDict:
    """Returns the resolved config of a training run of this project.

    Raises:
        DataError: The workdir contains no config, or one that no run can have.
    """
    file = workdir / "config.json"
    if not file.exists():
        raise DataError(f"in {workdir} no run has started yet: start it, or use what it is made of")
    what = "that of a training run"
    try:
        content = read_source_json(file, dict[str, Any], what=what)
        if content.get("task") not in LEARNERS:
            raise DataError(f"{file} is not {what}")
        return resolve_stored(content)
    except (ConfigError, *ODD_CONFIG) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is not {what}, or of another version ({reason})") from error


def run_data(workdir: Path) -> RunData:
    """Returns the part of a run's fingerprint that describes its data.

    Raises:
        DataError: The workdir has no fingerprint.
    """
    file = workdir / FINGERPRINT_FILE
    return read_source_json(file, RunFingerprint, what="a run's fingerprint")["fingerprint"]


def read_run(workdir: Path, *, step: int | None = None) -> Run:
    """Reads a checkpoint of a workdir, with the config and statistics stored there.

    Args:
        workdir: Workdir of the run, which may still be training.
        step: Step of the checkpoint; None for the newest.

    Raises:
        DataError: The workdir contains no run, or an incomplete one.
        ConfigError: There is no checkpoint of that step, or it is damaged.
    """
    config = run_config(workdir)
    try:
        stats = known_stats(config.data, epath.Path(workdir))
        if stats is None:
            raise DataError(f"{workdir} has no mean and std: {STATS_FILE} is missing")
        data = run_data(workdir)
        learner = make_learner(config, stats=stats)
        mesh = sharding.make_mesh({"data": 1, "fsdp": 1}, jax.local_devices()[:1])
        template = compilation.state_template(learner, mesh)
        directory = workdir / "checkpoints"
        with Checkpoints(epath.Path(directory), keep=1, read_only=True) as saved:
            if step is None:
                restored = saved.restore_newest_valid(template)
            else:
                restored = saved.restore(template, step=step)
        if restored is None:
            raise DataError(f"{workdir} has no checkpoint")
        return Run(
            restored.state,
            config,
            stats,
            epoch=restored.samples_seen // data["images"] - 1,
            dataset_fingerprint=data["dataset"],
            sha256=file_sha256(directory / str(int(restored.state.step)) / STEP_MANIFEST),
            license=origin_license(workdir),
        )
    except ODD_CONFIG as error:
        raise DataError(
            f"{workdir} is not whole, or of another version: what lies beside its checkpoints"
            f" does not fit them ({in_one_line(error)})"
        ) from error
