"""Writes a packed set shard by shard, and continues a stopped pack.

Unfinished work is in `SET/.unfinished-<split>/`: shards, each with a file that describes it. When
all shards exist they are moved to their place, and the files that make them a set are written last.
A pack that was killed and continued gives the same bytes as one that was not.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec
import numpy as np

from fsvfm_jax.data.set_manifest import (
    SET_MANIFEST,
    TFDS_FILES,
    Shard,
    Split,
    dump_manifest,
    read_manifest,
)
from fsvfm_jax.errors import ConfigError, DataError, reason_of
from fsvfm_jax.host.json_files import read_json
from fsvfm_jax.host.locks import alone_in
from fsvfm_jax.host.plain_files import read_plain
from fsvfm_jax.host.storage import UNFINISHED, whole_file
from fsvfm_jax.prepare.encode import LeftOut, Packed, read_or_stop
from fsvfm_jax.prepare.manifest import storage
from fsvfm_jax.prepare.shards import shard_name, tfds_files, write_shard
from fsvfm_jax.prepare.trees import Pair
from fsvfm_jax.regions import NUM_CLASSES

MAPS_TRIED = 64  # number of maps whose content is compared before packing continues
LEFT_OUT_FILE = "left_out-{}.jsonl"
MAX_TALLY_BYTES = 2**30

_PerChannel = tuple[int, int, int]


class _LeftOut(TypedDict):
    name: str
    reason: str


class _Tally(TypedDict):
    """Describes the content of a shard."""

    shard: Shard
    sizes: list[tuple[int, int]]
    power_sums: tuple[_PerChannel, _PerChannel, _PerChannel]
    images_per_class: Annotated[list[int], msgspec.Meta(min_length=NUM_CLASSES)]
    left_out: list[_LeftOut]


@dataclass(frozen=True)
class Plan:
    """Assigns pairs to shards; contains everything that determines the records."""

    pairs: list[Pair]
    ignored: list[LeftOut]  # files of the tree that belong to no pair
    split: str
    encoding: str
    image_size: int | None
    shard_records: int

    @property
    def shard_names(self) -> list[str]:
        """The names of the shards."""
        count = math.ceil(len(self.pairs) / self.shard_records)
        return [shard_name(self.split, index, count) for index in range(count)]

    def shard(self, index: int) -> list[Pair]:
        """Returns the pairs of one shard."""
        return self.pairs[index * self.shard_records : (index + 1) * self.shard_records]

    def changed_since(self, packed: list[Path]) -> bool:
        """Returns whether a file of the plan was written after the oldest of the packed files."""
        then = min(file.stat().st_mtime_ns for file in packed)
        files = (file for pair in self.pairs for file in pair[1:] if file)
        return any(os.stat(file).st_mtime_ns > then for file in files)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the settings, of the files' names and sizes, and of some maps.

        The maps count because other maps of the same crops have the same names and sizes.
        """
        settings = (self.split, self.encoding, self.image_size, self.shard_records)
        digest = hashlib.sha256(repr(settings).encode())
        for pair in self.pairs:
            sizes = [os.path.getsize(file) if file else None for file in pair[1:]]
            digest.update(os.fsencode(f"\n{pair.name}\0{sizes}"))
        for pair in self.pairs[:: math.ceil(len(self.pairs) / MAPS_TRIED)]:
            if pair.parsing_map:
                digest.update(read_or_stop(pair.parsing_map))
        return digest.hexdigest()


