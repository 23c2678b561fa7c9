"""Compares encoders and ways to tune them on the same sets: `benchmark compare`.

Every encoder is trained in every mode with the same search of the learning rate, the same budget
and the same seeds. It must run in the folder that contains `configs/`, or with a config of the
package.
"""

import argparse
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from fsvfm_jax.benchmark import study
from fsvfm_jax.config.checks import check_fields
from fsvfm_jax.config.comparison_fields import COMPARISON, ENCODER
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.errors import ConfigError, DataError, told
from fsvfm_jax.report.figure import encode_picture
from fsvfm_jax.report.intervals_figure import intervals_figure
from fsvfm_jax.report.resampling import over_seeds_and_sets, resampled_auc
from fsvfm_jax.report.rows import Row
from fsvfm_jax.report.write import write_file, write_table

TABLE = "compare"
MEAN = "mean"
CAPTION = """\
Each row is an encoder that was trained in one mode, with {seeds}. Checkpoints are those with the
lowest loss on the validation faces. Video AUC in percent: mean +- deviation over the seeds, and in
brackets the 95 % interval over seeds and videos; "{mean}" is the mean over the sets. The peak
learning rate is the one of {rates} with the lowest validation loss in a run with seed {tuning_seed}
(rates.md){edges}. "trained" is the number of trained parameters, "GB" the memory of a training step
on one device by its compiler, and "minutes" the median time of a step times the steps.{left_out}"""

logger = logging.getLogger(__name__)


class Cell(NamedTuple):
    """One row of the comparison.

    Attributes:
        encoder: Name of the encoder.
        mode: The mode of fine-tuning.
        config: The config of its runs, without learning rate and seed.
    """

    encoder: str
    mode: str
    config: ConfigDict

    @property
    def name(self) -> str:
        """The name of the row in messages, and of its folder."""
        return f"{self.encoder}-{self.mode}"

    def run_config(self, *, rate: float, seed: int) -> ConfigDict:
        """Returns the config of a run, not resolved.

        Args:
            rate: The peak learning rate.
            seed: The seed of the run.
        """
        c = self.config.copy_and_resolve_references()
        c.optimizer.lr = rate
        c.seed = seed
        return c


def benchmark_compare(args: argparse.Namespace, config: ConfigDict) -> None:
    """Runs the missing parts in the folder; writes `compare.md`, `.json` and `.png` there.

    The table is written after every row.

    Args:
        args: The arguments of `benchmark compare`.
        config: A config of configs/compare/.

    Raises:
        ConfigError: A field has a value that is not allowed.
        DataError: The weights of an encoder do not exist.
    """
    cells, left_out = cells_of(config)
    if jax.process_count() > 1:
        raise ConfigError(
            f"benchmark compare runs in one process, and not in {jax.process_count()}: start it on"
            " one machine"
        )
    folder = Path(args.output)
    # The cache saves time because many runs compile the same programs.
    jax.config.update("jax_compilation_cache_dir", str((folder / "compiled").absolute()))
    searches: dict[str, study.Search] = {}
    rows: list[Row] = []
    for number, cell in enumerate(cells, 1):
        logger.info("row %d of %d: %s", number, len(cells), cell.name)
        rates = config.rates[cell.mode]
        rate = rates[0]
        if len(rates) > 1:
            searches[cell.name] = _search(folder, cell, rates, seed=config.tuning_seed)
            rate = searches[cell.name].best
        rows.append(_row(folder, cell, config, rate=rate))
        caption = _caption(config, searches, left_out)
        write_table(folder, TABLE, rows, caption=caption)
        if searches:
            study.write_searches(folder, searches)
        labels = [f"{row['encoder']}, {row['mode']}" for row in rows]
        title = "Video AUC of each encoder and mode, by set"
        drawn = intervals_figure(rows, labels, metric="video_auc", title=title)
        write_file(epath.Path(folder), f"{TABLE}.png", encode_picture(drawn))
    print((folder / f"{TABLE}.md").read_text())


