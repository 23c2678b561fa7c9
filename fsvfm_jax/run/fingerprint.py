"""The fingerprint of everything that the stream of batches depends on, checked when a run resumes.

A position in the stream is a number of samples and does not identify the stream. With another seed,
batch size or list of files the position would still be valid, but some faces would be seen twice
and others never.
"""

import json
import logging
from typing import Any, TypedDict

from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import distributed
from fsvfm_jax.errors import ConfigError, shortened
from fsvfm_jax.host.storage import read_stored_json, write_json

logger = logging.getLogger(__name__)

FINGERPRINT_FILE = "fingerprint.json"


class StoredFingerprint(TypedDict):
    """The content of the file: the fingerprint, and the accepted changes to it."""

    fingerprint: dict[str, Any]
    accepted: list[dict[str, Any]]


def make_fingerprint(
    config: ConfigDict, *, dataset: str, images: int, stats: Stats, of_task: dict[str, Any]
) -> dict[str, Any]:
    """Returns, by name, everything that decides the order of the faces and their processing.

    Args:
        config: The resolved config.
        dataset: The source's own fingerprint.
        images: Number of images of the source.
        stats: Mean and deviation that normalise the images.
        of_task: Further values that the task depends on.
    """
    fingerprint = {
        "dataset": dataset,
        "images": images,
        "mean": list(stats.mean),
        "std": list(stats.std),
        "seed": config.seed,
        "batch_size": config.batch_size,
        "data.weights": list(config.data.weights),
        "model.image_size": config.model.image_size,
        "model.patch_size": config.model.patch_size,
        **of_task,
    }
    # The values are converted as JSON will read them back, for example tuples to lists.
    return json.loads(json.dumps(fingerprint))


def check_fingerprint(
    workdir: epath.Path, fingerprint: dict[str, Any], *, step: int, accept_changes: bool
) -> None:
    """Compares a fingerprint with the one stored in the workdir; a new run stores it.

    Args:
        workdir: Workdir of the run.
        fingerprint: The result of `make_fingerprint`.
        step: Step at which the run continues; 0 for a new run.
        accept_changes: Whether to accept changes and add them to the file.

    Raises:
        ConfigError: The fingerprint differs between processes, or from the stored one; raised on
            every process.
        StorageError: The file cannot be written.
    """
    distributed.check_same(json.dumps(fingerprint), what="data or seeds")
    file = workdir / FINGERPRINT_FILE

    def store() -> None:
        if step == 0 or not file.exists():
            _write(file, fingerprint, accepted=[])

    distributed.on_first_process(store, refusal=f"{file} cannot be written")
    stored = read_stored_json(
        file,
        StoredFingerprint,
        mend="put back a copy of it, or remove it: the data of this command then count as those"
        " that the run was trained with",
    )
    old = stored["fingerprint"]
    changes = {
        name: [old.get(name), value]
        for name, value in fingerprint.items()
        if old.get(name) != value
    }
    if not changes:
        return
    difference = "; ".join(
        f"{name} was {shortened(str(was))} and is {shortened(str(now))}"
        for name, (was, now) in changes.items()
    )
    if not accept_changes:
        raise ConfigError(
            f"{workdir} was trained until step {step} with other data or another order of them:"
            f" {difference}. Give what it was trained with, another --workdir, or"
            " --config.resume.accept_changes=True, which goes on and notes it in"
            f" {FINGERPRINT_FILE}"
        )
    logger.warning("changes accepted from step %d on: %s", step, difference)
    # All processes must have read the file before it is replaced.
    multihost_utils.sync_global_devices("the fingerprint is compared")
    accepted = [*stored["accepted"], {"step": step} | changes]
    distributed.on_first_process(
        lambda: _write(file, fingerprint, accepted=accepted), refusal=f"{file} cannot be written"
    )


def _write(file: epath.Path, fingerprint: dict[str, Any], *, accepted: list[Any]) -> None:
    write_json(file, {"fingerprint": fingerprint, "accepted": accepted})
