"""Gives the faces of a config's sets the groups of a CSV file (`report.groups`)."""

import os
from collections.abc import Mapping, Sequence

from etils import epath
from ml_collections import ConfigDict

from fsvfm_jax.data.labelled.detection_sets import DetectionSet
from fsvfm_jax.data.labelled.set_options import RENDERED
from fsvfm_jax.host.storage import written
from fsvfm_jax.report.groups import Groups, caption, group_rows, match_groups, read_groups
from fsvfm_jax.report.scores import Scores
from fsvfm_jax.report.write import write_table

TABLE = "table_groups"


def open_groups(config: ConfigDict, sets: Mapping[str, DetectionSet]) -> Groups | None:
    """Returns the groups of all faces of the test sets, or None if the config names no file.

    Args:
        config: The resolved config of an evaluation: `groups`, `data`.
        sets: The test sets by name.

    Raises:
        DataError: The file cannot be read or names no face.
    """
    file, column = config.groups.file, config.groups.column
    if not file:
        return None
    table = read_groups(file, column)
    files = {}
    for name, faces in sets.items():
        one = config.data.test[name]
        roots = [] if one.layout == RENDERED else config.data.paths
        folders = [os.path.join(root, one.path, "") for root in roots]
        for index in range(len(faces)):
            face = faces.name(index)
            folder = next((x for x in folders if face.startswith(x)), "")
            files[face] = face.removeprefix(folder)
    return match_groups(table, files, column=column, what=file)


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
            file = folder / f"{TABLE}.{ending}"
            with written(file, mend="remove it, or choose another folder"):
                file.unlink(missing_ok=True)
        return
    rows = [
        {"dataset": one.dataset} | row
        for one in scores
        if len(one.files)
        for row in group_rows(one, groups, thresholds={"0.5": 0.5})
    ]
    write_table(folder, TABLE, rows, caption=caption(groups))
