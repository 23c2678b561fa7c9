"""`manifest.json` of a packed set: what its shards hold, so that damage to them can be told.

It has a SHA-256 of itself and of the two files by which TFDS reads the set. Data workers import it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsvfm_jax.errors import DataError

MANIFEST_FILE = "manifest.json"
# What TFDS reads, in the order in which it has to appear: with the last one, the set is there.
TFDS_FILES = ("features.json", "dataset_info.json")


@dataclass(frozen=True)
class Shard:
    """A file of records."""

    file: str  # its name
    count: int
    bytes: int
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
    size: tuple[int, int] | None
    left_out: int
    power_sums: tuple[tuple[int, int, int], ...]
    images_per_class: tuple[int, ...]
    shards: tuple[Shard, ...]

    @property
    def count(self) -> int:
        """How many records."""
        return sum(shard.count for shard in self.shards)


def dump_manifest(splits: dict[str, Split], tfds_files: dict[str, bytes]) -> bytes:
    """Returns the file's content.

    Args:
        splits: By name.
        tfds_files: Content of each of TFDS_FILES.
    """
    body = {
        "splits": {name: dataclasses.asdict(split) for name, split in splits.items()},
        "files": {name: hashlib.sha256(tfds_files[name]).hexdigest() for name in TFDS_FILES},
    }
    return json.dumps({"sha256": _digest(body), **body}, indent=1).encode() + b"\n"


def read_manifest(folder: Path, *, check_tfds: bool = True) -> dict[str, Split] | None:
    """Returns the splits of a set by name, or None if the set came without a manifest.

    Args:
        folder: The set's.
        check_tfds: Compare TFDS_FILES too, which a killed pack may have left behind.

    Raises:
        DataError: The manifest, or one of the two files of TFDS, is not as it was written.
    """
    file = folder / MANIFEST_FILE
    if not file.exists():
        return None
    try:
        body = json.loads(file.read_bytes())
        if body.pop("sha256") != _digest(body):
            raise ValueError("its hash is another")
        splits = {name: _split(entry) for name, entry in body["splits"].items()}
    except Exception as error:  # Damaged bytes may be anything.
        raise DataError(
            f"{file} is damaged ({error}); copy it anew from where it is whole, or pack the set"
            " again"
        ) from error
    for name, digest in body["files"].items() if check_tfds else ():
        path = folder / name
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise DataError(
                f"{path} is missing or not as {MANIFEST_FILE} beside it says; copy both anew from"
                " where they are whole, or give the pack command again"
            )
    return splits


def _split(entry: dict[str, Any]) -> Split:
    return Split(
        **entry
        | {
            "size": entry["size"] and tuple(entry["size"]),
            "power_sums": tuple(tuple(row) for row in entry["power_sums"]),
            "images_per_class": tuple(entry["images_per_class"]),
            "shards": tuple(Shard(**shard) for shard in entry["shards"]),
        }
    )


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
