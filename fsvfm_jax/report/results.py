"""The results of an evaluation: a set's row, the text on its protocol, and all files.

An evaluation of a detector of this project and `report scores` both use these functions, so that
their tables can be compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath

from fsvfm_jax.host.markdown import markdown_text
from fsvfm_jax.host.storage import written
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.report.class_formats import FormatCheck, add_to_rows, lines
from fsvfm_jax.report.groups import Groups, caption, group_rows
from fsvfm_jax.report.rows import (
    DETECTION_CAPTION,
    SPOOF_CAPTION,
    Row,
    Selection,
    detection_row,
    spoof_row,
)
from fsvfm_jax.report.scores import Scores
from fsvfm_jax.report.table import plain
from fsvfm_jax.report.write import write_report, write_table

Report = Literal["detection", "spoof"]
CAPTIONS: dict[Report, str] = {"detection": DETECTION_CAPTION, "spoof": SPOOF_CAPTION}
GROUPS_TABLE = "table_groups"

# What a row contains of a detector's training run: its number of steps, its mode, and its number of
# trained parameters. None is for scores without a run.
OF_RUN = ("run_steps", "mode", "trainable")


def set_row(
    report: Report,
    scores: Scores,
    *,
    thresholds: Mapping[str, float | int],
    selection: Selection,
    step: int | None,
    seed: int | None,
    candidates: int,
    of_run: Mapping[str, Any],
    model: str | None,
    alone: bool,
) -> Row:
    """Returns one set's row of a table.

    Args:
        report: The kind of the table.
        scores: Scores of the set.
        thresholds: As in `rows.spoof_row`; a table of detection has none.
        selection: How the checkpoint was chosen.
        step: Step of the checkpoint, if known.
        seed: Seed of the training, if known.
        candidates: Number of checkpoints that it was chosen from.
        of_run: What is known of the training run, by the names in OF_RUN.
        model: The papers' model to compare with.
        alone: As in `rows.detection_row`.

    Raises:
        DataError: As `rows.detection_row`.
    """
    options = {"selection": selection, "step": step, "seed": seed, "model": model, "alone": alone}
    if report == "spoof":
        row = spoof_row(scores, thresholds=thresholds, **options)
    else:
        row = detection_row(scores, **options)
    return row | {"candidates": candidates} | of_run


def set_line(name: str, layout: str, options: Mapping[str, Any], *, grouping: str) -> str:
    """Returns a line of a caption on how a set is read, in Markdown.

    Args:
        name: Name of the set in the table.
        layout: The set's layout.
        options: The options of the set, such as its split; the line leaves out empty ones.
        grouping: Text on how pictures were grouped into videos; "" if the layout says it.
    """
    given = {key: x for key, x in sorted(options.items()) if x not in ("", None, ())}
    if given.get("frames") == 0:
        given["frames"] = "all"
    shown = ", ".join(f"{key} {x}" for key, x in given.items())
    ending = f"; {grouping}" if grouping else ""
    return f"{markdown_text(name)}: {layout} {markdown_text(shown + ending)}."


def write_results(
    folder: epath.Path,
    rows: Sequence[Row],
    scores: Sequence[Scores],
    *,
    report: Report,
    protocol: Sequence[str],
    formats: Mapping[str, FormatCheck],
    groups: Groups | None,
    drawn: int,
) -> None:
    """Writes all files of an evaluation, and prints the main columns of its table.

    Args:
        folder: The folder of the report.
        rows: Rows of `set_row`, and their means.
        scores: The scores behind the rows.
        report: The kind of the table.
        protocol: Lines in Markdown on what a reader needs to compare the numbers with others.
        formats: The check of the files of each set, by the set's name.
        groups: The groups of all faces; None removes the tables of an earlier evaluation.
        drawn: As in `write.write_report`.

    Raises:
        DataError: As `write.write_report`.
        StorageError: A file cannot be written or removed.
    """
    text = "\n".join([CAPTIONS[report], "", *protocol, *lines(formats)])
    rows = add_to_rows(rows, formats)
    write_report(folder, rows, scores, caption=text, drawn=drawn)
    write_groups(folder, scores, groups)
    print(f"\nIn percent; all columns are in {printable(str(folder / 'table.md'))}\n")
    print(plain(rows))


def write_groups(folder: epath.Path, scores: Sequence[Scores], groups: Groups | None) -> None:
    """Writes `table_groups.md` and `table_groups.json`: groups of each set, at the threshold 0.5.

    Args:
        folder: The folder of the report.
        scores: Scores of the sets.
        groups: The groups of all their faces; None removes the tables of an earlier evaluation.

    Raises:
        StorageError: A file cannot be written or removed.
    """
    if groups is None:
        for ending in ("md", "json"):
            file = folder / f"{GROUPS_TABLE}.{ending}"
            with written(file, mend="remove it, or choose another folder"):
                file.unlink(missing_ok=True)
        return
    rows = [
        {"dataset": one.dataset} | row
        for one in scores
        if len(one.files)
        for row in group_rows(one, groups, thresholds={"0.5": 0.5})
    ]
    write_table(folder, GROUPS_TABLE, rows, caption=caption(groups))
