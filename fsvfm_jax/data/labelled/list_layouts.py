"""Layouts of labelled sets that a list describes: text, DeepfakeBench, Celeb-DF, DFDC."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fsvfm_jax.data.labelled.faces import FAKE, REAL, label_of
from fsvfm_jax.data.labelled.lists import (
    check_name,
    entries,
    entry,
    find_picture,
    load_json,
    read_lines,
)
from fsvfm_jax.data.labelled.set_root import SetRoot, folders_in, walk_pictures
from fsvfm_jax.data.labelled.videos import (
    Picture,
    Video,
    group_pictures,
    is_image,
    owners,
    without_suffix,
)
from fsvfm_jax.errors import ConfigError, DataError, quoted, shortened
from fsvfm_jax.host.terminal import printable

CELEB_LABELS = {"1": "real", "0": "fake"}

_HEADERS = {"label", "labels", "class", "target"}


def read_list(
    root: SetRoot, *, split: str, list_file: str = "", strip_prefix: str = "", videos: str = ""
) -> Iterator[Video]:
    """Yields the videos of a text list, whose lines contain a path and a label.

    The label is the last word after white space or a comma, so paths may contain spaces. The label
    is the first word if that is a label and the last word is a file. A path that is not an image's
    is a video's, whose frames are in a folder with the video's name, or have names that begin with
    it.

    Args:
        root: The set, to which the paths are relative.
        split: Name of the default list without its suffix.
        list_file: Path of the list in the set; by default `<split>.txt`.
        strip_prefix: Beginning to remove from the paths.
        videos: How pictures form videos, as in `group_pictures`.

    Raises:
        ConfigError: Neither split nor list is given, or `videos` is wrong.
        DataError: The list cannot be read, a line has no label, or a path leads out of the set.
    """
    if not (list_file or split):
        raise ConfigError(f"{root.path}: name a split or a list_file")
    list_file = os.path.join(root.path, list_file or f"{split}.txt")
    pictures, named = [], []
    label_column = None
    for number, (text, where) in enumerate(read_lines(list_file)):
        if number == 0:
            label_column = _label_column(text, where)
            if label_column is not None:
                continue
        name, label = _path_and_label(text, label_first=label_column == 0)
        if root.excluded.has_folder_of(name) or root.excluded.has([label]):
            continue
        if not label:
            raise DataError(f"{where} has no label: {text!r}; write a path and then fake or real")
        file, relative = find_picture(name, root, where, strip_prefix=strip_prefix)
        if is_image(relative):
            pictures.append(Picture(relative, label, file, where))
        else:
            named.append(Video(relative, label, [], where))
    folders, option = class_folders(pictures), root.option("videos")
    yield from group_pictures(pictures, videos, class_folders=folders, option=option)
    yield from find_frames(root, named)


def read_deepfakebench(
    root: SetRoot, *, split: str, list_file: str, compression: str = "c23", strip_prefix: str = ""
) -> Iterator[Video]:
    """Yields the videos of a DeepfakeBench list.

    The JSON is `{dataset: {label: {split: {compression: {video: {label, frames}}}}}}`. The level of
    compressions exists only in sets like FaceForensics++. Frames are relative to the root.

    Args:
        root: The set.
        split: Name of the split in the list.
        list_file: Path of the list in the set.
        compression: Name of the compression in the list.
        strip_prefix: Beginning to remove from the frames' paths.

    Raises:
        DataError: The list does not have this form, or a path leads out of the set.
    """
    list_file = os.path.join(root.path, list_file)
    for dataset, by_label in entries(load_json(list_file), list_file):
        if root.excluded.has([dataset]):
            continue
        for label, by_split in entries(by_label, f"{list_file}: {_shown(dataset)}"):
            if root.excluded.has([label]):
                continue
            where = f"{list_file}: {_shown(dataset)}/{_shown(label)}"
            by_key, where = entry(by_split, split, where), f"{where}/{split}"
            below = [one for _, one in entries(by_key, where)]
            if below and not any(isinstance(one, dict) and "frames" in one for one in below):
                by_key, where = entry(by_key, compression, where), f"{where}/{compression}"
            for key, video in entries(by_key, where):
                yield from _bench_video(
                    root,
                    key,
                    video,
                    label=label,
                    where=f"{where}/{_shown(key)}",
                    prefix=strip_prefix,
                )


def read_celebdf(
    root: SetRoot,
    *,
    split: str,
    list_file: str = "List_of_testing_videos.txt",
    frames_folder: str = "",
) -> Iterator[Video]:
    """Yields the videos of Celeb-DF from lines such as `1 YouTube-real/00170.mp4`; 1 is real.

    Frames are in `<class>/<frames_folder>/`, in a folder with the video's name, or have names that
    begin with it.

    Args:
        root: The set.
        split: "test", the only split with a list.
        list_file: Path of the list in the set.
        frames_folder: Name of the folder with the frames; "" for the class folder.

    Raises:
        ConfigError: The split is not "test".
        DataError: The list cannot be read, or a line is wrong.
    """
    if split != "test":
        raise ConfigError(f"split is {split!r}, and the list of the layout 'celebdf' is of 'test'")
    list_file = os.path.join(root.path, list_file)
    named = []
    for text, where in read_lines(list_file):
        if root.excluded.has_folder_of(text.split(maxsplit=1)[-1]):
            continue
        words = re.fullmatch(r"([01])\s+(\S.*/.*)", text.replace("\\", "/"))
        if not words:
            raise DataError(
                f"{where} is {text!r}, not a label and a video such as '1 YouTube-real/00170.mp4'"
            )
        _, name = find_picture(words[2], root, where)
        label, folder = CELEB_LABELS[words[1]], name.split("/")[0]
        if label_of(folder) not in (None, label_of(label)):
            raise DataError(
                f"{where} has the label {words[1]}, which is {label}, for a video in {folder}:"
                " correct one of them"
            )
        named.append(Video(name, label, [], where))
    yield from find_frames(root, named, frames_folder=frames_folder)


def read_dfdc(
    root: SetRoot, *, split: str, list_file: str = "metadata.json", frames_folder: str = ""
) -> Iterator[Video]:
    """Yields the videos of DFDC from JSON of `{"abc.mp4": {"label": "FAKE", "split": "train"}}`.

    The preview of DFDC (DFDCP) calls the list dataset.json, and the split "set".

    Frames are beside the list or in its `<frames_folder>/`, in a folder with the video's name, or
    have names that begin with it.

    Args:
        root: The set.
        split: Name of the split in the list; "" for all videos.
        list_file: Name of the list, which is in the root or in its folders.
        frames_folder: Name of the folder with the frames; "" for the folder of the list.

    Raises:
        DataError: A list does not have this form, or has no video of the split.
    """
    folders = [""]
    if not os.path.exists(os.path.join(root.path, list_file)):
        parts = [name for name in folders_in(root.path) if not root.excluded.has([name])]
        inside = [x for x in parts if os.path.exists(os.path.join(root.path, x, list_file))]
        folders = inside or folders
    named, splits = [], set()
    for folder in folders:
        file = os.path.join(root.path, folder, list_file)
        for name, one in entries(load_json(file), file):
            where = f"{file}: {_shown(name)}"
            if root.excluded.has_folder_of(name):
                continue
            label, of_split = entry(one, "label", where), one.get("split", one.get("set", split))
            if not isinstance(label, str) or not isinstance(of_split, str):
                raise DataError(f"{where}: label and split are no texts; correct them")
            splits.add(of_split)
            if split in ("", of_split) and not root.excluded.has([label]):
                _, path = find_picture(os.path.join(folder, name), root, where)
                named.append(Video(path, label, [], where))
    if splits and split not in ("", *splits):
        raise DataError(
            f"{root.path} has no video of the split {split!r} in {list_file}; it has"
            f" {quoted(sorted(splits))}"
        )
    yield from find_frames(root, named, frames_folder=frames_folder)


def find_frames(
    root: SetRoot, named: Sequence[Video], *, frames_folder: str = ""
) -> Iterator[Video]:
    """Yields the named videos, and each again with every picture below its folder that it owns."""
    video_by_name: dict[str, Video] = {}
    for video in named:
        folder, name = os.path.split(video.name)
        for one in (name, without_suffix(name)):
            video_by_name.setdefault(os.path.join(folder, frames_folder, one), video)
        yield video
    folders = {os.path.join(os.path.dirname(video.name), frames_folder) for video in named}
    for folder in sorted(folders):
        for picture in walk_pictures(root, root.path, folder, label=""):
            video = next(filter(None, map(video_by_name.get, owners(picture.path))), None)
            if video:
                yield video._replace(frames=[picture.file])


def class_folders(pictures: Iterable[Picture]) -> set[str]:
    """Returns folders that are not videos: with two labels, or with all pictures of a label."""
    labels: dict[str, set[str]] = {}
    folders: dict[str, set[str]] = {}
    for picture in pictures:
        folder = os.path.dirname(picture.path)
        labels.setdefault(folder, set()).add(picture.label.lower())
        folders.setdefault(picture.label.lower(), set()).add(folder)
    of_several = {folder for folder, found in labels.items() if len(found) > 1}
    of_all = {folder for found in folders.values() if len(found) == 1 for folder in found}
    return {"", *of_several, *of_all}


def unquoted(text: str) -> str:
    """Returns a text without the quotes around it."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text


