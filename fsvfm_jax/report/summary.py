"""Joins many reports into one table, with means over seeds and over sets.

    python -m fsvfm_jax.report summary runs/*-report/table.json

The papers' anti-spoofing results are means over sets, each of which is tested by separate runs that
leave this domain out of training.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from fsvfm_jax.errors import DataError
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.report.rows import Row, mean_rows, of_single_sets, over_seeds
from fsvfm_jax.report.table import markdown
from fsvfm_jax.report.write import read_rows

CAPTION = """\
In percent: mean +- standard deviation over n seeds. A mean over sets averages the sets' own
metrics for each seed first. Each report describes its metrics:"""


def summary(tables: Sequence[str]) -> str:
    """Returns the table in Markdown.

    Args:
        tables: Files that `report.write.write_report` wrote.

    Raises:
        DataError: A file does not have that form, two files report on the same set, selection and
            seed, or the files of two seeds report on different sets.
    """
    rows = [row for table in tables for row in of_single_sets(read_rows(table))]
    _refuse_twice(rows)
    by_seed = defaultdict(list)
    for row in rows:
        by_seed[row["seed"]].append(row)
    sets = {seed: {row["dataset"] for row in of_seed} for seed, of_seed in by_seed.items()}
    if len({*map(frozenset, sets.values())}) > 1:
        told = "; ".join(f"{seed}: {', '.join(sorted(names))}" for seed, names in sets.items())
        raise DataError(f"the tables of each seed must be of the same sets; there are {told}")
    for seed, of_seed in by_seed.items():
        if len(sets[seed]) > 1:
            of_seed += mean_rows(of_seed)
    return markdown(over_seeds(by_seed), "\n".join([CAPTION, *map(markdown_text, tables)]))


def _refuse_twice(rows: Sequence[Row]) -> None:
    count = Counter((row["dataset"], row["selection"], row["seed"]) for row in rows)
    for (dataset, selection, seed), times in count.items():
        if times > 1:
            raise DataError(
                f"{times} of the tables report of {dataset!r}, {selection}, seed {seed}: give each"
                " once, or say the seed by config.init.seed where they are evaluated"
            )
