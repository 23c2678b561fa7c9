"""The layout of labelled sets that have a text list for each class, as GenD has them."""

import os
from collections.abc import Iterator

from fsvfm_jax.data.labelled.list_layouts import class_folders, find_frames, unquoted
from fsvfm_jax.data.labelled.lists import find_picture, read_lines
from fsvfm_jax.data.labelled.set_root import SetRoot
from fsvfm_jax.data.labelled.videos import Picture, Video, group_pictures, is_image
from fsvfm_jax.errors import ConfigError, DataError, quoted, reason_of


def read_lists(
    root: SetRoot, *, split: str, list_file: str = "", strip_prefix: str = "", videos: str = ""
) -> Iterator[Video]:
    """Yields the videos of a folder of text lists, one for each class, whose lines are paths.

    The class is the name of a list without `.txt`, such as "real" or "Celeb-synthesis".

    Args:
        root: The set, to which the paths are relative.
        split: Name of the folder with the lists, if `list_file` is empty.
        list_file: Path of that folder in the set.
        strip_prefix: As in `read_list`.
        videos: As in `read_list`.

    Raises:
        ConfigError: Neither split nor folder is given, or `videos` is wrong.
        DataError: The folder has fewer than two lists, a list cannot be read, or a path leads out
            of the set.
    """
    if not (list_file or split):
        raise ConfigError(f"{root.path}: name a split, or the folder of lists as list_file")
    folder = os.path.join(root.path, list_file or split)
    pictures, named = [], []
    for file in _lists_in(folder):
        label = os.path.splitext(file)[0]
        if root.excluded.has([label]):
            continue
        for text, where in read_lines(os.path.join(folder, file)):
            name = unquoted(text)
            if root.excluded.has_folder_of(name):
                continue
            path, relative = find_picture(name, root, where, strip_prefix=strip_prefix)
            if is_image(relative):
                pictures.append(Picture(relative, label, path, where))
            else:
                named.append(Video(relative, label, [], where))
    folders, option = class_folders(pictures), root.option("videos")
    yield from group_pictures(pictures, videos, class_folders=folders, option=option)
    yield from find_frames(root, named)


def _lists_in(folder: str) -> list[str]:
    """Returns the sorted names of the text files in a folder; at least two."""
    try:
        found = sorted(name for name in os.listdir(folder) if name.endswith(".txt"))
    except OSError as error:
        raise DataError(
            f"{folder} is no folder of lists ({reason_of(error)}): name one with list_file"
        ) from error
    if len(found) < 2:
        raise DataError(
            f"{folder} has {quoted(found)}: a set has a list for each class, such as real.txt and"
            " fake.txt"
        )
    return found
