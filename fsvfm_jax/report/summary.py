"""Joins many reports into one table, with means over seeds and over sets.

    python -m fsvfm_jax.report summary runs/*-report/table.json
    python -m fsvfm_jax.report summary ours=runs/dfd-report/table.json theirs=report/table.json

The papers' anti-spoofing results are means over sets, each of which is tested by separate runs that
leave this domain out of training.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from fsvfm_jax.errors import DataError
from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.report.rows import Row, mean_rows, of_single_sets, over_seeds
from fsvfm_jax.report.table import markdown
from fsvfm_jax.report.write import read_rows, split_name

CAPTION = """\
In percent: mean +- standard deviation over n seeds. A mean over sets averages the sets' own
metrics for each seed first. Each report describes its metrics:"""


def summary(tables: Sequence[str]) -> str:
    """Returns the table in Markdown.

    Args:
        tables: Files that `report.write.write_report` wrote; a name and = before a file make the
            name the method of its rows.

    Raises:
        DataError: A file does not have that form, two files report on the same method, set,
            selection and seed, or the files of two seeds report on different sets.
    """
    rows = [row for table in tables for row in _rows_of(table)]
    _refuse_twice(rows)
    by_training = defaultdict(list)
    for row in rows:
        by_training[row.get("method"), row["seed"]].append(row)
    sets = {key: {row["dataset"] for row in of_one} for key, of_one in by_training.items()}
    if len({*map(frozenset, sets.values())}) > 1:
        found = "; ".join(
            f"{' '.join(str(x) for x in (method, seed) if x is not None)}:"
            f" {', '.join(sorted(names))}"
            for (method, seed), names in sets.items()
        )
        raise DataError(
            f"the tables of each method and seed must be of the same sets; there are {found}"
        )
    for key, of_one in by_training.items():
        if len(sets[key]) > 1:
            of_one += mean_rows(of_one)
    return markdown(over_seeds(by_training), "\n".join([CAPTION, *map(markdown_text, tables)]))


def _rows_of(table: str) -> list[Row]:
    """Returns the rows of single sets of a table, with the method that stands before its name."""
    method, file = split_name(table)
    rows = of_single_sets(read_rows(file))
    return rows if method is None else [{"method": method} | row for row in rows]


def _refuse_twice(rows: Sequence[Row]) -> None:
    count = Counter(
        (row.get("method"), row["dataset"], row["selection"], row["seed"]) for row in rows
    )
    for (_, dataset, selection, seed), times in count.items():
        if times > 1:
            raise DataError(
                f"{times} of the tables report of {dataset!r}, {selection}, seed {seed}: give each"
                " once, name the detector of each as METHOD=TABLE, or say the seed by"
                " config.init.seed where they are evaluated"
            )
