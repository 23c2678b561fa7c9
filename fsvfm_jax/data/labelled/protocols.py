"""Turns a set on disk, in one of the layouts of `layouts.py`, into a list of labelled faces.

The module contains the steps that all layouts share: mapping class names to labels, leaving out
classes and folders, finding missing files, choosing frames, and sorting.
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fsvfm_jax.data.labelled.faces import LABELS, FaceList, label_of, thin
from fsvfm_jax.data.labelled.layouts import LAYOUTS, Video
from fsvfm_jax.data.labelled.lists import propose_prefix
from fsvfm_jax.data.labelled.set_options import check_options, given
from fsvfm_jax.data.labelled.set_root import Excluded, SetRoot
from fsvfm_jax.data.labelled.videos import LIST, PICTURE, UNMATCHED, are_numbered, describe
from fsvfm_jax.data.listing import warn_of_left_out
from fsvfm_jax.errors import ConfigError, DataError, quoted

logger = logging.getLogger(__name__)


def read_set(
    layout: str,
    path: str,
    *,
    split: str,
    name: str = "",
    labels: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    frames: int = 0,
    real_frames: int | None = None,
    roots: Sequence[str] = (),
    field: str = "",
    **options: str | Sequence[str],
) -> FaceList:
    """Returns the faces of a set on disk.

    Args:
        layout: A name in `LAYOUTS`.
        path: Folder of the set.
        split: Name of the split in the layout; see the layout's function.
        name: Name of the set in tables; by default its subset, or the last part of its path.
        labels: "fake" or "real" for class names that are ambiguous, such as {"0": "fake"}.
        exclude: Names of classes and folders to leave out, such as "YouTube-real". Nothing in them
            is read.
        frames: Number of frames to keep of each video, evenly spaced; 0 keeps all, 1 the first.
        real_frames: Number of frames to keep of each real video, if it differs.
        roots: Further folders that may contain files which a list names by absolute paths.
        field: Name of the config's field that describes the set, for messages.
        options: Parameters of the layout's function other than root and split; none is empty.

    Raises:
        ConfigError: The layout or an option is unknown, an option is missing (`check_options`), or
            a number of frames is below 0.
        DataError: The set does not match its layout, the name of a class is unknown, no class or
            folder has an excluded name, or no image is left.
    """
    _check_frames(frames, real_frames)
    options = given(options)
    check_options(layout, options, field=field)
    if not os.path.isdir(path):
        raise DataError(f"{path} does not exist; name the folder of the set")
    name = name or str(options.get("subset", "")) or os.path.basename(os.path.abspath(path))
    root = SetRoot(path, roots, Excluded(exclude), field)
    found = LAYOUTS[layout](root, split=split, **options)
    videos = _leave_out(found, exclude, root)
    warn_of_left_out(path, root.left_out)
    label_by_class = _label_classes(videos, labels or {})
    label_by_video = _label_videos(videos, label_by_class)
    files, missing = _find_files(name, videos, label_by_video)
    named = {video.name for video in videos if video.frames}
    empty = sorted(files.keys() - named)
    _report_missing(name, root, missing, empty, found=any(files.values()))
    faces = FaceList(
        name=name,
        **_in_order(files, label_by_video),
        skipped=len(missing) + len(empty),
        folders=(os.path.basename(os.path.abspath(path)),),
        grouping=_describe_videos(name, videos, files, frames=frames),
    )
    return thin(faces, frames, per_real_video=real_frames)


def _check_frames(frames: int, real_frames: int | None) -> None:
    if min(frames, real_frames or 0) < 0:
        raise ConfigError(
            f"frames is {frames} and real_frames {real_frames}; give 0 (all frames) or more"
        )


def _leave_out(videos: Iterable[Video], exclude: Sequence[str], root: SetRoot) -> list[Video]:
    """Returns the videos whose class and folders are not excluded."""
    kept, known = [], set()
    for video in videos:
        names = {video.label, *os.path.dirname(video.name).split(os.sep)}
        known |= names
        if not root.excluded.has(names):
            kept.append(video)
    for one in exclude:
        if one not in root.excluded.met:
            raise DataError(
                f"no class or folder in {root.path} is called {one!r}, which is to be excluded;"
                f" there is {quoted(sorted((known | root.excluded.met) - {''}))}"
            )
    return kept


def _label_classes(videos: Sequence[Video], labels: Mapping[str, str]) -> dict[str, int]:
    """Returns the index into LABELS of every class, by the class's name."""
    for name, label in labels.items():
        if label not in LABELS:
            raise ConfigError(f"labels says that {name!r} is {label!r}; it can be 'fake' or 'real'")
    where = {video.label: video.where for video in reversed(videos)}
    found = {}
    for name in sorted(where):
        label = LABELS.index(labels[name]) if name in labels else label_of(name)
        if label is None:
            raise DataError(
                f"{where[name]} has the class {name!r}, which is neither real nor fake by its name;"
                f" of {quoted(sorted(where))} say which it is with labels, such as"
                f" {{{name!r}: 'fake'}}, or exclude it"
            )
        found[name] = label
    return found