def _bench_video(
    root: SetRoot, key: str, video: Any, *, label: str, where: str, prefix: str
) -> Iterator[Video]:
    check_name(key, where)
    if os.path.isabs(key):
        raise DataError(f"{where} names the video {key!r}; a video's name is no absolute path")
    names = entry(video, "frames", where)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: frames is no list of paths")
    if names and root.excluded.has_folder_of(names[0]):
        return
    inner = video.get("label", label)
    if isinstance(inner, str) and {label_of(inner), label_of(label)} == {FAKE, REAL}:
        raise DataError(f"{where} has the label {inner!r} but stands under {label!r}; correct it")
    located = [find_picture(name, root, where, strip_prefix=prefix) for name in names]
    # The same key may occur under several labels; the folder makes the names different.
    folder = os.path.dirname(located[0][1]) if located else label
    name = folder if os.path.basename(folder) == key else os.path.join(folder, key)
    yield Video(name, label, [file for file, _ in located], where)


def _label_column(text: str, where: str) -> int | None:
    """Returns which of two columns the first line of a list names as label, or None without names.

    Raises:
        DataError: The line names other columns than a path and a label.
    """
    words = [unquoted(word).lower() for word in re.split(r"[\s,;]+", text)]
    if "." in text or _HEADERS.isdisjoint(words):
        return None
    labels = [column for column, word in enumerate(words) if word in _HEADERS]
    if len(words) != 2 or len(labels) != 1:
        raise DataError(
            f"{where} names the columns {quoted(words)}; keep two, a path and a label, in any order"
        )
    return labels[0]


def _path_and_label(text: str, *, label_first: bool) -> tuple[str, str]:
    """Returns path and label of a list's line, without quotes; a missing label is "".

    Celeb-DF and others write the label first. So do lists with such a header, and lines whose last
    word is a file and whose first word is a label.
    """
    words = re.fullmatch(r"(.*[^\s,;])[\s,;]+([^\s,;]+)", text)
    if not words:
        return unquoted(text), ""
    name, label = unquoted(words[1]), unquoted(words[2])
    first = re.fullmatch(r"([^\s,;]+)[\s,;]+(.+)", text)
    if first and label_first:
        return unquoted(first[2]), unquoted(first[1])
    if first and (is_image(label) or without_suffix(label) != label):
        word = unquoted(first[1])
        if word in ("0", "1") or label_of(word) is not None:
            return unquoted(first[2]), word
    return name, label


def _shown(key: str) -> str:
    """Returns a key of a list as a message shows it, on one line."""
    return printable(shortened(key))
