"""Counts skipped steps: a step whose loss or gradient is not finite leaves the state unchanged."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from fsvfm_jax.errors import NotFiniteError, StorageError
from fsvfm_jax.host.storage import write_json

logger = logging.getLogger(__name__)

DUMP_FILE = "not_finite.json"


class SkippedSteps:
    """Ends a run after too many skipped steps in a row, and lists what their batches contained.

    Args:
        workdir: The folder in which the list is written, as `not_finite.json`; None writes none.
        limit: Number of skipped steps in a row that is accepted.
    """

    def __init__(self, workdir: epath.Path | None, *, limit: int):
        self._workdir, self._limit = workdir, limit
        self._row: list[dict[str, Any]] = []

    def take(
        self, step: int, numbers: Mapping[str, float], *, describe: Callable[[], dict[str, Any]]
    ) -> None:
        """Counts a step if its metrics show that it was skipped.

        Args:
            step: The step's number.
            numbers: The step's metrics by name.
            describe: Returns what the batch contained; called for skipped steps only.

        Raises:
            NotFiniteError: More than `limit` steps in a row were skipped, or the parameters are not
                finite.
        """
        if not math.isfinite(numbers["param_norm"]):
            raise NotFiniteError(
                f"the parameters are not finite at step {step}: it is not saved. Go on from a"
                " checkpoint before it: --config.resume.step=N"
            )
        if not numbers["skipped"]:
            self._row = []
            return
        norms = {name: numbers[name] for name in ("loss", "grad_norm")}
        self._row.append({"step": step, **norms, **describe()})
        logger.warning("step %d is skipped: %s; %d in a row", step, norms, len(self._row))
        if len(self._row) <= self._limit:
            return
        where = ""
        if self._workdir is not None:
            where = f"; what their batches held is in {self._workdir / DUMP_FILE}"
            try:
                write_json(self._workdir / DUMP_FILE, self._row)
            except StorageError as error:  # The error that ends the run is more important.
                logger.error("%s", error)
                where = ""
        raise NotFiniteError(
            f"loss or gradient was not finite {len(self._row)} steps in a row, the last {step},"
            f" of which config.max_skipped_steps = {self._limit} are accepted{where}. Nothing of"
            " them is saved. Look at the data, or go on from an earlier checkpoint"
            " (--config.resume.step=N) without them (--config.data.skip_ranges), with a lower"
            " config.optimizer.blr, or with model.dtype='float32'"
        )
