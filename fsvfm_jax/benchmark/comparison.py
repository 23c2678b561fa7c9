"""Compares encoders and ways to tune them on the same sets: `benchmark compare`.

Every encoder is trained in every mode, by the recipe of the mode, with the same search of the
learning rate and the same seeds.
"""

import argparse
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from etils import epath
from ml_collections import ConfigDict

from fsvfm_jax.benchmark import rate_search, study
from fsvfm_jax.benchmark.comparison_cells import Cell, cells_of, evaluation
from fsvfm_jax.errors import ConfigError, NotFiniteError, OutOfMemory, StepTooLarge, short_list
from fsvfm_jax.host.storage import read_stored_json
from fsvfm_jax.report import published
from fsvfm_jax.report.figure import encode_picture
from fsvfm_jax.report.intervals_figure import intervals_figure
from fsvfm_jax.report.resampling import Resampled, over_seeds_and_sets, resampled_auc
from fsvfm_jax.report.rows import Row
from fsvfm_jax.report.write import write_file, write_table
from fsvfm_jax.run.origin import ORIGIN_FILE

TABLE = "compare"
DIFFERENCES = "compare_differences"
MEAN = "mean"
CAPTION = """\
Each row is an encoder that was trained in one mode, with the recipe of that mode and {seeds}.
Checkpoints are those with the lowest loss on the validation faces. Video AUC in percent{spread};
"{mean}" is the mean over the sets. {rates}{edges}
"trained" is the number of trained parameters, "GB" the memory of a training step on one device as
the compiler reports it, and "minutes" the median time of a step times the steps.{papers}\
{left_out}"""
OF_PAPERS = """
A row with a value in "paper" contains the results of that paper, by its own recipe, for the model
in "encoder"; the row above it is ours."""
OF_VIDEOS = ", with the 95 % interval over videos in brackets"
OF_SEEDS = (
    ": mean +- deviation over the seeds, and in brackets the 95 % interval over seeds and videos"
)
SEARCHED = """\
The learning rate is the one of config.rates with the lowest validation loss in a run with seed
{seed} (rates.md)"""
# Why a row has no results; the other rows are made.
NOTES = {
    NotFiniteError: "a run was not finite",
    StepTooLarge: "a step does not fit in memory",
    OutOfMemory: "memory ran out",
}
logger = logging.getLogger(__name__)


class StoredOrigin(TypedDict):
    """The field of a run's origin.json that is compared."""

    source_sha256: str | None


def benchmark_compare(args: argparse.Namespace, config: ConfigDict) -> None:
    """Runs the missing parts in the folder; writes `compare.md`, `.json` and `.png` there.

    The table is written after every row.

    Args:
        args: The arguments of `benchmark compare`.
        config: A config of configs/compare/.

    Raises:
        ConfigError: A field has a value that is not allowed, or the weights of an encoder have
            changed since a run started.
        DataError: The weights of an encoder do not exist.
    """
    cells, left_out = cells_of(config)
    folder = study.open_folder(args.output)
    faces = study.tested_faces(evaluation(config))
    searches: dict[str, rate_search.Search] = {}
    rows: list[Row] = []
    aucs: dict[str, list[dict[str, Resampled]]] = {}
    for number, cell in enumerate(cells, 1):
        logger.info("row %d of %d: %s", number, len(cells), cell.name)
        rates = config.rates[cell.mode]
        row: Row = {"encoder": cell.encoder, "mode": cell.mode, "pool": cell.config.model.pool}
        try:
            if len(rates) > 1:
                searches[cell.name] = _search(folder, cell, rates, seed=config.tuning_seed)
            row["rate"] = searches[cell.name].best if len(rates) > 1 else rates[0]
            found = _train_and_test(folder, cell, config, rate=row["rate"], faces=faces)
            aucs[f"{cell.encoder}, {cell.mode}"] = found
            row |= _auc_fields(found) | _costs(folder, cell, config, rate=row["rate"])
        except tuple(NOTES) as error:
            logger.warning("%s: %s", cell.name, error)
            row["note"] = NOTES[type(error)]
        rows.append(row)
        table = _with_published(rows, cells)
        caption = _caption(config, searches, left_out, has_papers=len(table) > len(rows))
        write_table(folder, TABLE, table, caption=caption)
        _write_others(folder, rows, aucs, searches)
    print((folder / f"{TABLE}.md").read_text())


def _with_published(rows: Sequence[Row], cells: Sequence[Cell]) -> list[Row]:
    """Returns the rows, and below a row the results of the papers' model for it, if there are any.

    Args:
        rows: The rows that are done.
        cells: The cells of the comparison, in the order of the rows.
    """
    found: list[Row] = []
    for row, cell in zip(rows, cells, strict=False):  # The last cells have no row yet.
        found.append(row)
        model = cell.published
        sets = [name for key in row if (name := key.partition("video_auc@")[2]) and name != MEAN]
        results = {name: published.find(model, name, "video_auc") for name in sets}
        results[MEAN] = published.find_average(model, sets)
        results = {x: one for x, one in results.items() if one and one.metric == "video_auc"}
        if results:
            sources = "; ".join(dict.fromkeys(one.source for one in results.values()))
            values = {
                f"video_auc@{name}": {"mean": one.percent / 100, "sd": None, "n": 1}
                for name, one in results.items()
            }
            found.append({"encoder": model, "mode": row["mode"], "paper": sources, **values})
    return found


