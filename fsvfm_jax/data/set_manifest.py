"""Reads and writes `manifest.json` of a packed set, which makes damage to the shards detectable.

The manifest describes the shards, and contains a SHA-256 of itself and of the two files that TFDS
reads. Data workers import this module.
"""

import dataclasses
import hashlib
import json
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import msgspec

from fsvfm_jax.data.moments import Stats, stats_of_sums
from fsvfm_jax.errors import DataError, reason_of
from fsvfm_jax.host.json_files import MAX_JSON_BYTES, parse_json
from fsvfm_jax.host.plain_files import read_plain

SET_MANIFEST = "manifest.json"
# The files that TFDS reads, in the order in which they are written: the last completes the set.
TFDS_FILES = ("features.json", "dataset_info.json")

# The name of a file in the set's own folder, and therefore not "." or "..".
FileName = Annotated[str, msgspec.Meta(pattern=r"\A(?!\.{1,2}\Z)[^/\0]+\Z", max_length=255)]
_Whole = Annotated[int, msgspec.Meta(ge=0)]
_PerChannel = tuple[_Whole, _Whole, _Whole]


@dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        file: Name of the file.
        count: Number of records.
        bytes: Size of the file in bytes.
        sha256: SHA-256 of its content, in hexadecimal.
    """

    file: FileName
    count: _Whole
    bytes: _Whole
    sha256: str


@dataclass(frozen=True)
class Split:
    """The content and the origin of one split.

    Attributes:
        plan: SHA-256 of what the split was made from (`prepare.growing_set.Plan`).
        encoding: Encoding of the images.
        size: Height and width of all images in pixels; None if they differ.
        left_out: Number of files that are not in the split.
        power_sums: For the powers 0, 1 and 2, the sum of all decoded pixels of each channel.
        images_per_class: Number of images that show each of the classes.
        shards: The shards in order.
    """

    plan: str
    encoding: str
    size: tuple[_Whole, _Whole] | None
    left_out: _Whole
    power_sums: tuple[_PerChannel, _PerChannel, _PerChannel]
    images_per_class: tuple[_Whole, ...]
    shards: tuple[Shard, ...]

    @property
    def count(self) -> int:
        """The number of records."""
        return sum(shard.count for shard in self.shards)

    def stats(self) -> Stats:
        """Returns mean and standard deviation of all stored pixels.

        Raises:
            DataError: No pixels have these power sums.
        """
        try:
            return stats_of_sums(self.power_sums)
        except (ArithmeticError, ValueError) as error:
            raise DataError(
                f"{SET_MANIFEST} says of a split what no pixels have, as the sums of their powers"
                f" ({error}); pack the set again"
            ) from error


class _Manifest(TypedDict):
    sha256: str
    splits: dict[str, Split]
    files: dict[Literal[TFDS_FILES], str]


def dump_manifest(splits: dict[str, Split], tfds_files: dict[str, bytes]) -> bytes:
    """Returns the content of a manifest file.

    Args:
        splits: The splits by name.
        tfds_files: Content of each of TFDS_FILES.
    """
    files = {name: hashlib.sha256(tfds_files[name]).hexdigest() for name in TFDS_FILES}
    body = _body(splits, files)
    return json.dumps({"sha256": _digest(body), **body}, indent=1).encode() + b"\n"


def read_manifest(folder: Path, *, check_tfds: bool = True) -> dict[str, Split] | None:
    """Returns the splits of a set by name, or None if the set has no manifest.

    Args:
        folder: Folder of the set.
        check_tfds: Whether to check TFDS_FILES, too, which a killed pack may have left incomplete.

    Raises:
        DataError: The manifest, or one of the two files of TFDS, differs from what was written.
    """
    file = folder / SET_MANIFEST
    if not os.path.lexists(file):
        return None
    find_file(folder, SET_MANIFEST)
    try:
        manifest = parse_json(read_plain(file, max_bytes=MAX_JSON_BYTES), _Manifest)
        # A manifest that was written with fields that the schema lacks counts as damaged.
        if manifest["sha256"] != _digest(_body(manifest["splits"], manifest["files"])):
            raise ValueError("its hash is another")
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise DataError(
            f"{file} is damaged ({reason}); copy it anew from where it is whole, or pack the set"
            " again"
        ) from error
    for name, digest in manifest["files"].items() if check_tfds else ():
        if not _is_as_written(folder, name, digest):
            raise DataError(
                f"{folder / name} is missing or not as {SET_MANIFEST} beside it says; copy both"
                " anew from where they are whole, or give the pack command again"
            )
    return manifest["splits"]


def find_file(folder: Path, name: str) -> Path:
    """Returns the path of a file of a set after checking it, because a set may come from anyone.

    Args:
        folder: Folder of the set.
        name: Name of an existing file, a FileName.

    Raises:
        DataError: The file cannot be read, is not a plain file, or is a link out of the set.
    """
    file = folder / name
    try:
        is_plain = stat.S_ISREG(os.stat(file).st_mode)
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({reason_of(error)}); copy it anew from where it is whole"
        ) from error
    if not is_plain:
        raise DataError(
            f"{file} is no plain file; copy it anew from where it is whole, or pack the set again"
        )
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        raise DataError(
            f"{file} is a link out of the set, and files elsewhere are not opened; copy the set by"
            f" `cp -rL {shlex.quote(str(folder))} COPY`, which copies what its links lead to, and"
            " name the copy"
        )
    return file


def _body(splits: dict[str, Split], files: dict[str, str]) -> dict[str, dict]:
    named = {name: dataclasses.asdict(split) for name, split in splits.items()}
    return {"splits": named, "files": files}


def _is_as_written(folder: Path, name: str, digest: str) -> bool:
    if not (folder / name).exists():
        return False
    file = find_file(folder, name)
    try:
        return hashlib.sha256(read_plain(file, max_bytes=MAX_JSON_BYTES)).hexdigest() == digest
    except OSError:  # The file is too large.
        return False


def _digest(body: dict[str, dict]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
