"""`prepare check SET`: checks whether a packed set or a tree is intact, and draws some faces."""

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fsvfm_jax.data.moments import stats_of_sums
from fsvfm_jax.data.records import MEND, FaceRecords
from fsvfm_jax.data.set_layout import read_layout
from fsvfm_jax.data.set_manifest import TFDS_FILES, Shard, Split, find_file, read_manifest
from fsvfm_jax.errors import ConfigError, DataError, StorageError, reason_of
from fsvfm_jax.host.hashing import sha256_of
from fsvfm_jax.host.plain_files import open_plain
from fsvfm_jax.host.processes import available_cores
from fsvfm_jax.host.progress import progress
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.prepare.contact_sheet import contact_sheet, encode_sheet
from fsvfm_jax.prepare.examine import Examined, Faces, TreeFaces, examine
from fsvfm_jax.prepare.growing_set import LEFT_OUT_FILE, write_whole
from fsvfm_jax.prepare.trees import list_tree
from fsvfm_jax.regions import CLASSES, GROUP_CLASSES

SHEET_FILE = "contact_sheet.png"
FACES_SHOWN = 24
EXAMPLES = 3  # examples per finding
# JPEG decoders may differ in the last bit of a pixel.
STATS_TOLERANCE = 1e-4


class Finding(NamedTuple):
    """A problem, and how to solve it."""

    what: str
    fix: str


@dataclass(frozen=True)
class Part:
    """A split of a set, or a tree, with its entry in the manifest."""

    label: str
    faces: Faces
    manifest: Split | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `check`."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="SET",
        help="packed sets, or trees with images/ and parsing_maps/, which may not share a face",
    )
    parser.add_argument(
        "--contact-sheet",
        metavar="PNG",
        help=f"picture of some faces to write; by default {SHEET_FILE} in the first folder",
    )
    parser.add_argument(
        "--processes", type=int, default=available_cores(), metavar="N", help="number of processes"
    )


def run(args: argparse.Namespace) -> None:
    """Checks the sets and prints the findings.

    Raises:
        ConfigError: The number of processes is below 1.
        DataError: There are findings, or a set cannot be read at all.
        StorageError: The contact sheet cannot be written.
    """
    if args.processes < 1:
        raise ConfigError(f"--processes is {args.processes}; it must be at least 1")
    findings: list[Finding] = []
    parts = [part for path in args.paths for part in _parts(path, findings)]
    findings += _hash_shards(args.paths, workers=args.processes)
    examined = []
    for part in parts:
        seen = examine(part.faces, workers=args.processes, description=f"checking {part.label}")
        examined.append(seen)
        print("\n".join(map(printable, _describe(part, seen))))
        findings += itertools.chain(
            _problems(part, seen), _duplicates(part, seen), _absent(part, seen), _stats(part, seen)
        )
    findings += _overlaps(parts, examined)
    for number, finding in enumerate(findings, 1):
        print(f"{number}. {printable(finding.what)}\n   To mend it: {printable(finding.fix)}")
    sheet = args.contact_sheet or str(Path(args.paths[0]) / SHEET_FILE)
    try:
        _write_sheet(sheet, parts, examined)
    except StorageError as error:
        if not findings:
            raise
        print(printable(str(error)))
    if findings:
        raise DataError(f"{len(findings)} findings in {' and '.join(args.paths)}; they are above")
    print("nothing is wrong")


def _parts(path: str, findings: list[Finding]) -> Iterator[Part]:
    """Yields the splits or the tree in a folder; adds problems of the folder to the findings."""
    if not (Path(path) / TFDS_FILES[-1]).exists() and (Path(path) / "images").is_dir():
        yield _tree(path, findings)
        return
    manifest = read_manifest(Path(path))
    for split in manifest or read_layout(Path(path)).splits:
        try:
            records = FaceRecords(path, image_size=1, split=split)
        except DataError as error:
            what, _, fix = str(error).partition("; ")
            findings.append(Finding(what, fix or MEND))
            continue
        yield Part(f"{path} {split}", records, manifest and manifest[split])


def _tree(path: str, findings: list[Finding]) -> Part:
    tree = list_tree(path)
    without = [pair.image for pair in tree.pairs if pair.parsing_map is None]
    if without:
        fix = f"make them by `python -m fsvfm_jax.prepare parse {path}`, or remove these images"
        findings.append(Finding(_some(without, "images have no parsing map"), fix))
    if tree.maps_without_image:
        what = _some(tree.maps_without_image, "parsing maps have no image")
        findings.append(Finding(what, "remove them, or bring the images back"))
    return Part(path, TreeFaces([pair for pair in tree.pairs if pair.parsing_map]), None)


def _hash_shards(paths: Sequence[str], *, workers: int) -> list[Finding]:
    shards = [
        (Path(path) / shard.file, shard)
        for path in paths
        for split in (read_manifest(Path(path)) or {}).values()
        for shard in split.shards
    ]
    if not shards:
        return []
    with ThreadPoolExecutor(workers) as pool:  # Hashing and reading release the GIL.
        matches = pool.map(_matches, shards)
        matches = list(progress(matches, total=len(shards), description="SHA-256 of shards"))
    return [
        Finding(f"{file} is missing, or not as it was packed (by its SHA-256)", MEND)
        for (file, _), is_good in zip(shards, matches, strict=True)
        if not is_good
    ]


