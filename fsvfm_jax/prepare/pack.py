"""`prepare pack DIR SET`: turns a tree of images and parsing maps into a set that TFDS reads."""

import argparse
import functools
import itertools
import math
import os
import re
from pathlib import Path

from fsvfm_jax.data.set_manifest import Split
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.host.progress import progress
from fsvfm_jax.prepare.beam import do, refuse_lost
from fsvfm_jax.prepare.encode import ENCODINGS, LeftOut, Packed, pack_pairs
from fsvfm_jax.prepare.growing_set import LEFT_OUT_FILE, Plan, build, is_done, write_packed
from fsvfm_jax.prepare.trees import Pair, list_tree
from fsvfm_jax.prepare.workers import in_order

SHARD_BYTES = 256 * 2**20
PAIRS_AT_ONCE = 16  # pairs sent to a process at once
PAIRS_TRIED = 16  # pairs from which the size of records is estimated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `pack`."""
    parser.add_argument("dir", metavar="DIR", help="tree with images/ and parsing_maps/")
    parser.add_argument("set", metavar="SET", help="folder of the set")
    add_options(parser)
    parser.set_defaults(links_out=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that determine the set."""
    parser.add_argument("--split", default="train", metavar="NAME", help="train, val or test")
    parser.add_argument(
        "--encoding",
        choices=ENCODINGS,
        default="jpeg",
        help="jpeg: quality 95, 4:4:4; original: the files' bytes; raw: pixels, with --image-size",
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side in pixels; by default the stored size"
    )
    parser.add_argument(
        "--shard-records",
        type=int,
        metavar="N",
        help="records per file; by default as many as make about 256 MB",
    )


def run(args: argparse.Namespace) -> None:
    """Packs a tree, or continues a stopped pack."""
    split = pack(
        args.dir,
        args.set,
        split=args.split,
        encoding=args.encoding,
        image_size=args.image_size,
        shard_records=args.shard_records,
        workers=args.processes,
        beam=args.beam,
        links_out=args.links_out,
    )
    size = sum(shard.bytes for shard in split.shards)
    print(
        f"{args.set}: {split.count} faces in {args.split}, {len(split.shards)} shards,"
        f" {size / 1e6:.1f} MB"
    )
    if split.left_out:
        file = Path(args.set) / LEFT_OUT_FILE.format(args.split)
        print(f"{split.left_out} files were left out: {file} says why")


def pack(
    tree: str,
    target: str,
    *,
    split: str = "train",
    encoding: str = "jpeg",
    image_size: int | None = None,
    shard_records: int | None = None,
    workers: int = 1,
    beam: str | None = None,
    links_out: bool = True,
) -> Split:
    """Packs a tree into a set as one of its splits; does nothing if that is already done.

    Args:
        tree: Folder with images/ and parsing_maps/.
        target: Folder of the set, created if missing. It may contain other splits.
        split: Name of the split.
        encoding: One of ENCODINGS.
        image_size: Side in pixels to which all faces are resized; None keeps their sizes.
        shard_records: Number of records per file; None makes files of about SHARD_BYTES.
        workers: Number of processes that encode.
        beam: Options of the Apache Beam pipeline that packs, or None.
        links_out: Whether links may lead out of the tree.

    Returns:
        The manifest's entry of the split.

    Raises:
        ConfigError: The settings contradict each other, or the content of the set.
        DataError: The tree contains no pair that can be packed.
        StorageError: The set cannot be written.
    """
    if workers < 1:
        raise ConfigError(f"--processes is {workers}; it must be at least 1")
    plan = make_plan(
        tree,
        split=split,
        encoding=encoding,
        image_size=image_size,
        shard_records=shard_records,
        links_out=links_out,
    )
    if beam is None:
        write_shards = functools.partial(_write_shards, plan, workers=workers)
    else:
        write_shards = functools.partial(_write_by_beam, plan, options=beam)
    return build(plan, Path(target), write_shards)


def make_plan(
    tree: str,
    *,
    split: str,
    encoding: str,
    image_size: int | None,
    shard_records: int | None,
    links_out: bool,
) -> Plan:
    """Lists a tree and divides it into shards; arguments and errors are those of `pack`."""
    check_settings(
        split=split, encoding=encoding, image_size=image_size, shard_records=shard_records
    )
    root = os.path.abspath(tree)  # Workers on other machines use the same path.
    pairs, maps_without_image, others = list_tree(root, links_out=links_out)
    if not any(pair.parsing_map for pair in pairs):
        raise DataError(
            f"none of the {len(pairs)} images in {tree} has a parsing map; make them by"
            f" `python -m fsvfm_jax.prepare parse {tree}`"
        )
    if shard_records is None:
        shard_records = _records_per_shard(pairs, encoding, image_size)
    reasons = others | dict.fromkeys(maps_without_image, "it is a parsing map without its image")
    ignored = [
        LeftOut(os.path.relpath(file, root), reason) for file, reason in sorted(reasons.items())
    ]
    return Plan(pairs, ignored, split, encoding, image_size, shard_records)


def check_settings(
    *, split: str, encoding: str, image_size: int | None, shard_records: int | None
) -> None:
    """Checks the settings of `pack`; arguments are those of `pack`.

    Raises:
        ConfigError: `pack` would refuse the settings whatever the tree contains.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", split):
        raise ConfigError(f"--split is {split!r}; use small letters, such as train, val or test")
    for flag, value in (("image-size", image_size), ("shard-records", shard_records)):
        if value is not None and value < 1:
            raise ConfigError(f"--{flag} is {value}; it must be at least 1")
    if encoding == "raw" and image_size is None:
        raise ConfigError("--encoding raw stores pixels alone: give --image-size")


def _write_shards(plan: Plan, folder: Path, missing: list[int], *, workers: int) -> None:
    pairs = [plan.shard(index) for index in missing]
    total = sum(map(len, pairs))
    chunks = (
        of_shard[first : first + PAIRS_AT_ONCE]
        for of_shard in pairs
        for first in range(0, len(of_shard), PAIRS_AT_ONCE)
    )
    work = functools.partial(pack_pairs, encoding=plan.encoding, image_size=plan.image_size)
    # Starting a process takes a second, so few pairs get few processes.
    workers = min(workers, math.ceil(total / PAIRS_AT_ONCE / 4)) or 1
    packed = itertools.chain.from_iterable(in_order(work, chunks, workers=workers))
    items = progress(packed, total=total, description=f"packing {plan.split}")
    for index, of_shard in zip(missing, pairs, strict=True):
        write_packed(folder / plan.shard_names[index], itertools.islice(items, len(of_shard)))
    next(items, None)  # At its end `progress` prints the duration.


def _write_by_beam(plan: Plan, folder: Path, missing: list[int], *, options: str) -> None:
    # The path must be absolute to be the same on every machine.
    shards = [(folder.absolute() / plan.shard_names[index], plan.shard(index)) for index in missing]
    work = functools.partial(_write_shard, encoding=plan.encoding, image_size=plan.image_size)
    do(work, shards, options=options)
    refuse_lost([file.name for file, _ in shards if not is_done(file)], place=folder)


def _write_shard(shard: tuple[Path, list[Pair]], *, encoding: str, image_size: int | None) -> None:
    file, pairs = shard
    packed = (pack_pairs([pair], encoding=encoding, image_size=image_size) for pair in pairs)
    write_packed(file, itertools.chain.from_iterable(packed))


def _records_per_shard(pairs: list[Pair], encoding: str, image_size: int | None) -> int:
    tried = pairs[:: math.ceil(len(pairs) / PAIRS_TRIED)]
    packed = pack_pairs(tried, encoding=encoding, image_size=image_size)
    sizes = [len(item.record) for item in packed if isinstance(item, Packed)]
    return max(SHARD_BYTES * len(sizes) // max(sum(sizes), 1), 1) if sizes else len(pairs)