def build(plan: Plan, target: Path, write_shards: Callable[[Path, list[int]], None]) -> Split:
    """Makes the set of a plan, or the missing part of it.

    Args:
        plan: The plan.
        target: Folder of the set.
        write_shards: Receives a folder and the indices of the shards that are missing there, and
            writes them by `write_packed`.

    Returns:
        The manifest's entry of the split.

    Raises:
        ConfigError: The folder contains a set of other files or settings.
        DataError: No image can be packed, or a stored file is damaged.
        StorageError: The set cannot be written.
    """
    fingerprint = plan.fingerprint()
    folder = target / f".unfinished-{plan.split}"
    with storage(target), alone_in(target, doing="packs"):
        if folder.is_symlink():
            raise DataError(f"{folder} is a link, and nothing is written elsewhere: remove it")
        manifest = _read_compatible(target, plan)
        for file in folder.glob(f"*{UNFINISHED}"):  # A killed process left these files.
            file.unlink(missing_ok=True)
        before = manifest.get(plan.split)
        if before is not None:
            lost = [i for i, x in enumerate(before.shards) if not _is_there(x, target)]
            there = [target / x.file for i, x in enumerate(before.shards) if i not in lost]
            if before.plan != fingerprint or (there and plan.changed_since(there)):
                raise ConfigError(
                    f"{target} holds a split {plan.split} of other files or settings; name another"
                    " folder, or remove this one"
                )
            if _is_whole(target):
                if lost:
                    _make_anew(plan, target, folder, before, lost, write_shards)
                shutil.rmtree(folder, ignore_errors=True)
                return before
        _begin(folder, plan, fingerprint)
        shards = [folder / name for name in plan.shard_names]
        missing = [i for i, shard in enumerate(shards) if not is_done(shard)]
        if missing:
            write_shards(folder, missing)
        tallies = [_read_tally(shard) for shard in shards]
        left_out = [LeftOut(**item) for tally in tallies for item in tally["left_out"]]
        left_out += plan.ignored
        result = _sum_up(plan, fingerprint, tallies, left_out=len(left_out))
        if not result.count:
            shutil.rmtree(folder)
            raise DataError(
                f"none of {len(plan.pairs)} images can be packed; {left_out[0].name}:"
                f" {left_out[0].reason}"
            )
        _finish(target, folder, manifest | {plan.split: result}, plan.split, left_out)
        return result


def write_packed(file: Path, items: Iterable[Packed | LeftOut]) -> None:
    """Writes one shard, and then a file that describes it and marks it as done.

    Args:
        file: Path of the shard.
        items: Records, and files that are left out.
    """
    sizes: set[tuple[int, int]] = set()
    sums, images_per_class = np.zeros((3, 3), np.int64), np.zeros(NUM_CLASSES, np.int64)
    left_out = []

    def records() -> Iterator[bytes]:
        nonlocal sums
        for item in items:
            if isinstance(item, LeftOut):
                left_out.append(item)
                continue
            sizes.add(item.size)
            sums += item.power_sums
            images_per_class[list(item.classes)] += 1
            yield item.record

    shard = write_shard(file, records())
    tally = {
        "shard": dataclasses.asdict(shard),
        "sizes": sorted(sizes),
        "power_sums": sums.tolist(),
        "images_per_class": images_per_class.tolist(),
        "left_out": [item._asdict() for item in left_out],
    }
    write_whole(_tally_file(file), json.dumps(tally).encode())


def _read_compatible(target: Path, plan: Plan) -> dict[str, Split]:
    if not (target / SET_MANIFEST).exists() and (target / TFDS_FILES[-1]).exists():
        raise ConfigError(f"{target} is a data set of another origin; name another folder")
    manifest = read_manifest(target, check_tfds=False) or {}
    for name, split in manifest.items():
        if split.encoding != plan.encoding:
            raise ConfigError(
                f"{target} has its split {name} as {split.encoding}: give --encoding"
                f" {split.encoding}, or name another folder"
            )
        size = split.size and split.size[0]
        if plan.encoding == "raw" and size != plan.image_size:
            raise ConfigError(
                f"{target} has its split {name} as pixels of {size} x {size}: give --image-size"
                f" {size}, or name another folder"
            )
    return manifest


def _is_whole(target: Path) -> bool:
    """Returns whether the files that are written after the manifest are complete."""
    try:
        read_manifest(target)
    except DataError:
        return False
    return True