def _matches(shard: tuple[Path, Shard]) -> bool:
    file, entry = shard
    try:
        find_file(file.parent, file.name)
        with open_plain(file, max_bytes=entry.bytes) as opened:
            return sha256_of(opened) == entry.sha256
    except (DataError, OSError):
        return False


def _describe(part: Part, seen: Examined) -> list[str]:
    sizes = [f"{count} of {h} x {w}" for (h, w), count in seen.sizes.most_common(EXAMPLES)]
    lines = [f"{part.label}: {len(part.faces)} faces; pixels: {', '.join(sizes) or 'none'}"]
    if part.manifest is not None:
        shards, encoding = part.manifest.shards, part.manifest.encoding
        size = sum(shard.bytes for shard in shards)
        lines.append(f"  {len(shards)} shards, {size / 1e6:.1f} MB, images as {encoding}")
        if part.manifest.left_out:
            name = LEFT_OUT_FILE.format(part.label.rpartition(" ")[2])
            lines.append(f"  {part.manifest.left_out} files were left out when packing: {name}")
    count = len(seen.indices)
    if count:
        mean, std = stats_of_sums(seen.power_sums)
        mean, std = ([f"{value:.4f}" for value in values] for values in (mean, std))
        lines.append(f"  mean {' '.join(mean)}, std {' '.join(std)}")
        shares = [
            f"{name} {100 * number / count:.0f} %"
            for name, number in zip(CLASSES, seen.images_per_class, strict=True)
        ]
        lines.append(f"  images that show {', '.join(shares)}")
    return lines


def _problems(part: Part, seen: Examined) -> Iterator[Finding]:
    if seen.problems:
        what = f"{part.label}: {_some(seen.problems, 'faces cannot be read')}"
        if isinstance(part.faces, TreeFaces):
            yield Finding(what, "replace these images or maps, or remove both of each")
        else:
            yield Finding(what, MEND.partition(";")[0])


def _duplicates(part: Part, seen: Examined) -> Iterator[Finding]:
    order = np.argsort(seen.digests, kind="stable")
    ordered, indices = seen.digests[order], seen.indices[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(again):
        pairs = [
            f"{part.faces.name(int(indices[place + 1]))} is {part.faces.name(int(indices[place]))}"
            for place in again[:EXAMPLES]
        ]
        yield Finding(
            f"{part.label}: {_some(pairs, 'images are there twice', count=len(again))}",
            "remove the copies from the tree, and pack it into a new set",
        )


def _absent(part: Part, seen: Examined) -> Iterator[Finding]:
    absent = [
        group
        for group, classes in GROUP_CLASSES.items()
        # Narrow crops may show no background.
        if group != "background" and not any(seen.images_per_class[label] for label in classes)
    ]
    if absent and len(seen.indices):
        yield Finding(
            f"{part.label}: no image shows {', '.join(absent)}",
            "see on the contact sheet whether the maps fit the images and have LaPa's classes; make"
            " the maps anew",
        )


def _stats(part: Part, seen: Examined) -> Iterator[Finding]:
    if part.manifest is None or seen.problems:
        return
    stored, found = part.manifest.stats(), stats_of_sums(seen.power_sums)
    if not np.allclose(stored, found, rtol=0, atol=STATS_TOLERANCE):
        yield Finding(
            f"{part.label}: mean and std are {found.mean} and {found.std}, but the manifest says"
            f" {stored.mean} and {stored.std}",
            "pack the set again: its images are decoded to other pixels here",
        )


def _overlaps(parts: Sequence[Part], examined: Sequence[Examined]) -> Iterator[Finding]:
    for (one, first), (other, second) in itertools.combinations(
        zip(parts, examined, strict=True), 2
    ):
        common, places, others = np.intersect1d(first.digests, second.digests, return_indices=True)
        if len(common):
            pairs = [
                f"{other.faces.name(int(second.indices[there]))} is"
                f" {one.faces.name(int(first.indices[here]))}"
                for here, there in zip(places[:EXAMPLES], others, strict=False)
            ]
            what = _some(
                pairs, f"images of {other.label} are in {one.label} too", count=len(common)
            )
            yield Finding(what, "remove them from one of the two, and pack it into a new set")


def _some(examples: Sequence[str], what: str, *, count: int | None = None) -> str:
    count = len(examples) if count is None else count
    shown = "; ".join(examples[:EXAMPLES])
    return f"{count} {what}: {shown}{'; ...' if count > EXAMPLES else ''}"


def _write_sheet(file: str, parts: Sequence[Part], examined: Sequence[Examined]) -> None:
    readable = [
        (part.faces, int(index))
        for part, seen in zip(parts, examined, strict=True)
        for index in seen.indices[
            :: max(math.ceil(len(seen.indices) * len(parts) / FACES_SHOWN), 1)
        ]
    ][:FACES_SHOWN]
    if not readable:
        return
    sheet = contact_sheet([faces.decoded(index) for faces, index in readable])
    try:
        write_whole(Path(file), encode_sheet(sheet))
    except OSError as error:
        raise StorageError(
            f"the picture {file} cannot be written ({reason_of(error)}); name another by"
            " --contact-sheet"
        ) from error
    print(f"look at {printable(file)}: do the colours fit the faces?")
