"""How labelled sets lie on disk: one function per layout that finds the videos of a set.

A picture is a video of one frame. Nothing is opened but lists; symbolic links are followed, as a
person who puts a data folder together from parts expects.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fsvfm_jax.data.images import IMAGE_SUFFIXES
from fsvfm_jax.data.labelled import FAKE, LABELS, REAL, label_of
from fsvfm_jax.data.sources import walk
from fsvfm_jax.errors import DataError

FF_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")

_MAX_TOLD = 20
# How frames are called after their video; `prepare detect` adds a number where faces are several.
_FRAME = re.compile(r"_frame_?\d+(_\d+)?$")
_SUFFIX = re.compile(r"\.[a-zA-Z]\w{2,3}$")


class Video(NamedTuple):
    """What a layout says of a video; a list may say it in several pieces of the same name."""

    name: str  # its path relative to the root of the set, class folder included
    label: str  # as the set calls the class
    frames: Sequence[str]  # files, in any order
    where: str  # what says so, for messages


def told(names: Sequence[str]) -> str:
    """Names for a message, shortened where they are many."""
    more = f" and {len(names) - _MAX_TOLD} more" if len(names) > _MAX_TOLD else ""
    return ", ".join(map(repr, names[:_MAX_TOLD])) + more or "nothing"


def read_folder(path: str, *, split: str) -> Iterator[Video]:
    """`<split>/{real,fake}/**/<video>_frame_<i>.png`; split "": the class folders lie in the path.

    Files without `_frame_<i>` are videos of their own.
    """
    root = _subfolder(path, split) if split else path
    classes = _folders(root)
    if len(classes) < 2:
        raise DataError(
            f"{root} has {told(classes)}; a set has a folder for each class, such as real and fake"
        )
    for name in classes:
        videos = _walk_videos(root, name, label=name)
        if not videos:
            raise DataError(
                f"the class folder {os.path.join(root, name)}, one of {told(classes)}, has no PNG,"
                " JPEG or WebP image; fill it or remove it"
            )
        yield from videos


def read_list(path: str, *, split: str, list_file: str = "") -> Iterator[Video]:
    """Lines of `path label`, by default in `<split>.txt`; relative paths are relative to the path.

    The label is the last word after white space or a comma, so that paths may hold spaces.
    """
    list_file = os.path.join(path, list_file or f"{split}.txt")
    for text, where in _lines(list_file):
        words = re.fullmatch(r"(.*[^\s,])[\s,]+([^\s,]+)", text)
        if not words:
            raise DataError(f"{where} has no label: {text!r}; write a path and then fake or real")
        file, relative = _locate(words[1], path, where)
        yield Video(_video_name(relative), words[2], [file], where)


def read_deepfakebench(
    path: str, *, split: str, list_file: str, compression: str = "c23"
) -> Iterator[Video]:
    """JSON of `{dataset: {label: {split: {compression: {video: {label, frames}}}}}}`.

    The level of compressions is there only for sets like FaceForensics++. Frames are relative to
    the path.
    """
    list_file = os.path.join(path, list_file)
    for dataset, by_label in _entries(_load_json(list_file), list_file):
        for label, by_split in _entries(by_label, f"{list_file}: {dataset}"):
            where = f"{list_file}: {dataset}/{label}"
            videos, where = _entry(by_split, split, where), f"{where}/{split}"
            below = [one for _, one in _entries(videos, where)]
            if below and not any(isinstance(one, dict) and "frames" in one for one in below):
                videos, where = _entry(videos, compression, where), f"{where}/{compression}"
            for key, video in _entries(videos, where):
                yield _bench_video(path, key, video, label=label, where=f"{where}/{key}")


def read_ffpp(
    path: str,
    *,
    split: str,
    compression: str = "c23",
    frames_folder: str = "frames",
    methods: Sequence[str] = FF_METHODS,
) -> Iterator[Video]:
    """FaceForensics++: pairs of ids in `<split>.json`; a is real, `a_b` and `b_a` are fake.

    Frames lie in `original_sequences/youtube/<compression>/<frames_folder>/<a>/` and in
    `manipulated_sequences/<method>/<compression>/<frames_folder>/<a_b>/`.
    """
    list_file = os.path.join(path, f"{split}.json")
    pairs = _load_json(list_file)
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise DataError(f'{list_file} is no list of pairs of ids, such as [["071", "054"]]')
    real = [one for pair in pairs for one in pair]
    fake = [f"{one}_{other}" for a, b in pairs for one, other in ((a, b), (b, a))]
    parts = [("original_sequences/youtube", "real", real)]
    parts += [(f"manipulated_sequences/{method}", "fake", fake) for method in methods]
    for part, label, ids in parts:
        folder = _subfolder(path, *part.split("/"), compression, frames_folder)
        for one in ids:
            root = os.path.join(folder, one)
            frames = [os.path.join(root, file) for file in walk(root) if _is_image(file)]
            yield Video(os.path.join(part, compression, frames_folder, one), label, frames, folder)


def read_fas(path: str, *, split: str, subset: str) -> Iterator[Video]:
    """MCIO and WCS: `frame/<subset>/{train,test}/{real,fake}/<video>_frame{0,1}.png`.

    `txt/<subset>_{real,fake}_<split>.txt` names the videos that count; without it all do. Split "":
    train and test together, as the sets that are trained on are used; "shot": what that list names.
    """
    root = os.path.join(path, "frame")
    for part in (split,) if split else ("train", "test"):
        for label in LABELS:
            found: list[Video] = []
            for folder in ("train", "test") if part == "shot" else (part,):
                _subfolder(root, subset, folder, label)
                found += _walk_videos(root, f"{subset}/{folder}/{label}", label=label)
            list_file = os.path.join(path, "txt", f"{subset}_{label}_{part}.txt")
            is_listed = part == "shot" or os.path.exists(list_file)
            yield from _listed(list_file, found, label=label) if is_listed else found


def read_diff(path: str, *, split: str, subset: str) -> Iterator[Video]:
    """DiFF: `<split>_subsets/<subset>/<split>/{real,fake}/**`; the subsets are T2I, I2I, FS, FE."""
    yield from read_folder(_subfolder(path, f"{split}_subsets", subset), split=split)


LAYOUTS: dict[str, Callable[..., Iterator[Video]]] = {
    "folder": read_folder,
    "list": read_list,
    "deepfakebench": read_deepfakebench,
    "ffpp": read_ffpp,
    "fas": read_fas,
    "diff": read_diff,
}


def _walk_videos(root: str, folder: str, *, label: str) -> list[Video]:
    """The videos below a folder of the root."""
    frames: dict[str, list[str]] = {}
    for file in walk(os.path.join(root, folder)):
        if _is_image(file):
            name = os.path.join(folder, file)
            frames.setdefault(_video_name(name), []).append(os.path.join(root, name))
    where = os.path.join(root, folder)
    return [Video(name, label, files, where) for name, files in frames.items()]


def _listed(list_file: str, found: Sequence[Video], *, label: str) -> Iterator[Video]:
    """Those of the videos found that a list names, by them or a frame, from any folder on."""
    by_end: dict[str, Video] = {}
    for video in found:
        parts = video.name.split("/")
        for start in range(4):  # subset, split, label, what is below
            by_end.setdefault("/".join(parts[start:]), video)
    for text, where in _lines(list_file):
        name = _video_name(text.replace("\\", "/"))
        # Of `1.avi` the frames may be `1.avi_frame0.png` or `1_frame0.png`.
        ends = [end for one in (name, _SUFFIX.sub("", name)) for end in _ends(one)]
        named = [by_end[end] for end in ends if end in by_end]
        yield named[0] if named else Video(f"{label}/{text}", label, [], where)


def _ends(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _bench_video(path: str, key: str, video: Any, *, label: str, where: str) -> Video:
    names = _entry(video, "frames", where)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: frames is no list of paths")
    inner = video.get("label", label)
    if isinstance(inner, str) and {label_of(inner), label_of(label)} == {FAKE, REAL}:
        raise DataError(f"{where} has the label {inner!r} but stands under {label!r}; correct it")
    located = [_locate(name.replace("\\", "/"), path, where) for name in names]
    # The same key may stand under several labels: a folder tells them apart.
    folder = os.path.dirname(located[0][1]) if located else label
    name = folder if os.path.basename(folder) == key else os.path.join(folder, key)
    return Video(name, label, [file for file, _ in located], where)


def _locate(name: str, root: str, where: str) -> tuple[str, str]:
    """Returns the file that a list names, and its path relative to the root if it is below."""
    if "\0" in name or ".." in name.split("/"):
        raise DataError(f"{where} names {name!r}; a path may hold neither '..' nor NUL")
    relative = os.path.normpath(name).removeprefix(os.path.join(root, ""))
    return os.path.join(root, relative), relative


def _video_name(file: str) -> str:
    return _FRAME.sub("", os.path.splitext(file)[0] if _is_image(file) else file)


def _is_image(file: str) -> bool:
    return file.lower().endswith(IMAGE_SUFFIXES)


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(one, str) and re.fullmatch(r"\w+", one) for one in pair)
    )


def _subfolder(folder: str, *names: str) -> str:
    for name in names:
        parent, folder = folder, os.path.join(folder, name)
        if not os.path.isdir(folder):
            there = told(_folders(parent))
            raise DataError(f"{folder} does not exist; in {parent} there is {there}")
    return folder


def _folders(parent: str) -> list[str]:
    """Its folders, sorted; not those that programs hide."""
    try:
        with os.scandir(parent) as entries:
            found = [x.name for x in entries if x.is_dir() and not x.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"{parent} cannot be listed ({error.strerror}); make it readable"
        ) from error
    return sorted(found)


def _lines(file: str) -> Iterator[tuple[str, str]]:
    """A list's lines that are neither blank nor comments, each with where it stands."""
    for number, line in enumerate(_read(file).removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        text = os.fsdecode(line).strip()
        if text and not text.startswith("#"):
            yield text, f"{file} line {number}"


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise DataError(
            f"the list {file} cannot be read ({error.strerror}); name the file that says what"
            " belongs to the set"
        ) from error


def _load_json(file: str) -> Any:
    try:
        return json.loads(_read(file))
    except (ValueError, RecursionError) as error:  # Neither text nor JSON, or nested without end.
        raise DataError(f"{file} is no JSON that can be read ({error}); fetch it anew") from error


def _entries(value: Any, where: str) -> Sequence[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise DataError(
            f"{where} is {type(value).__name__}, not an object; the layout is {{dataset: {{label:"
            " {split: {compression: {video: {label, frames}}}}}}"
        )
    return list(value.items())


def _entry(value: Any, key: str, where: str) -> Any:
    by_key: Mapping[str, Any] = dict(_entries(value, where))
    if key not in by_key:
        raise DataError(f"{where} has no {key!r}; it has {told(list(by_key))}")
    return by_key[key]
