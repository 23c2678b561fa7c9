"""Finds photographs and videos, and decides which of them may be read.

A `MediaFile` lies below the root in which it was found. Every file that was found becomes a
`MediaFile` or a `Refusal`: names may come from strangers, and a path that leads out of the root is
not opened.
"""

import io
import os
import re
import stat
import string
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fsvfm_jax.data.images import IMAGE_SUFFIXES, IMAGES
from fsvfm_jax.data.listing import (
    HIDDEN,
    LeftOut,
    Tally,
    is_system_name,
    suffix_of,
    walk,
    warn_of_left_out,
)
from fsvfm_jax.errors import ConfigError, DataError, reason_of
from fsvfm_jax.host.hashing import sha256_of
from fsvfm_jax.host.plain_files import open_plain
from fsvfm_jax.prepare.workers import tick

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
LIST_SUFFIX = ".txt"
MADE_SUFFIXES = (".png", ".npy")  # suffixes of crops and maps
WANTED = "image or video"
MAX_LIST_BYTES = 2**30
MAX_VIDEO_BYTES = 2**36
MAX_NAME = 1000  # characters of a line in a list
MAX_LINE = 5000  # characters of a line that are kept; no system opens a longer path
# The limit of file systems without the suffix that crops get, such as `_frame_1234567_12.png`.
MAX_PART_BYTES = 255 - 40


class MediaFile(NamedTuple):
    """A photograph or a video to read."""

    name: str  # path relative to the root, with "/"
    file: str

    @property
    def is_video(self) -> bool:
        """Whether the suffix is that of a video."""
        return suffix_of(self.name) in VIDEO_SUFFIXES

    @property
    def stem(self) -> str:
        """The name without the suffix, with which the names of the crops begin."""
        return os.path.splitext(self.name)[0]


class Refusal(NamedTuple):
    """A file that was found and is not read, and the reason."""

    name: str
    reason: str


def find_files(src: str, *, root: str | None = None) -> list[MediaFile | Refusal]:
    """Returns the files of a folder by name, those of a list in its order, or one file.

    Args:
        src: As for `find_sources`.
        root: As for `find_sources`.

    Raises:
        DataError: src does not exist, or cannot be read.
        ConfigError: A root is given although src is not a list.
    """
    real = os.path.realpath(root_of(src, root))
    if is_list(src):
        return [admit(name, real) for name in list_names(src)]
    if root is not None:
        raise ConfigError(f"--root is for lists of paths, and {src} is no {LIST_SUFFIX} file")
    if os.path.isdir(src):
        return [one if isinstance(one, Refusal) else admit(one, real) for one in names_in(src)]
    if os.path.isfile(src):
        return [admit(os.path.basename(src), real)]
    if os.path.exists(src):
        raise DataError(f"{src} is neither a folder nor a plain file; name one of them")
    raise DataError(f"{src} does not exist; name a folder, a {LIST_SUFFIX} list or a file")


def names_in(folder: str) -> list[str | Refusal]:
    """Returns the names of all files below a folder, sorted; hidden ones and the like as refusals.

    Raises:
        DataError: The folder cannot be listed, or contains too many files.
    """
    left_out: list[LeftOut] = []
    # Links to folders are not followed: their targets are found in their own place, or lie outside
    # of the folder.
    names = list[str | Refusal](walk(folder, None, leave_out=left_out.append, follow_links=False))
    names += [Refusal(one.name, one.reason(wanted=WANTED)) for one in left_out]
    return sorted(names, key=lambda one: one.name if isinstance(one, Refusal) else one)


def is_list(src: str) -> bool:
    """Returns whether src is a list of paths."""
    return src.lower().endswith(LIST_SUFFIX) and os.path.isfile(src)


def root_of(src: str, root: str | None = None) -> str:
    """Returns the folder to which the names that `find_files` returns are relative.

    Args:
        src: As for `find_sources`.
        root: As for `find_sources`.
    """
    return src if os.path.isdir(src) else root or os.path.dirname(src) or os.curdir


def find_sources(src: str, *, root: str | None = None) -> tuple[list[MediaFile], list[Refusal]]:
    """Returns the files to make crops of and the files not to read, each sorted by name.

    Args:
        src: A folder to search recursively; a list (.txt) with a path per line; or one image or
            video.
        root: Folder to which the paths in a list are relative and in which they must lie; None
            means the folder of the list.

    Raises:
        DataError: src does not exist or has nothing to read.
        ConfigError: A root is given although src is not a list.
    """
    sources, refusals = _part_by_name(find_files(src, root=root))
    warn_of_refusals(src, refusals)
    if not sources:
        why = f"; {refusals[0].name!r}: {refusals[0].reason}" if refusals else ""
        raise DataError(f"nothing to read was found in {src}{why}")
    return sources, refusals


def find_images(folder: str) -> tuple[list[str], list[Refusal]]:
    """Returns the names of a folder's images, found recursively, and the files that are not read.

    Raises:
        DataError: The folder does not exist, is a link, or has no image.
    """
    refuse_link(folder)
    if not os.path.isdir(folder):
        raise DataError(f"{folder} does not exist; it is where the face crops should be")
    found = [
        Refusal(one.name, "it is a video") if isinstance(one, MediaFile) and one.is_video else one
        for one in find_files(folder)
    ]
    sources, refusals = _part_by_name(found)
    warn_of_refusals(folder, refusals)
    if not any(isinstance(one, MediaFile) for one in found):
        raise DataError(f"{folder} has no {IMAGES}")
    return [source.name for source in sources], refusals


