"""Gives the faces of a config's sets the groups of a CSV file (`report.groups`)."""

import os
from collections.abc import Mapping

from ml_collections import ConfigDict

from fsvfm_jax.data.labelled.detection_sets import DetectionSet
from fsvfm_jax.data.labelled.set_options import RENDERED
from fsvfm_jax.report.groups import Groups, match_groups, read_groups


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