def _write_others(
    folder: Path,
    rows: Sequence[Row],
    aucs: Mapping[str, Sequence[Mapping[str, Resampled]]],
    searches: Mapping[str, rate_search.Search],
) -> None:
    """Writes what belongs to the table: the searches, the picture and the differences."""
    if searches:
        rate_search.write_searches(folder, searches)
    if not aucs:
        return
    drawn = intervals_figure(
        [row for row in rows if "note" not in row],
        list(aucs),
        metric="video_auc",
        title="Video AUC of each encoder and mode, by set",
    )
    write_file(epath.Path(folder), f"{TABLE}.png", encode_picture(drawn))
    if len(aucs) > 1:
        groups = _groups(next(iter(aucs.values())))
        of_pairs = study.differences(aucs, groups)
        write_table(folder, DIFFERENCES, of_pairs, caption=study.differences_caption("Video AUC"))


def _search(folder: Path, cell: Cell, rates: Sequence[float], *, seed: int) -> rate_search.Search:
    def at_rate(rate: float) -> ConfigDict:
        return cell.run_config(rate=rate, seed=seed)

    runs = folder / cell.name / "rates"
    found = rate_search.search_rate(at_rate, runs, rates=rates)
    for rate in found.losses:
        _check_weights(cell, runs / f"{rate:g}")
    return found


def _run(folder: Path, cell: Cell, *, rate: float, seed: int) -> Path:
    """Returns the workdir of a run. A change of the best rate makes other runs."""
    return folder / cell.name / f"rate-{rate:g}" / str(seed)


def _train_and_test(
    folder: Path, cell: Cell, config: ConfigDict, *, rate: float, faces: str
) -> list[dict[str, Resampled]]:
    """Trains and tests a row, and returns the video AUCs by seed and set.

    Raises:
        NotFiniteError: The loss or the gradient of a run is not finite.
        StepTooLarge: The devices have too little memory for a step.
        OutOfMemory: The memory of the devices ran out.
    """
    of_seeds = []
    for seed in config.seeds:
        run = _run(folder, cell, rate=rate, seed=seed)
        study.train_run(cell.run_config(rate=rate, seed=seed), run)
        _check_weights(cell, run)
        videos = study.video_scores(evaluation(config), run, seed=seed, faces=faces)
        of_seeds.append({name: resampled_auc(x, of=name) for name, x in videos.items()})
    return of_seeds


def _check_weights(cell: Cell, run: Path) -> None:
    """Raises ConfigError if a run started from other weights than the encoder has now."""
    if not cell.sha256:
        return
    origin = read_stored_json(epath.Path(run / ORIGIN_FILE), StoredOrigin, mend=study.MEND)
    if origin["source_sha256"] != cell.sha256:
        raise ConfigError(
            f"config.encoders.{cell.encoder}.params = {cell.config.init.params!r} has changed since"
            f" {run} was trained: give another --output, or delete {run.parent.parent}"
        )


def _groups(of_seeds: Sequence[Mapping[str, Resampled]]) -> dict[str, list[str]]:
    """Returns every set as a group, and all sets as the last one."""
    names = list(of_seeds[0])
    return {name: [name] for name in names} | {MEAN: names}


def _auc_fields(of_seeds: Sequence[Mapping[str, Resampled]]) -> Row:
    row: Row = {}
    for group, names in _groups(of_seeds).items():
        mean, interval = over_seeds_and_sets([[one[name] for name in names] for one in of_seeds])
        row |= {f"video_auc@{group}": mean, f"video_auc_interval@{group}": interval}
    return row


def _costs(folder: Path, cell: Cell, config: ConfigDict, *, rate: float) -> Row:
    runs = [_run(folder, cell, rate=rate, seed=seed) for seed in config.seeds]
    seconds = [x for run in runs if (x := study.training_seconds(run)) is not None]
    minutes = {"minutes": statistics.median(seconds) / 60} if seconds else {}
    return {"epochs": cell.config.epochs} | minutes | study.step_size(runs[0])


def _caption(
    config: ConfigDict,
    searches: Mapping[str, rate_search.Search],
    left_out: Sequence[str],
    *,
    has_papers: bool,
) -> str:
    edges = [name for name, search in searches.items() if search.is_at_edge]
    if any(len(config.rates[mode]) > 1 for mode in config.modes):
        rates = SEARCHED.format(seed=config.tuning_seed)
    else:
        rates = "The learning rates are given (config.rates)"
    at_edge = f"; the best one is the smallest or the largest for {', '.join(edges)}."
    missing = f"\nNot compared, since no weights are given: {short_list(left_out)}."
    several = len(config.seeds) > 1
    return CAPTION.format(
        seeds=f"{len(config.seeds)} seed{'s' * several}",
        spread=OF_SEEDS if several else OF_VIDEOS,
        mean=MEAN,
        rates=rates,
        edges=at_edge if edges else ".",
        papers=OF_PAPERS if has_papers else "",
        left_out=missing if left_out else "",
    )
