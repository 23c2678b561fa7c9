"""Layouts of labelled sets on disk: one function per layout yields the videos of a set.

The functions open only lists. They follow symbolic links, because people join data folders from
parts with links. They do not look at excluded folders.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import msgspec

from fsvfm_jax.data.labelled.class_lists import read_lists
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.labelled.list_layouts import (
    read_celebdf,
    read_deepfakebench,
    read_dfdc,
    read_list,
)
from fsvfm_jax.data.labelled.lists import load_json, read_lines
from fsvfm_jax.data.labelled.set_root import SetRoot, folders_in, subfolder, walk_pictures
from fsvfm_jax.data.labelled.videos import (
    Picture,
    Video,
    group_pictures,
    stem,
    without_frame,
    without_suffix,
)
from fsvfm_jax.errors import ConfigError, DataError, quoted

FF_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")

_VideoId = Annotated[str, msgspec.Meta(pattern=r"^\w+\Z")]


def read_folder(root: SetRoot, *, split: str, videos: str = "") -> Iterator[Video]:
    """Yields the videos of `<split>/{real,fake}/**`.

    Args:
        root: The set.
        split: Name of the folder with the class folders; "" if they are in the root.
        videos: How pictures form videos, as in `group_pictures`.

    Raises:
        DataError: A folder is missing, has fewer than two class folders, or a class has no image.
    """
    try:
        path = subfolder(root.path, split) if split else root.path
    except DataError as error:
        needed = " and ".join(os.path.join(root.path, split, label) for label in LABELS)
        raise DataError(f"{error}; the faces must be in folders such as {needed}") from error
    classes = folders_in(path)
    if len(classes) < 2:
        raise DataError(
            f"{path} has {quoted(classes)}; a set has a folder for each class, such as real and"
            " fake"
        )
    found: list[Picture] = []
    for name in classes:
        if root.excluded.has([name]):
            continue
        pictures = walk_pictures(root, path, name, label=name)
        if not pictures:
            raise DataError(
                f"the class folder {os.path.join(path, name)}, one of {quoted(classes)}, has no"
                " image; fill it, remove it, or exclude it"
            )
        found += pictures
    option = root.option("videos")
    yield from group_pictures(found, videos, class_folders=classes, option=option)


def read_folders(
    root: SetRoot, *, split: str, real: Sequence[str], fake: Sequence[str], videos: str = ""
) -> Iterator[Video]:
    """Yields the videos of folders that are named for each class, such as those of one generator.

    This is the layout of sets whose classes lie anywhere: `{source,target}/<split>/**` (FFIW),
    `{real,fake}_<split>/**` (WildDeepfake), or two folders of FaceForensics++ (DeepFakeDetection).

    Args:
        root: The set, to which the folders are relative.
        split: Text that stands for {split} in the folders.
        real: Folders with real faces.
        fake: Folders with fake faces.
        videos: How pictures form videos, as in `group_pictures`.

    Raises:
        ConfigError: A folder is not below the root, or is named twice.
        DataError: A folder is missing or has no image.
    """
    labels: dict[str, str] = {}
    for label, names in (("real", real), ("fake", fake)):
        for name in names:
            folder = os.path.normpath(name.replace("{split}", split))
            if os.path.isabs(folder) or folder.split(os.sep)[0] == os.pardir:
                raise ConfigError(f"{root.option(label)} = {name!r} is not below {root.path}")
            if folder in labels:
                raise ConfigError(
                    f"{root.option(label)} = {name!r} is a folder of {labels[folder]!r} already:"
                    " name each folder once"
                )
            labels[folder] = label
    found: list[Picture] = []
    for folder, label in labels.items():
        if root.excluded.has([label, *folder.split(os.sep)]):
            continue
        subfolder(root.path, *folder.split(os.sep))
        pictures = walk_pictures(root, root.path, folder, label=label)
        if not pictures:
            raise DataError(
                f"the folder {os.path.join(root.path, folder)} of {label} faces has no image; fill"
                " it, or leave it out"
            )
        found += pictures
    option = root.option("videos")
    yield from group_pictures(found, videos, class_folders=labels, option=option)


def read_ffpp(
    root: SetRoot,
    *,
    split: str,
    compression: str = "c23",
    frames_folder: str = "frames",
    methods: Sequence[str] = FF_METHODS,
) -> Iterator[Video]:
    """Yields the videos of FaceForensics++, whose `<split>.json` contains pairs of ids a, b.

    `a` and `b` are real, `a_b` and `b_a` are fake. Frames are in
    `original_sequences/youtube/<compression>/<frames_folder>/<a>/` and in
    `manipulated_sequences/<method>/<compression>/<frames_folder>/<a_b>/`.

    Args:
        root: The set.
        split: Name of the list without its suffix.
        compression: Name of the folder of a compression, such as "c23".
        frames_folder: Name of the folder with the frames.
        methods: Names of the folders of methods.

    Raises:
        DataError: A folder is missing, or the list is not one of pairs.
    """
    list_file = os.path.join(root.path, f"{split}.json")
    pairs = _load_pairs(list_file)
    # A list may repeat a pair, but each video counts once.
    real = dict.fromkeys(one for pair in pairs for one in pair)
    fake = dict.fromkeys(f"{one}_{other}" for a, b in pairs for one, other in ((a, b), (b, a)))
    parts = [("original_sequences/youtube", "real", real)]
    parts += [(f"manipulated_sequences/{method}", "fake", fake) for method in methods]
    for part, label, ids in parts:
        if root.excluded.has([label, *part.split("/")]):
            continue
        folder = subfolder(root.path, *part.split("/"), compression, frames_folder)
        for one in ids:
            frames = [frame.file for frame in walk_pictures(root, folder, one, label=label)]
            yield Video(os.path.join(part, compression, frames_folder, one), label, frames, folder)


def read_fas(root: SetRoot, *, split: str, subset: str, videos: str = "") -> Iterator[Video]:
    """Yields the videos of MCIO or WCS: `frame/<subset>/{train,test}/{real,fake}/<frame>`.

    Frames are called `<video>_frame<i>.png` or `<video>_<i>.jpg`.
    `txt/<subset>_{real,fake}_<split>.txt` names the videos that count; without that list all videos
    count.

    Args:
        root: The set.
        split: "train" or "test"; "" for both together, as for training sets; "shot" for the videos
            that the list of that name contains.
        subset: Name of the subset's folder.
        videos: How pictures form videos, as in `group_pictures`.

    Raises:
        DataError: A folder is missing, or a list cannot be read.
    """
    path = os.path.join(root.path, "frame")
    folders = {
        (part, label): [
            f"{subset}/{folder}/{label}"
            for folder in (("train", "test") if part == "shot" else (part,))
        ]
        for part in ((split,) if split else ("train", "test"))
        for label in LABELS
        if not root.excluded.has([part, label])
    }
    pictures: list[Picture] = []
    for (_, label), of_part in folders.items():
        for folder in of_part:
            subfolder(path, *folder.split("/"))
            pictures += walk_pictures(root, path, folder, label=label)
    class_folders = [folder for of_part in folders.values() for folder in of_part]
    option = root.option("videos")
    found = list(group_pictures(pictures, videos, class_folders=class_folders, option=option))
    for (part, label), of_part in folders.items():
        where = {os.path.join(path, folder) for folder in of_part}
        there = [video for video in found if video.where in where]
        list_file = os.path.join(root.path, "txt", f"{subset}_{label}_{part}.txt")
        is_listed = part == "shot" or os.path.exists(list_file)
        yield from _listed(root, list_file, there, label=label) if is_listed else there


def read_diff(
    root: SetRoot, *, split: str, subset: str, videos: str = "picture"
) -> Iterator[Video]:
    """Yields the videos of DiFF: `<split>_subsets/<subset>/<split>/{real,fake}/**`.

    Args:
        root: The set.
        split: "train", "val" or "test".
        subset: "T2I", "I2I", "FS" or "FE".
        videos: How pictures form videos, as in `group_pictures`.

    Raises:
        DataError: As `read_folder`.
    """
    path = subfolder(root.path, f"{split}_subsets", subset)
    yield from read_folder(replace(root, path=path), split=split, videos=videos)


LAYOUTS: dict[str, Callable[..., Iterator[Video]]] = {
    "folder": read_folder,
    "folders": read_folders,
    "list": read_list,
    "lists": read_lists,
    "deepfakebench": read_deepfakebench,
    "ffpp": read_ffpp,
    "celebdf": read_celebdf,
    "dfdc": read_dfdc,
    "fas": read_fas,
    "diff": read_diff,
}


def _listed(
    root: SetRoot, list_file: str, found: Sequence[Video], *, label: str
) -> Iterator[Video]:
    """Yields the found videos that a list names, by their path or a frame's, from any folder on.

    If several paths end with a line of the list, the first found video counts.
    """
    pieces: dict[str, list[Video]] = {}
    for video in found:
        pieces.setdefault(video.name, []).append(video)
    frames = [(frame, video.name) for video in found for frame in video.frames]
    by_end: dict[str, str] = {}
    for called, name in [*zip(pieces, pieces, strict=True), *frames]:
        for end in _ends(stem(called)):
            by_end.setdefault(end, name)
    yielded: set[str] = set()
    for text, where in read_lines(list_file):
        line = text.replace("\\", "/")
        if root.excluded.has_folder_of(line):
            continue
        # Frames of `1.avi` may be called `1.avi_frame0.png` or `1_frame0.png`.
        names = (stem(line), without_frame(stem(line)), without_suffix(line))
        named = [by_end[end] for one in names for end in _ends(one) if end in by_end]
        name = named[0] if named else f"{label}/{text}"
        if name not in yielded:  # A list may name every frame of a video.
            yielded.add(name)
            yield from pieces[name] if named else [Video(name, label, [], where)]


def _ends(name: str) -> list[str]:
    """Returns the ends of a path with at most four folders, from the longest to the shortest."""
    parts = name.split("/")[-5:]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _load_pairs(list_file: str) -> list[tuple[str, str]]:
    content = load_json(list_file)
    try:
        return msgspec.convert(content, list[tuple[_VideoId, _VideoId]])
    except ValueError as error:  # of the wrong shape, or with half of a surrogate pair
        raise DataError(
            f'{list_file} is no list of pairs of ids, such as [["071", "054"]] ({error})'
        ) from error
