"""`manifest.json` of a packed set: what its shards hold, so that damage to them can be told.

It has a SHA-256 of itself and of the two files by which TFDS reads the set. Data workers import it.
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
# What TFDS reads, in the order in which it has to appear: with the last one, the set is there.
TFDS_FILES = ("features.json", "dataset_info.json")

# Of a file in the set's own folder; "." and ".." are none.
FileName = Annotated[str, msgspec.Meta(pattern=r"\A(?!\.{1,2}\Z)[^/\0]+\Z", max_length=255)]
_Whole = Annotated[int, msgspec.Meta(ge=0)]
_PerChannel = tuple[_Whole, _Whole, _Whole]


@dataclass(frozen=True)
class Shard:
    """A file of records."""

    file: FileName
    count: _Whole
    bytes: _Whole
    sha256: str


@dataclass(frozen=True)
class Split:
    """What one split was packed from and holds.

    Attributes:
        plan: SHA-256 of what it was made from (`prepare.growing_set.Plan`).
        encoding: Of the images.
        size: Height and width of all of them; None if they differ.
        left_out: How many files did not get in.
        power_sums: Of all stored pixels as decoded: for the powers 0, 1, 2, the sum over each
            channel.
        images_per_class: How many images show each of the classes.
        shards: In order.
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
        """How many records."""
        return sum(shard.count for shard in self.shards)

    def stats(self) -> Stats:
        """Mean and standard deviation of all stored pixels.

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
    """Returns the file's content.

    Args:
        splits: By name.
        tfds_files: Content of each of TFDS_FILES.
    """
    files = {name: hashlib.sha256(tfds_files[name]).hexdigest() for name in TFDS_FILES}
    body = _body(splits, files)
    return json.dumps({"sha256": _digest(body), **body}, indent=1).encode() + b"\n"


def read_manifest(folder: Path, *, check_tfds: bool = True) -> dict[str, Split] | None:
    """Returns the splits of a set by name, or None if the set came without a manifest.

    Args:
        folder: The set's.
        check_tfds: Compare TFDS_FILES too, which a killed pack may have left behind.

    Raises:
        DataError: The manifest, or one of the two files of TFDS, is not as it was written.
    """
    file = folder / SET_MANIFEST
    if not os.path.lexists(file):
        return None
    find_file(folder, SET_MANIFEST)
    try:
        manifest = parse_json(read_plain(file, max_bytes=MAX_JSON_BYTES), _Manifest)
        # Fields that the schema lacks count as damage.
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
    """Returns a file of a set, which its own files name and which may come from anyone.

    Args:
        folder: The set's.
        name: Of a file that is there; a FileName.

    Raises:
        DataError: It is no plain file, or a link out of the set.
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
    except OSError:  # It is too large.
        return False


def _digest(body: dict[str, dict]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
