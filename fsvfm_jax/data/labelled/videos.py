"""Which pictures are frames of one video: as the set's option `videos` says, or as names show.

Names alone decide, never the order in which a file system lists them. All functions are pure.
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

# What decides that frames are one video, by how messages and tables call it.
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
# Of a video, not the number in `12.5`.
_VIDEO_SUFFIX = re.compile(r"\.[a-zA-Z]\w{2,3}$")
_SEPARATORS = " _.-"
# A pattern is matched part by part of a path; with few wildcards in each, matching is fast.
_MAX_PATTERN_PARTS = 8
_MAX_WILDCARDS = 2


class Video(NamedTuple):
    """Frames of a video, as a layout finds them; a video may come in pieces of the same name."""

    name: str  # its path relative to the root of the set, class folder included
    label: str  # as the set calls the class
    frames: Sequence[str]  # files, in any order
    where: str  # the folder, or file and place in it, that the video was found by
    by: str = LIST


class Picture(NamedTuple):
    """A picture whose video is not known yet."""

    path: str  # relative to the root of the set
    label: str  # as the set calls the class
    file: str
    where: str  # as of `Video`


def is_image(file: str) -> bool:
    """Whether a file is an image by its name."""
    return suffix_of(file) in IMAGE_SUFFIXES


def stem(path: str) -> str:
    """Returns a path without the suffix of an image."""
    return os.path.splitext(path)[0] if is_image(path) else path


def without_suffix(path: str) -> str:
    """Returns a path without the suffix of a video or image."""
    return _VIDEO_SUFFIX.sub("", path)


def without_frame(name: str) -> str:
    """Returns a name without `_frame_<i>` at its end."""
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
        videos: "folder": the pictures of a folder are a video. "name": those whose names differ
            only in the last number. "picture": each picture is a video. A pattern such as
            "{video}/*/*" or "{video}_*": what stands in the place of {video}, with the folders
            before it. "": what the names show.
        class_folders: Folders that are no video, whatever their pictures are called.
        option: What messages call `videos`, such as "config.data.test.DFDC.videos".

    Raises:
        ConfigError: `videos` is none of these, or the pattern matches no picture.
    """
    paths = [picture.path for picture in pictures]
    assigned = _assign(paths, videos, class_folders, option=option)
    for picture, (name, by) in zip(pictures, assigned, strict=True):
        yield Video(name, picture.label, [picture.file], picture.where, by)


def owners(path: str) -> Iterator[str]:
    """Yields the names that a video may have whose frame a picture is, the most likely first."""
    name = stem(path)
    yield name
    yield without_frame(name)
    for _ in range(2):  # a frame's number, or the frame's and the face's
        name = _without_number(name)
        yield name
    while folder := os.path.dirname(path):
        yield folder
        if folder == path:  # "/" is its own folder
            return
        path = folder


def describe(by_video: Mapping[str, str], frames_by_video: Mapping[str, int]) -> str:
    """Returns in words how videos were found, and how many frames they have.

    Args:
        by_video: What decided, by the name of a video.
        frames_by_video: How many frames there are, by the name of a video.
    """
    counts = Counter(by for name, by in by_video.items() if frames_by_video.get(name))
    ways = ", ".join(f"{count} {by}" for by, count in sorted(counts.items()))
    frames = [count for count in frames_by_video.values() if count]
    return (
        f"{len(frames)} videos ({ways}) of {min(frames)}, {np.median(frames):g}, {max(frames)}"
        " frames (minimum, median, maximum)"
    )


def are_numbered(paths: Sequence[str]) -> bool:
    """Whether two pictures of a folder differ only in the last number of their names."""
    series = Counter(
        (os.path.dirname(path), without_frame(_without_number(stem(path))))
        for path in paths
        if _is_numbered(stem(path))
    )
    return any(count > 1 for count in series.values())


def _assign(
    paths: Sequence[str], videos: str, class_folders: Collection[str], *, option: str
) -> Iterator[tuple[str, str]]:
    """Yields the name of each path's video, and what decided."""
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
    """`<video>_frame_<i>`, then a folder of numbered pictures, then `<video>_<i>`."""
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
    """Returns what a picture's name shares with those that differ only in the last number.

    "" is a number alone, "frame" is `frame12`, "v_" is `v_12`; a name without a number is itself,
    after a slash, which no name contains.
    """
    name = os.path.basename(stem(path))
    if _FRAME_AND_FACE.fullmatch(name):
        return ""
    return name.rstrip("0123456789") if _is_numbered(name) else f"/{name}"


def _names_its_video(series: str) -> bool:
    """Whether something stands before a separator and the number."""
    return not series.startswith("/") and series.rstrip(_SEPARATORS) not in ("", series)


def _has_several_videos(counts: Counter[str]) -> bool:
    return sum(count > 1 and _names_its_video(series) for series, count in counts.items()) > 1


def _is_one_series(counts: Counter[str]) -> bool:
    """Whether one series of numbered pictures is most of a folder."""
    series, count = counts.most_common(1)[0]
    return not series.startswith("/") and 2 * count > counts.total()


def _is_class_name(folder: str) -> bool:
    """Whether a folder is called like a class ("Celeb-real", "0_fake"), not like "real_clip7"."""
    without_order = re.sub(r"^[0-9][_-]", "", folder)
    return label_of(folder) is not None and not re.search(r"[0-9]", without_order)


def _is_numbered(name: str) -> bool:
    return name[-1:] in tuple("0123456789")


def _without_number(name: str) -> str:
    return name.rstrip("0123456789").rstrip(_SEPARATORS) if _is_numbered(name) else name


def _by_name(path: str) -> str:
    """Returns the path without the frame's number; if the name is only a number, the folder."""
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
    """Returns a function from a path to the path of its video, or None.

    Raises:
        ConfigError: The pattern is not one.
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
    """Returns the regular expression of a pattern's part."""
    wildcards = {"*": ".*", "{video}": "(.+)"}
    pieces = re.split(r"(\*|\{video\})", part)
    return "".join(wildcards.get(piece) or re.escape(piece) for piece in pieces)
