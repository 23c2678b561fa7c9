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

import jax
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
from fsvfm_jax.report.resampling import Resampled, difference, over_seeds_and_sets
from fsvfm_jax.report.rows import Row, of_single_sets
from fsvfm_jax.report.scores import read_scores
from fsvfm_jax.report.write import read_rows, scores_file
from fsvfm_jax.run.failed_start import CHECKPOINTS, CONFIG_FILE, STEP_FILE
from fsvfm_jax.tasks import TASKS

LOSS_FILE = "val_loss.json"
TABLE_FILE = "table.json"
# Fields that change no result: how a run is watched, and on what it runs.
WITHOUT_INFLUENCE = ("tracking.", "watchdog.", "resume.", "mesh.", "compiler_options")
WITHOUT_INFLUENCE += ("accum_steps", "data.num_workers", "max_skipped_steps")
RATES = "rates"
DIFFERENCES = """\
{measure}: difference from the first row, in points of percent, with its 95 % interval. Seeds and
videos are paired. An interval without 0 shows a difference that other seeds and other videos of
these sets would show too; it is not corrected for the number of rows."""

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

    def next_of(self, rates: Sequence[float]) -> float | None:
        """Returns the next rate to search if the best one is the smallest or largest, or None.

        Args:
            rates: The rates to choose from.
        """
        if self.best == list(self.losses)[-1]:
            return min((rate for rate in rates if rate > self.best), default=None)
        return max((rate for rate in rates if rate < self.best), default=None)


def use_cache(folder: Path) -> None:
    """Keeps compiled programs in the folder of a study, since many runs compile the same ones."""
    jax.config.update("jax_compilation_cache_dir", str((folder / "compiled").absolute()))


def train_run(config: ConfigDict, workdir: Path) -> None:
    """Trains a run to its last step; see `train.train`.

    Args:
        config: The config, not resolved.
        workdir: The run's folder.

    Raises:
        ConfigError: The workdir contains a run with another config.
    """
    logger.info("training %s", workdir)
    config = resolve(config)
    claim(workdir, config)
    train.train(config, epath.Path(workdir), task=TASKS[config.task])


def claim(workdir: Path, config: ConfigDict) -> None:
    """Stores a config beside a workdir, so that its run is never taken for one of another config.

    Args:
        workdir: The run's folder.
        config: The resolved config.

    Raises:
        ConfigError: The stored config differs in a field that changes results.
    """
    stored, content = workdir.with_name(f"{workdir.name}.config.json"), to_json(config)
    if stored.exists() and (changed := _changed_field(stored, content)):
        raise ConfigError(
            f"{workdir} belongs to another config.{changed}: give another --output, or delete"
            f" {stored} and this folder"
        )
    workdir.parent.mkdir(parents=True, exist_ok=True)
    write_text(epath.Path(stored), content)


def evaluate_run(config: ConfigDict, run: Path, *, seed: int) -> list[Row]:
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
    if not stored.exists() or _changed_field(stored, content):
        evaluate.evaluate(config, epath.Path(report))
    return of_single_sets(read_rows(report / TABLE_FILE))


def video_scores(config: ConfigDict, run: Path, *, seed: int) -> dict[str, VideoScores]:
    """Returns the score of every test video by set; see `evaluate_run`.

    Args:
        config: As for `evaluate_run`, with one way of choosing the checkpoint.
        run: As for `evaluate_run`.
        seed: As for `evaluate_run`.
    """
    found = {}
    for row in evaluate_run(config, run, seed=seed):
        name = row["dataset"]
        file = run / "report" / scores_file(name, row["selection"])
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
    make: Callable[[float], ConfigDict],
    folder: Path,
    *,
    rates: Sequence[float],
    beyond: Sequence[float] = (),
) -> Search:
    """Trains once at each learning rate, unless it is done, and returns the validation losses.

    If the best of several rates is the smallest or the largest one, the search continues with
    `beyond`. The checkpoints of these runs are deleted.

    Args:
        make: Returns the config of fine-tuning with a peak learning rate.
        folder: The folder of these runs.
        rates: The peak learning rates.
        beyond: Smaller and larger rates, of which the nearest one is always the next.
    """

    def loss(rate: float) -> float:
        return _val_loss(make(rate), folder / f"{rate:g}")

    found = Search({rate: loss(rate) for rate in sorted(rates)})
    while found.is_at_edge and (more := found.next_of(beyond)):
        found = Search(dict(sorted([*found.losses.items(), (more, loss(more))])))
    return found


def differences(
    rows: Mapping[str, Sequence[Mapping[str, Resampled]]], groups: Mapping[str, Sequence[str]]
) -> list[Row]:
    """Returns how the rows of a table differ from its first row, by group of sets.

    Both rows of a pair have the same seeds and the same draws of the videos, so that what they have
    in common does not widen the interval.

    Args:
        rows: A metric by seed and set, for each row by name.
        groups: The sets of each group.
    """
    (reference, first), *others = rows.items()
    found = []
    for name, of_seeds in others:
        row: Row = {"method": f"{name} - {reference}"}
        for group, sets in groups.items():
            pairs = zip(of_seeds, first, strict=True)
            table = [[difference(one[x], other[x]) for x in sets] for one, other in pairs]
            mean, interval = over_seeds_and_sets(table, low=-1.0)
            row |= {f"difference@{group}": mean, f"difference_interval@{group}": interval}
        found.append(row)
    return found


def differences_caption(measure: str) -> str:
    """Returns the caption of a table of `differences` of a measure."""
    return DIFFERENCES.format(measure=measure)


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
        if not math.isfinite(search.losses[search.best]):
            best = "none is finite"
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
    """Returns the first field in which a stored config differs from a resolved one, or None.

    Fields that change no result are left out.
    """
    configs = (read_json(stored, dict[str, Any]), json.loads(content))
    old, new = (traverse_util.flatten_dict(x, sep=".") for x in configs)
    names = (x for x in sorted(old | new) if not x.startswith(WITHOUT_INFLUENCE))
    return next((name for name in names if old.get(name) != new.get(name)), None)


def _val_loss(config: ConfigDict, run: Path) -> float:
    """Trains a run and returns its lowest validation loss; of a done run, the stored one."""
    stored = run / LOSS_FILE
    claim(run, resolve(config))
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
        if not finite:
            continue
        look = {"color": COLOURS[number % len(COLOURS)], "label": shown_name(method)}
        axes.plot(finite.keys(), finite.values(), marker=".", **look)
        best = (search.best, search.losses[search.best])
        axes.plot(*best, marker="o", fillstyle="none", markersize=9, color=look["color"])
    axes.set(xscale="log", xlabel="peak learning rate", ylabel="lowest validation loss (nats)")
    axes.set_title("Search of the learning rates; a circle marks the best", loc="left", fontsize=10)
    axes.grid(color="0.92")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    return figure