def cells_of(config: ConfigDict) -> tuple[list[Cell], list[str]]:
    """Returns the rows of a comparison, and the names of the encoders that have no weights.

    All configs are checked before anything is trained.

    Args:
        config: A config of configs/compare/.

    Raises:
        ConfigError: A field has a value that is not allowed.
        DataError: The weights of an encoder do not exist.
    """
    config = config.copy_and_resolve_references()
    check_fields(config, COMPARISON)
    _check_numbers(config)
    for mode in config.modes:
        if mode not in config.train:
            raise ConfigError(
                f"config.train has no config for the mode {mode!r} of config.modes: it has"
                f" {', '.join(config.train)}"
            )
    cells, left_out = [], []
    for name, encoder in config.encoders.items():
        check_fields(encoder, ENCODER, within=f"encoders.{name}.")
        if encoder.params is None:
            left_out.append(name)
            continue
        if encoder.params and not epath.Path(encoder.params).exists():
            raise DataError(f"config.encoders.{name}.params = {encoder.params!r} does not exist")
        for mode in config.modes:
            c = config.train[mode].copy_and_resolve_references()
            c.init.update(params=encoder.params, entry=encoder.entry, branch=encoder.branch)
            if config.paths:
                c.data.paths = config.paths
            cells.append(Cell(name, mode, c))
    if not cells:
        raise ConfigError(
            "config.encoders has no weights: give some, such as --config.encoders."
            f"{left_out[0] if left_out else 'NAME'}.params=WEIGHTS"
        )
    for cell in cells:
        for rate in config.rates[cell.mode]:
            resolve(cell.run_config(rate=rate, seed=config.seeds[0]))
    return cells, left_out


def _check_numbers(config: ConfigDict) -> None:
    """Raises ConfigError if modes, seeds or rates are missing or repeat."""
    lists = {"modes": config.modes, "seeds": config.seeds}
    lists |= {f"rates.{mode}": config.rates[mode] for mode in config.modes}
    for name, values in lists.items():
        if not values or len(set(values)) < len(values):
            given = told(tuple(values))
            raise ConfigError(f"config.{name} = {given} must be different, at least one")
    if config.tuning_seed in config.seeds:
        raise ConfigError(
            f"config.tuning_seed = {config.tuning_seed} is among config.seeds: give another one, so"
            " that no learning rate is chosen on a run that is compared"
        )


def _search(folder: Path, cell: Cell, rates: Sequence[float], *, seed: int) -> study.Search:
    def at_rate(rate: float) -> ConfigDict:
        return cell.run_config(rate=rate, seed=seed)

    return study.search_rate(at_rate, folder / cell.name / "rates", rates=rates)


def _row(folder: Path, cell: Cell, config: ConfigDict, *, rate: float) -> Row:
    """Trains and tests a row with every seed, and returns its fields."""
    of_seeds, seconds = [], []
    runs = folder / cell.name / f"rate-{rate:g}"
    for seed in config.seeds:
        run = runs / str(seed)
        study.train_run(cell.run_config(rate=rate, seed=seed), run)
        test = config.test.copy_and_resolve_references()
        test.data.paths = config.paths or test.data.paths
        videos = study.test_videos(test, run, seed=seed)
        of_seeds.append({name: resampled_auc(x) for name, x in videos.items()})
        seconds.append(study.training_seconds(run))
    row: dict[str, Any] = {"encoder": cell.encoder, "mode": cell.mode, "rate": rate}
    names = list(of_seeds[0])
    for group, members in {**{name: [name] for name in names}, MEAN: names}.items():
        table = [[of_seed[name] for name in members] for of_seed in of_seeds]
        mean, interval = over_seeds_and_sets(table)
        row |= {f"video_auc@{group}": mean, f"video_auc_interval@{group}": interval}
    row["minutes"] = statistics.median(seconds) / 60
    return row | study.step_size(runs / str(config.seeds[0]))


def _caption(config: ConfigDict, searches: dict[str, study.Search], left_out: list[str]) -> str:
    edges = [name for name, search in searches.items() if search.is_at_edge]
    missing = f"\nNot compared, since no weights are given: {', '.join(left_out)}."
    return CAPTION.format(
        seeds=f"{len(config.seeds)} seed{'s' * (len(config.seeds) > 1)}",
        mean=MEAN,
        rates="config.rates",
        tuning_seed=config.tuning_seed,
        edges=f"; the best one is the smallest or the largest for {', '.join(edges)}" * bool(edges),
        left_out=missing * bool(left_out),
    )
