"""Searches the learning rate of every method of a study in the same way."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from etils import epath
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from fsvfm_jax.benchmark import study
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.errors import NotFiniteError
from fsvfm_jax.host.storage import delete, read_stored_json, replace_bytes, write_text
from fsvfm_jax.report.figure import COLOURS, encode_picture, shown_name
from fsvfm_jax.run.failed_start import CHECKPOINTS

LOSS_FILE = "val_loss.json"
RATES = "rates"

logger = logging.getLogger(__name__)


class StoredLoss(TypedDict):
    """The file of a run of the search; None if its loss was not finite."""

    val_loss: float | None


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


def _val_loss(config: ConfigDict, run: Path) -> float:
    """Trains a run and returns its lowest validation loss; of a done run, the stored one."""
    stored = run / LOSS_FILE
    study.claim(run, resolve(config))
    if stored.exists():
        found = read_stored_json(epath.Path(stored), StoredLoss, mend=study.MEND)["val_loss"]
        return math.inf if found is None else found
    try:
        study.train_run(config, run)
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
