"""Groups pictures into videos, by the set's option `videos` or by the pictures' names.

The grouping depends on names alone, never on the order in which a file system lists them. All
functions are pure.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fsvfm_jax.data.images import IMAGE_SUFFIXES
from fsvfm_jax.data.labelled.faces import label_of
from fsvfm_jax.data.listing import suffix_of
from fsvfm_jax.errors import ConfigError

# The possible reasons why frames are one video, as messages and tables name them.
LIST = "by the list"
FOLDER = "by folder"
NAME = "by name"
PATTERN = "by pattern"
PICTURE = "single pictures (videos='picture')"
SINGLE = "single pictures"
UNMATCHED = "single pictures that the pattern does not match"

# `prepare detect` adds a number to a frame with several faces.
_FRAME = re.compile(r"[ _.-]frame[ _.-]?[0-9]+(_[0-9])?$", re.IGNORECASE)
_FRAME_AND_FACE = re.compile(r"[0-9]+_[0-9]")
# This matches the suffix of a video, but not the number in `12.5`.
_VIDEO_SUFFIX = re.compile(r"\.[a-zA-Z]\w{2,3}$")
_SEPARATORS = " _.-"
# A pattern is matched separately with each part of a path. Few wildcards per part keep matching
# fast.
_MAX_PATTERN_PARTS = 8
_MAX_WILDCARDS = 2


class Video(NamedTuple):
    """Frames of a video, as a layout finds them; a video may come in pieces of the same name."""

    name: str  # path relative to the root of the set, including the class folder
    label: str  # name of the class in the set
    frames: Sequence[str]  # files, in any order
    where: str  # folder, or list and place in it, where the video was found
    by: str = LIST


class Picture(NamedTuple):
    """A picture whose video is not known yet."""

    path: str  # relative to the root of the set
    label: str  # name of the class in the set
    file: str
    where: str  # as in `Video`


def is_image(file: str) -> bool:
    """Returns whether a file is an image by its suffix."""
    return suffix_of(file) in IMAGE_SUFFIXES


def stem(path: str) -> str:
    """Returns a path without the suffix of an image."""
    return os.path.splitext(path)[0] if is_image(path) else path


def without_suffix(path: str) -> str:
    """Returns a path without the suffix of a video or image."""
    return _VIDEO_SUFFIX.sub("", path)


def without_frame(name: str) -> str:
    """Returns a name without a final `_frame_<i>`."""
    return _FRAME.sub("", name)


def group_pictures(
    pictures: Sequence[Picture],
    videos: str,
    *,
    class_folders: Collection[str],
    option: str = "videos",
) -> Iterator[Video]:
    """Yields every picture as a piece of its video.

    Args:
        pictures: All pictures of a set.
        videos: The rule. "folder": the pictures of a folder are a video. "name": pictures whose
            names differ only in the last number are a video. "picture": each picture is a video. A
            pattern such as "{video}/*/*" or "{video}_*": the text at {video}, with the folders
            before it, names the video. "": the names decide.
        class_folders: Folders that are not videos, whatever their pictures are called.
        option: Name of the option `videos` in messages, such as "config.data.test.DFDC.videos".

    Raises:
        ConfigError: `videos` is none of these, or the pattern matches no picture.
    """
    paths = [picture.path for picture in pictures]
    assigned = _assign(paths, videos, class_folders, option=option)
    for picture, (name, by) in zip(pictures, assigned, strict=True):
        yield Video(name, picture.label, [picture.file], picture.where, by)


def owners(path: str) -> Iterator[str]:
    """Yields possible names of the video of a picture, the most likely first."""
    name = stem(path)
    yield name
    yield without_frame(name)
    for _ in range(2):  # the number of a frame, or those of a frame and a face
        name = _without_number(name)
        yield name
    while folder := os.path.dirname(path):
        yield folder
        if folder == path:  # The folder of "/" is "/".
            return
        path = folder


def describe(by_video: Mapping[str, str], frames_by_video: Mapping[str, int]) -> str:
    """Returns a text on how videos were found and how many frames they have.

    Args:
        by_video: The reason for the grouping, by the name of a video.
        frames_by_video: The number of frames, by the name of a video.
    """
    counts = Counter(by for name, by in by_video.items() if frames_by_video.get(name))
    ways = ", ".join(f"{count} {by}" for by, count in sorted(counts.items()))
    frames = [count for count in frames_by_video.values() if count]
    return (
        f"{len(frames)} videos ({ways}) of {min(frames)}, {np.median(frames):g}, {max(frames)}"
        " frames (minimum, median, maximum)"
    )


def are_numbered(paths: Sequence[str]) -> bool:
    """Returns whether two pictures of a folder differ only in the last number of their names."""
    series = Counter(
        (os.path.dirname(path), without_frame(_without_number(stem(path))))
        for path in paths
        if _is_numbered(stem(path))
    )
    return any(count > 1 for count in series.values())


def _assign(
    paths: Sequence[str], videos: str, class_folders: Collection[str], *, option: str
) -> Iterator[tuple[str, str]]:
    """Yields the name of each path's video, and the reason for it."""
    if not videos:
        yield from _as_shown(paths, class_folders)
    elif videos == "folder":
        yield from ((os.path.dirname(path), FOLDER) for path in paths)
    elif videos == "name":
        yield from ((_by_name(path), NAME) for path in paths)
    elif videos == "picture":
        yield from ((stem(path), PICTURE) for path in paths)
    else:
        yield from _by_pattern(paths, videos, option=option)