def _label_videos(videos: Sequence[Video], label_by_class: Mapping[str, int]) -> dict[str, int]:
    """Returns the index into LABELS of every video, by the video's name."""
    first: dict[str, Video] = {}
    for video in videos:
        before = first.setdefault(video.name, video)
        if label_by_class[before.label] != label_by_class[video.label]:
            raise DataError(
                f"{video.where} has {video.name} as {video.label!r}, which is {before.label!r} in"
                f" {before.where}; correct one of them"
            )
    return {name: label_by_class[video.label] for name, video in first.items()}


def _find_files(
    name: str, videos: Sequence[Video], label_by_video: Mapping[str, int]
) -> tuple[dict[str, set[str]], list[str]]:
    """Returns the existing files of each video, and all missing files.

    Raises:
        DataError: A file is in a real and a fake video, or two folders are the same.
    """
    files: dict[str, set[str]] = {}
    missing: dict[str, None] = {}
    first: dict[str, str] = {}
    shared: set[str] = set()
    for video in videos:
        there = {file for file in video.frames if os.path.isfile(file)}
        files.setdefault(video.name, set()).update(there)
        missing |= dict.fromkeys(file for file in video.frames if file not in there)
        for file in there:
            other = first.setdefault(file, video.name)
            if label_by_video[other] != label_by_video[video.name]:
                fake, real = sorted((other, video.name), key=label_by_video.__getitem__)
                raise DataError(
                    f"{video.where} has {file} in the video {video.name!r}: it would be a face of"
                    f" the fake video {fake!r} and of the real video {real!r}; correct one of them"
                )
            if other != video.name:
                shared.add(file)
    if shared:
        logger.warning(
            "%s: %d pictures are in several videos, and count in each: %s",
            name,
            len(shared),
            quoted(sorted(shared)),
        )
    _refuse_same_folders({os.path.dirname(file) for there in files.values() for file in there})
    return files, list(missing)


def _refuse_same_folders(folders: Iterable[str]) -> None:
    """Raises DataError if a link makes two folders the same, because faces would count twice."""
    first: dict[str, str] = {}
    for folder in sorted(folders):
        other = first.setdefault(os.path.realpath(folder), folder)
        if other != folder:
            raise DataError(
                f"{other} and {folder} are the same folder by a link, so that its faces would count"
                " twice; remove the link"
            )


def _in_order(
    files: Mapping[str, set[str]], label_by_video: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Returns files, labels and videos in the fixed order of a FaceList."""
    rows = [
        (os.fsencode(file), label_by_video[video], os.fsencode(video))
        for video in sorted(files)
        for file in sorted(files[video], key=_frame_order)
    ]
    column_files, column_labels, column_videos = zip(*rows, strict=True)
    return {
        "files": np.array(column_files),
        "labels": np.array(column_labels, np.int8),
        "videos": np.array(column_videos),
    }


def _frame_order(file: str) -> tuple[list[str | int], str]:
    """Returns a sort key that compares digits as numbers: frame 2 comes before frame 10."""
    parts = re.split(r"([0-9]+)", file)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], file


def _warn(name: str, what: str, found: Sequence[str]) -> None:
    if found:
        logger.warning("%s: %s: %d, first %r", name, what, len(found), found[0])


def _report_missing(
    name: str, root: SetRoot, missing: Sequence[str], empty: Sequence[str], *, found: bool
) -> None:
    """Logs the missing frames and the videos without a frame.

    Args:
        name: Name of the set.
        root: Root of the set.
        missing: Named frames that do not exist.
        empty: Videos without a frame.
        found: Whether there is any frame.

    Raises:
        DataError: There is no frame.
    """
    _warn(name, "frames that are named but not there", missing)
    _warn(name, "videos without a frame", empty)
    if found:
        return
    first = f", first {(missing or empty)[0]}" if missing or empty else ""
    named = missing[0].removeprefix(os.path.join(root.path, "")) if missing else ""
    advice = propose_prefix(named, root) or (
        f"; see whether {root.path} is what their paths are relative to"
    )
    raise DataError(
        f"no image of {name} is left: {len(missing)} frames are not there and {len(empty)} videos"
        f" have none{first}{advice}"
    )


def _describe_videos(
    name: str, videos: Iterable[Video], files: Mapping[str, set[str]], *, frames: int
) -> str:
    """Returns a text on how pictures were grouped into videos, and warns if that may be wrong."""
    by_video = {video.name: video.by for video in videos}
    there = {video: len(of_video) for video, of_video in files.items() if of_video}
    text = describe(by_video, there)
    unmatched = [video for video in there if by_video[video] == UNMATCHED]
    _warn(name, "pictures that the pattern of videos does not match", unmatched)
    if max(there.values()) > 1 or set(by_video.values()) <= {PICTURE}:
        return text
    names = [file for of_video in files.values() for file in of_video]
    is_guess = not set(by_video.values()) <= {LIST, PICTURE}
    if frames > 1 or (is_guess and are_numbered(names)):
        logger.warning(
            "%s: each of its %d videos has one frame%s: video scores are those of single images;"
            " if pictures are frames, set videos to 'folder', 'name' or a pattern such as"
            " '{video}/*/*', otherwise to 'picture'",
            name,
            len(there),
            ", although names are numbered" if is_guess and are_numbered(names) else "",
        )
    return text