def _begin(folder: Path, plan: Plan, fingerprint: str) -> None:
    """Creates the folder of unfinished shards, or checks that it belongs to the same plan."""
    folder.mkdir(exist_ok=True)
    file = folder / "plan"
    if file.exists() and (_read_plan(file) != fingerprint or plan.changed_since([file])):
        raise ConfigError(
            f"{folder} holds what was packed of other files or settings; remove it, or name another"
            " folder"
        )
    if not file.exists():
        write_whole(file, fingerprint.encode())


def _make_anew(
    plan: Plan,
    target: Path,
    folder: Path,
    before: Split,
    lost: list[int],
    write_shards: Callable[[Path, list[int]], None],
) -> None:
    """Makes missing or truncated shards again, with the same bytes as before."""
    folder.mkdir(exist_ok=True)
    write_shards(folder, lost)
    for index in lost:
        file = folder / plan.shard_names[index]
        made = _read_tally(file)["shard"]
        if made != before.shards[index]:
            raise DataError(
                f"{target / file.name} is missing or cut short, and what is packed in its place"
                f" differs from it (SHA-256 {made.sha256}, not {before.shards[index].sha256}): the"
                " images or this program are others than then; remove the set and pack it again"
            )
        file.replace(target / file.name)


def _is_there(shard: Shard, target: Path) -> bool:
    file = target / shard.file
    return file.exists() and file.stat().st_size == shard.bytes


def _read_plan(file: Path) -> str:
    try:
        return read_plain(file, max_bytes=1000).decode(errors="replace")
    except OSError as error:
        raise _damaged(file, error) from error


def _read_tally(shard: Path) -> _Tally:
    file = _tally_file(shard)
    try:
        tally = read_json(file, _Tally, max_bytes=MAX_TALLY_BYTES)
        if tally["shard"].file != shard.name:
            raise ValueError(f"it is that of {tally['shard'].file}")
        return tally
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: OSError | ValueError) -> DataError:
    reason = reason_of(error)
    return DataError(
        f"{file} is damaged ({reason}); remove {file.parent} to pack the split from its beginning"
    )


def _tally_file(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}.json")


def is_done(shard: Path) -> bool:
    """Returns whether `write_packed` has completed the shard."""
    # The shard may have been moved to its place in the set already.
    is_there = shard.exists() or (shard.parent.parent / shard.name).exists()
    return _tally_file(shard).exists() and is_there


def _sum_up(plan: Plan, fingerprint: str, tallies: list[_Tally], *, left_out: int) -> Split:
    sizes = {tuple(size) for tally in tallies for size in tally["sizes"]}
    # Python's integers do not overflow, however many pixels there are.
    sums = [
        [sum(column) for column in zip(*rows, strict=True)]
        for rows in zip(*(tally["power_sums"] for tally in tallies), strict=True)
    ]
    per_class = zip(*(tally["images_per_class"] for tally in tallies), strict=True)
    return Split(
        plan=fingerprint,
        encoding=plan.encoding,
        size=sizes.pop() if len(sizes) == 1 else None,
        left_out=left_out,
        power_sums=tuple(map(tuple, sums)),
        images_per_class=tuple(map(sum, per_class)),
        shards=tuple(tally["shard"] for tally in tallies),
    )


def _finish(
    target: Path,
    folder: Path,
    splits: dict[str, Split],
    split: str,
    left_out: list[LeftOut],
) -> None:
    """Moves the shards to their place, and writes last the files by which the set is read."""
    for shard in splits[split].shards:
        if (folder / shard.file).exists():
            (folder / shard.file).replace(target / shard.file)
    if left_out:
        lines = "".join(json.dumps(item._asdict()) + "\n" for item in left_out)
        write_whole(folder / "left_out", lines.encode())
        (folder / "left_out").replace(target / LEFT_OUT_FILE.format(split))
    files = tfds_files(splits, folder)
    files[SET_MANIFEST] = dump_manifest(splits, files)
    for name in (SET_MANIFEST, *TFDS_FILES):
        write_whole(folder / name, files[name])
        (folder / name).replace(target / name)
    shutil.rmtree(folder)


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file, which is complete and on the disk before it gets its name; replaces a link."""
    with whole_file(file) as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
