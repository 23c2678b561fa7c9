"""Trains and tests the runs of a study, and searches learning rates in the same way for all.

Every run has a folder of its own. A run that is done is not repeated, and a run that was stopped
continues from its newest checkpoint.
"""

import json
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from flax import traverse_util
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from fsvfm_jax import evaluate, train
from fsvfm_jax.config.resolve import resolve, to_json
from fsvfm_jax.errors import ConfigError, NotFiniteError
from fsvfm_jax.host.json_files import parse_json, read_json
from fsvfm_jax.host.storage import delete, replace_bytes, write_text
from fsvfm_jax.report.figure import COLOURS, encode_picture, shown_name
from fsvfm_jax.report.metrics import VideoScores, video_means
from fsvfm_jax.report.rows import Row, of_single_sets
from fsvfm_jax.report.scores import read_scores
from fsvfm_jax.report.write import read_rows
from fsvfm_jax.run.failed_start import CHECKPOINTS, CONFIG_FILE, STEP_FILE
from fsvfm_jax.tasks import TASKS

LOSS_FILE = "val_loss.json"
TABLE_FILE = "table.json"
RATES = "rates"

logger = logging.getLogger(__name__)


class Search(NamedTuple):
    """The validation losses of one method at different learning rates.

    Attributes:
        losses: The lowest validation loss of a run by its peak learning rate, in ascending order of
            the rates; infinite if the loss or the gradient of the run was not finite.
    """

    losses: dict[float, float]

    @property
    def best(self) -> float:
        """The rate with the lowest loss; of equal ones the smallest."""
        return min(self.losses, key=self.losses.__getitem__)

    @property
    def is_at_edge(self) -> bool:
        """Whether the best of several rates is the smallest or the largest one."""
        rates = list(self.losses)
        return len(rates) > 1 and self.best in (rates[0], rates[-1])


def train_run(config: ConfigDict, workdir: Path) -> None:
    """Trains a run to its last step; see `train.train`.

    The config is stored beside the workdir, so that a run of an earlier config is never taken for
    one of this config.

    Args:
        config: The config, not resolved.
        workdir: The run's folder.

    Raises:
        ConfigError: The workdir contains a run with another config.
    """
    logger.info("training %s", workdir)
    config = resolve(config)
    stored, content = workdir.with_name(f"{workdir.name}.config.json"), to_json(config)
    if workdir.exists() and (changed := _changed_field(stored, content)):
        raise ConfigError(
            f"{workdir} contains a run with another config.{changed}: give another --output, or"
            " delete this folder"
        )
    workdir.parent.mkdir(parents=True, exist_ok=True)
    write_text(epath.Path(stored), content)
    train.train(config, epath.Path(workdir), task=TASKS[config.task])


def test_run(config: ConfigDict, run: Path, *, seed: int) -> list[Row]:
    """Returns the rows of the run's report, one for each set.

    A report is made once for a config.

    Args:
        config: The config of the evaluation, not resolved and without a detector.
        run: The workdir of the detector.
        seed: The seed of the run, for the table.
    """
    config.init.params = str(run)
    config.init.seed = seed
    config = resolve(config)
    report = run / "report"
    stored, content = report / "evaluation.json", to_json(config)
    if not (report / TABLE_FILE).exists() or _changed_field(stored, content):
        evaluate.evaluate(config, epath.Path(report))
    return of_single_sets(read_rows(report / TABLE_FILE))


def test_videos(config: ConfigDict, run: Path, *, seed: int) -> dict[str, VideoScores]:
    """Returns the score of every test video by set; see `test_run`.

    Args:
        config: As for `test_run`, with one way of choosing the checkpoint.
        run: As for `test_run`.
        seed: As for `test_run`.
    """
    found = {}
    for row in test_run(config, run, seed=seed):
        name = row["dataset"]
        file = run / "report" / "scores" / f"{name}_{row['selection']}.csv"
        scores = read_scores(file, dataset=name)
        found[name] = video_means(scores.p_fake, scores.fake, scores.videos)
    return found