def _as_shown(paths: Sequence[str], class_folders: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yields names of `<video>_frame_<i>`, of folders of numbered pictures, or of `<video>_<i>`."""
    in_folder: dict[str, Counter[str]] = defaultdict(Counter)
    for path in paths:
        if not _FRAME.search(stem(path)):
            in_folder[os.path.dirname(path)][_series(path)] += 1
    several = {folder: _has_several_videos(counts) for folder, counts in in_folder.items()}
    is_video = {
        folder: not several[folder]
        and folder not in class_folders
        and not _is_class_name(os.path.basename(folder))
        and _is_one_series(counts)
        for folder, counts in in_folder.items()
    }
    names_count_frames = any(several.values())
    for path in paths:
        folder, name = os.path.dirname(path), stem(path)
        if _FRAME.search(name):
            yield _by_name(path), NAME
        elif is_video[folder]:
            yield folder, FOLDER
        elif names_count_frames and _names_its_video(_series(path)):
            yield _by_name(path), NAME
        else:
            yield name, SINGLE


def _series(path: str) -> str:
    """Returns the part of a picture's name that all pictures of its series share.

    A series differs only in the last number: "" is a number alone, "frame" is `frame12`, "v_" is
    `v_12`. A name without a number is its own series; it gets a slash in front, which no name
    contains.
    """
    name = os.path.basename(stem(path))
    if _FRAME_AND_FACE.fullmatch(name):
        return ""
    return name.rstrip("0123456789") if _is_numbered(name) else f"/{name}"


def _names_its_video(series: str) -> bool:
    """Returns whether text precedes a separator and the number."""
    return not series.startswith("/") and series.rstrip(_SEPARATORS) not in ("", series)


def _has_several_videos(counts: Counter[str]) -> bool:
    return sum(count > 1 and _names_its_video(series) for series, count in counts.items()) > 1


def _is_one_series(counts: Counter[str]) -> bool:
    """Returns whether one series of numbered pictures makes up most of a folder."""
    series, count = counts.most_common(1)[0]
    return not series.startswith("/") and 2 * count > counts.total()


def _is_class_name(folder: str) -> bool:
    """Returns whether a folder's name is a class's, as in "Celeb-real" and "0_fake".

    A name with another number, such as "real_clip7", is not a class's.
    """
    without_order = re.sub(r"^[0-9][_-]", "", folder)
    return label_of(folder) is not None and not re.search(r"[0-9]", without_order)


def _is_numbered(name: str) -> bool:
    return name[-1:] in tuple("0123456789")


def _without_number(name: str) -> str:
    return name.rstrip("0123456789").rstrip(_SEPARATORS) if _is_numbered(name) else name


def _by_name(path: str) -> str:
    """Returns the path without the frame's number, or the folder if the name is only a number."""
    folder, name = os.path.split(stem(path))
    kept = without_frame(name) if _FRAME.search(name) else _without_number(name)
    return os.path.join(folder, kept) if kept else folder


def _by_pattern(paths: Sequence[str], pattern: str, *, option: str) -> Iterator[tuple[str, str]]:
    match = _compile(pattern, option=option)
    found = [match(path) for path in paths]
    if paths and not any(found):
        raise ConfigError(
            f"{option} = {pattern!r} matches no picture, such as {stem(paths[0])!r}: the pattern"
            " describes the end of such a path, with {video} where the video's name stands"
        )
    for path, video in zip(paths, found, strict=True):
        yield (video, PATTERN) if video else (stem(path), UNMATCHED)


def _compile(pattern: str, *, option: str) -> Callable[[str], str | None]:
    """Returns a function from a path to the path of its video, or to None.

    Raises:
        ConfigError: The pattern is not valid.
    """
    parts = pattern.split("/")
    if (
        pattern.count("{video}") != 1
        or len(parts) > _MAX_PATTERN_PARTS
        or any(part.count("*") > _MAX_WILDCARDS or not part for part in parts)
    ):
        raise ConfigError(
            f"{option} = {pattern!r} is neither 'folder', 'name', 'picture', nor a pattern such as"
            " '{video}/*/*' or '{video}_*': {video} once, at most"
            f" {_MAX_PATTERN_PARTS} parts between slashes, and {_MAX_WILDCARDS} stars in each"
        )
    place = next(number for number, part in enumerate(parts) if "{video}" in part)
    regexes = [re.compile(_regex(part), re.DOTALL) for part in parts]

    def match(path: str) -> str | None:
        names = stem(path).split("/")
        before, last = names[: -len(parts)], names[-len(parts) :]
        if len(last) < len(parts):
            return None
        found = [regex.fullmatch(name) for regex, name in zip(regexes, last, strict=True)]
        video = found[place]
        if video is None or None in found:
            return None
        return "/".join([*before, *last[:place], video[1]])

    return match


def _regex(part: str) -> str:
    """Returns the regular expression of a part of a pattern."""
    wildcards = {"*": ".*", "{video}": "(.+)"}
    pieces = re.split(r"(\*|\{video\})", part)
    return "".join(wildcards.get(piece) or re.escape(piece) for piece in pieces)
