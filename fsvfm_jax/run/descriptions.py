"""Writes the files of a workdir that describe a run: config, parameters, size of a step."""

import json
import logging
from typing import Any

import jax
from clu import parameter_overview
from etils import epath
from ml_collections import ConfigDict

from fsvfm_jax.config.resolve import to_json
from fsvfm_jax.devices import distributed
from fsvfm_jax.devices.compilation import CompiledStep
from fsvfm_jax.host.storage import read_stored_json, write_text
from fsvfm_jax.run.failed_start import CONFIG_FILE, PARAMETERS_FILE, STEP_FILE
from fsvfm_jax.train_state import Learner, TrainState
from fsvfm_jax.tuning import count

logger = logging.getLogger(__name__)


def describe_run(
    config: ConfigDict,
    learner: Learner,
    template: TrainState,
    compiled: CompiledStep,
    workdir: epath.Path,
) -> None:
    """Writes the resolved config, the table of parameters and the size of a step; logs their paths.

    `step.json` contains the number of trained parameters, the bytes that a step needs on each
    device by its compiler, and the number of micro-batches.

    Args:
        config: The resolved config.
        learner: The network in training.
        template: Shapes and dtypes of the state.
        compiled: The compiled training step.
        workdir: The run's folder.

    Raises:
        StorageError: A file cannot be written.
    """
    trained = count(jax.eval_shape(learner.trained, template.params))
    table = parameter_table(template.params)
    step = {
        "trained_parameters": trained,
        "bytes_per_device": compiled.memory.total,
        "micro_batches": compiled.accum_steps,
    }
    texts = {
        CONFIG_FILE: to_json(config),
        PARAMETERS_FILE: f"{table}\nTrainable: {trained:,}\n",
        STEP_FILE: json.dumps(step, indent=2) + "\n",
    }
    distributed.on_first_process(
        lambda: [write_text(workdir / name, text) for name, text in texts.items()],
        refusal=f"{workdir} cannot be written",
    )
    logger.info(
        "see %s: %s (all fields), %s (all arrays), metrics.jsonl, images/, tensorboard/",
        *(workdir, CONFIG_FILE, PARAMETERS_FILE),
    )


def warn_of_other_weights(workdir: epath.Path, params: str) -> None:
    """Logs a warning if a run that continues is given other starting weights than it started from.

    Args:
        workdir: Workdir of the run.
        params: `config.init.params` of this start.
    """
    file = workdir / CONFIG_FILE
    if not file.exists():
        return
    stored = read_stored_json(file, dict[str, Any], mend="restore it from a copy")
    started_from = stored.get("init", {}).get("params", "")
    if params != started_from:
        logger.warning(
            "%s continues from its own checkpoint: config.init.params = %r has no effect; the run"
            " started from %r",
            workdir,
            params,
            started_from or "random weights",
        )


def parameter_table(params: dict[str, Any]) -> str:
    """Returns a table of a nested dict of arrays: name, shape, dtype, size, and the total.

    Leaves need only a shape and a dtype, such as those that `jax.eval_shape` returns.
    """
    return parameter_overview.get_parameter_overview(params, include_stats=False)