def training_seconds(run: Path) -> float:
    """Returns the median time of a step times the steps: the time without starts and validation.

    Args:
        run: The workdir of a run that is done.
    """
    config = json.loads((run / CONFIG_FILE).read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    if not rates:
        return math.nan
    return lines[-1]["step"] * config["batch_size"] / statistics.median(rates)


def step_size(run: Path) -> dict[str, int | float]:
    """Returns the trained parameters, the memory of a step in GB, and the micro-batches.

    Args:
        run: The workdir of a run.
    """
    stored = read_json(run / STEP_FILE, dict[str, int])
    return {
        "trainable": stored["trained_parameters"],
        "memory": stored["bytes_per_device"] / 1e9,
        "micro_batches": stored["micro_batches"],
    }


def search_rate(
    make: Callable[[float], ConfigDict], folder: Path, *, rates: Sequence[float]
) -> Search:
    """Trains once at each learning rate, unless it is done, and returns the validation losses.

    The checkpoints of these runs are deleted.

    Args:
        make: Returns the config of fine-tuning with a peak learning rate.
        folder: The folder of these runs.
        rates: The peak learning rates.
    """
    return Search({rate: _val_loss(make(rate), folder / f"{rate:g}") for rate in sorted(rates)})


def write_searches(folder: Path, searches: Mapping[str, Search]) -> str:
    """Writes the losses of all methods as `rates.json`, `rates.md` and `rates.png`.

    Args:
        folder: The folder of the study.
        searches: At least one search, by method.

    Returns:
        The table in Markdown.
    """
    rates = sorted({rate for search in searches.values() for rate in search.losses})
    heads = ["method", *(f"{rate:g}" for rate in rates), "best"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for method, search in searches.items():
        best = f"{search.best:g}" + (" (at the edge)" if search.is_at_edge else "")
        lines.append([method, *(_loss_cell(search.losses.get(rate)) for rate in rates), best])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    stored = {}
    for method, search in searches.items():
        losses = {f"{k:g}": x if math.isfinite(x) else None for k, x in search.losses.items()}
        stored[method] = {"best": search.best, "at_edge": search.is_at_edge, "val_loss": losses}
    write_text(epath.Path(folder / f"{RATES}.md"), text)
    write_text(epath.Path(folder / f"{RATES}.json"), json.dumps(stored, indent=1) + "\n")
    replace_bytes(epath.Path(folder / f"{RATES}.png"), encode_picture(_curves(searches)))
    return text


def _loss_cell(loss: float | None) -> str:
    if loss is None:
        return ""
    return f"{loss:.4f}" if math.isfinite(loss) else "not finite"


def _changed_field(stored: Path, content: str) -> str | None:
    """Returns the first field in which a stored config differs from a resolved one, or None."""
    old = read_json(stored, dict[str, Any]) if stored.exists() else {}
    old, new = (traverse_util.flatten_dict(x, sep=".") for x in (old, json.loads(content)))
    return next((name for name in sorted(old | new) if old.get(name) != new.get(name)), None)


def _val_loss(config: ConfigDict, run: Path) -> float:
    """Trains a run and returns its lowest validation loss; of a done run, the stored one."""
    stored = run / LOSS_FILE
    if stored.exists():
        found = parse_json(stored.read_bytes(), dict[str, float | None])["val_loss"]
        return math.inf if found is None else found
    try:
        train_run(config, run)
        lines = (run / "validation.jsonl").read_text().splitlines()
        loss = min(json.loads(line)["val_loss"] for line in lines)
    except NotFiniteError as error:
        logger.warning("%s: %s", run, error)
        loss = math.inf
    content = json.dumps({"val_loss": loss if math.isfinite(loss) else None})
    write_text(epath.Path(stored), content)
    delete(epath.Path(run / CHECKPOINTS))
    return loss


def _curves(searches: Mapping[str, Search]) -> Figure:
    """Returns a figure with a curve for each method; a circle marks its best rate."""
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, (method, search) in enumerate(searches.items()):
        finite = {rate: x for rate, x in search.losses.items() if math.isfinite(x)}
        look = {"color": COLOURS[number % len(COLOURS)], "label": shown_name(method)}
        axes.plot(finite.keys(), finite.values(), marker=".", **look)
        if finite:
            best = (search.best, search.losses[search.best])
            axes.plot(*best, marker="o", fillstyle="none", markersize=9, color=look["color"])
    axes.set(xscale="log", xlabel="peak learning rate", ylabel="lowest validation loss (nats)")
    axes.set_title("Search of the learning rates; a circle marks the best", loc="left", fontsize=10)
    axes.grid(color="0.92")
    axes.legend(fontsize=8)
    return figure