def refuse_link(path: str | os.PathLike[str]) -> None:
    """Checks that a file or folder of a tree, which may come from anyone, is not a link.

    Raises:
        DataError: It is a link.
    """
    if os.path.islink(path):
        raise DataError(
            f"{path} is a link, and nothing is read or written through links in a tree; put the"
            " folder itself in its place, or remove the link"
        )


def hash_file(file: str, *, max_bytes: int = MAX_VIDEO_BYTES) -> str:
    """Returns the SHA-256 of the file's bytes, in hexadecimal.

    Args:
        file: The file.
        max_bytes: The largest file that is hashed.

    Raises:
        ValueError: The file cannot be read, or has more than `max_bytes`.
    """
    try:
        with open_plain(file, max_bytes=max_bytes) as opened:
            # Reading a large video may exceed the time for one item, so every block restarts it.
            return sha256_of(opened, after_block=tick)
    except OSError as error:
        raise ValueError(f"it cannot be read ({reason_of(error)})") from error


def warn_of_refusals(src: str, refusals: Iterable[Refusal]) -> None:
    """Logs the files that are not read, by suffix if that is the reason, otherwise by reason."""
    by_suffix = LeftOut("", "").reason(wanted=WANTED)
    kinds = {x.name: suffix_of(x.name) if x.reason == by_suffix else x.reason for x in refusals}
    warn_of_left_out(src, Tally(LeftOut(*one) for one in kinds.items()))


def list_names(file: str) -> Iterator[str]:
    """Yields the paths in a list, a line at a time, so that any list fits into memory.

    Raises:
        DataError: The list cannot be read.
    """
    try:
        with open_plain(file, max_bytes=MAX_LIST_BYTES) as opened:
            yield from lines_of(opened)
    except OSError as error:
        raise DataError(f"the list {file} cannot be read ({reason_of(error)})") from error


def lines_of(opened: io.BufferedIOBase) -> Iterator[str]:
    """Yields the lines that are not blank, without the blanks around them.

    Of a line of over MAX_LINE characters only the beginning is yielded.

    Args:
        opened: A file of lines that end in any way; a byte order mark is left out.
    """
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    text = io.TextIOWrapper(opened, encoding=encoding, errors=errors)
    try:
        is_first = True
        while line := text.readline(MAX_LINE):
            if is_first:
                line, is_first = line.removeprefix("\ufeff"), False
            name = line.strip(string.whitespace)
            while line and not line.endswith("\n"):  # The rest of a long line is left out.
                line = text.readline(MAX_LINE)
            if name:
                yield name
    finally:
        text.detach()  # Otherwise the file would be closed, which belongs to the caller.


def admit(name: str, root: str) -> MediaFile | Refusal:
    """Returns the file of a name, or why it is not read; does not open it.

    Args:
        name: Path relative to the root, or absolute.
        root: The root after resolving links.
    """
    if "\0" in name or len(name) > MAX_NAME:
        return Refusal(name[:MAX_NAME], f"it has a NUL or over {MAX_NAME} characters")
    file = os.path.normpath(os.path.join(root, name))
    if not is_below(file, root):
        return Refusal(name, f"it leads out of {root}: give a folder that contains it by --root")
    name = os.path.relpath(file, root)
    if any(map(is_system_name, name.split(os.sep))):
        return Refusal(name, LeftOut(name, HIDDEN).reason(wanted=WANTED))
    if suffix_of(name) not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        return Refusal(name, LeftOut(name, "").reason(wanted=WANTED))
    try:
        real = os.path.realpath(file, strict=True)
        mode = os.stat(real).st_mode
    except OSError as error:
        return Refusal(name, f"it cannot be read ({reason_of(error)})")
    if not is_below(real, root):
        return Refusal(name, f"it is a link out of {root}")
    if not stat.S_ISREG(mode):
        return Refusal(name, "it is no regular file")
    return MediaFile(name, real)


def is_below(file: str, root: str) -> bool:
    """Returns whether a file is in a folder.

    Both paths are absolute. If links matter, the caller resolves them first.
    """
    return file.startswith(os.path.join(root, ""))


def _part_by_name(found: Iterable[MediaFile | Refusal]) -> tuple[list[MediaFile], list[Refusal]]:
    """Separates the files of which crops can be made from all others, each sorted by name."""
    checked = [_check_name(one) if isinstance(one, MediaFile) else one for one in found]
    refusals = [one for one in checked if isinstance(one, Refusal)]
    sources, clashes = _part_by_stem(sorted({x for x in checked if isinstance(x, MediaFile)}))
    return sources, sorted({*refusals, *clashes})


def _check_name(source: MediaFile) -> MediaFile | Refusal:
    """Returns the source, or a refusal if its crops and maps cannot have names like its own."""
    *folders, name = source.name.split(os.sep)
    if any(len(os.fsencode(part)) > MAX_PART_BYTES for part in (*folders, name)):
        return Refusal(source.name, f"a part of its name has over {MAX_PART_BYTES} bytes")
    if any(part.endswith(MADE_SUFFIXES) for part in folders):
        reason = "a folder of its path is called as a crop or a map: rename it"
        return Refusal(source.name, reason)
    return source


def _part_by_stem(sources: list[MediaFile]) -> tuple[list[MediaFile], list[Refusal]]:
    """Separates the sources whose crops could have the names of other sources' crops."""
    count = Counter(source.stem for source in sources)
    videos = {source.stem for source in sources if source.is_video}

    def clashes(source: MediaFile) -> bool:
        frame_of = re.sub(r"_frame_\d+(_\d+)?$", "", source.stem)
        is_frame = not source.is_video and frame_of != source.stem and frame_of in videos
        return count[source.stem] > 1 or is_frame

    reason = "what is made of it would be named as another file's are; rename one"
    apart = [Refusal(source.name, reason) for source in sources if clashes(source)]
    return [source for source in sources if not clashes(source)], apart
