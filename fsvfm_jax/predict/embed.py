"""Writes the features of faces to a file, and finds the faces that are nearest to a given one.

The faces are pictures that are cropped already.
"""

import argparse
import contextlib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from fsvfm_jax import cli
from fsvfm_jax.config.fields import BRANCHES
from fsvfm_jax.data.rand_augment import evaluation_view
from fsvfm_jax.errors import ConfigError, DataError, SomeFailed
from fsvfm_jax.host.pictures import caption_strip, encode_png, image_grid, title_strip
from fsvfm_jax.host.progress import progress
from fsvfm_jax.host.storage import ELSEWHERE, whole_file, written
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.predict import arguments, opening
from fsvfm_jax.predict.faces import (
    CROPPED,
    FaceOptions,
    FileFaces,
    find_faces,
    looks_whole,
    unreadable,
)
from fsvfm_jax.predict.inputs import Input, find_inputs
from fsvfm_jax.predict.networks import POOLS, Encoder
from fsvfm_jax.predict.pictures import pixels_of
from fsvfm_jax.predict.records import check_new_file

logger = logging.getLogger(__name__)

NPZ, PARQUET = ".npz", ".parquet"
TILE = 160  # pixels
TILES_PER_ROW = 6
MAX_TITLE = 19  # characters that fit above a tile
MAX_LOGGED = 20  # files that cannot be read
VIDEO = "it is a video: cut its faces out with prepare detect"
# Rows of a Parquet file that are written at once.
ROW_GROUP = 1024


class Embedding(NamedTuple):
    """Features of faces.

    Attributes:
        paths: The path of each face's file.
        features: A row for each face, as `Encoder.features` returns them.
        unread: Paths of the files that cannot be read.
    """

    paths: list[str]
    features: Float32[np.ndarray, "N ..."]
    unread: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    arguments.add_inputs(
        parser, what="picture of a face that is cropped already, folder of such pictures"
    )
    arguments.add_arguments(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="new file to write, .npz or .parquet"
    )
    parser.add_argument(
        "--branch",
        choices=BRANCHES,
        default="student",
        help="network to read, if a workdir or file contains both; default: student",
    )
    parser.add_argument(
        "--pool",
        choices=POOLS,
        default="mean",
        help="mean of the patches, class token, attention pool, or all patches; default: mean",
    )
    parser.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="block whose output to take, from 1; by default the last block, after the final norm",
    )
    parser.add_argument(
        "--query", metavar="IMAGE", help="print the faces that are nearest to this face"
    )
    parser.add_argument(
        "--top",
        type=cli.count,
        default=10,
        metavar="K",
        help="number of nearest faces; default: 10",
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="PNG",
        help="new file for a picture of the face of --query and of the nearest faces",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb.

    Raises:
        SomeFailed: Some pictures cannot be read; the output contains the others.
        UserError: A flag, a file or the network is wrong, or no picture can be read.
    """
    _check(args)
    inputs = list(find_inputs(args.inputs, root=args.root).each)
    network = opening.load_network(args, branch=args.branch)
    options = {"block": args.block, "pool": args.pool}
    query = None if args.query is None else network.features(args.query, **options)[0]
    found = embed(network, inputs, processes=args.processes, **options)
    if args.output is not None:
        writer = _write_parquet if args.output.suffix.lower() == PARQUET else _write_npz
        with written(args.output, mend=ELSEWHERE), whole_file(args.output, is_new=True) as file:
            writer(file, found, network=network, **options)
    if query is not None:
        rows, similarities = nearest(query, found.features, top=args.top)
        paths = [found.paths[row] for row in rows]
        for path, similarity in zip(paths, similarities, strict=True):
            print(printable(f"{similarity:.4f} {path}"))
    if args.sheet is not None:
        about = f"{_about(network, **options)}; {len(found.paths)} faces were searched"
        sheet = contact_sheet(args.query, paths, similarities=similarities, about=about)
        with written(args.sheet, mend=ELSEWHERE), whole_file(args.sheet, is_new=True) as file:
            file.write(encode_png(sheet))
    for path in filter(None, (args.output, args.sheet)):
        logger.info("%s: written", path)
    cli.check_output()
    if found.unread:
        raise SomeFailed(f"{len(found.unread)} of {len(inputs)} files cannot be read as a picture")


def embed(
    network: Encoder,
    inputs: Sequence[Input],
    *,
    processes: int,
    block: int | None = None,
    pool: str = "mean",
) -> Embedding:
    """Computes the features of pictures of faces; progress goes to stderr.

    A picture that cannot be read is listed as unread; the first ones are logged.

    Args:
        network: The network.
        inputs: The pictures, each of one face that is cropped already.
        processes: Number of processes that read them.
        block: As for `Encoder.features`.
        pool: As for `Encoder.features`.

    Raises:
        DataError: No picture can be read, or the features are not finite.
        ConfigError: The features do not fit into memory.
    """
    paths, unread, whole = list[str](), list[str](), list[str]()

    def views() -> Iterator[UInt8[np.ndarray, "S S 3"]]:
        for one, found in _read(inputs, network, processes=processes):
            if found.error is None:
                paths.append(one.path)
                whole.extend([one.path] if looks_whole(found.faces[0].box) else [])
                yield found.faces[0].pixels
                continue
            unread.append(one.path)
            if len(unread) <= MAX_LOGGED:
                logger.warning("%s is left out: %s", one.path, found.error)

    features, done = _empty(network, len(inputs), pool=pool), 0
    batches = network.feature_batches_of_views(views(), block=block, pool=pool)
    rows = (row for batch in batches for row in batch)
    for done, row in enumerate(progress(rows, total=len(inputs), description="faces"), start=1):
        features[done - 1] = row
    if (more := len(unread) - MAX_LOGGED) > 0:
        logger.warning("%d more files are left out", more)
    if whole:
        logger.warning(
            "%d of %d pictures look like whole photographs, and not like crops of faces, such as"
            " %s: crop the faces with prepare detect",
            len(whole),
            done,
            whole[0],
        )
    if not done:
        raise DataError(f"none of {len(inputs)} files can be read as a picture")
    return Embedding(paths, features[:done], unread)


def nearest(
    query: Float32[np.ndarray, " D"], features: Float32[np.ndarray, "N D"], *, top: int
) -> tuple[Int64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:
    """Returns the rows with the largest cosine similarity to a query, and the similarities.

    The similarity to a feature of zeros is 0. Equal similarities are in the order of the rows.

    Args:
        query: A feature.
        features: The features to search.
        top: Largest number of rows to return.
    """
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(query)
    products = features @ query
    similarities = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    rows = np.argsort(-similarities, kind="stable")[:top]
    return rows, similarities[rows].astype(np.float64)


def contact_sheet(
    query: str, paths: Sequence[str], *, similarities: Float64[np.ndarray, " K"], about: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns a picture of a face, followed by its neighbours with rank, similarity and name.

    Args:
        query: File of the face.
        paths: Files of its neighbours, the nearest first.
        similarities: Similarity of each neighbour.
        about: Text about the search, for the caption.
    """
    files = [query, *paths]
    ranks = [f"{rank}: {x:.4f}" for rank, x in enumerate(similarities, start=1)]
    titles = list(zip(["query", *ranks], map(_title, files), strict=True))
    blank = np.full((TILE, TILE, 3), 255, np.uint8)
    rows = []
    for start in range(0, len(files), TILES_PER_ROW):
        part = slice(start, start + TILES_PER_ROW)
        tiles = [evaluation_view(pixels_of(x), size=TILE, transform="resize") for x in files[part]]
        empty = TILES_PER_ROW - len(tiles)
        grid = image_grid([tile[None] for tile in (*tiles, *[blank] * empty)])
        for lines in zip(*titles[part], strict=True):
            rows.append(title_strip([*lines, *[""] * empty], grid.shape[1]))
        rows.append(grid)
    caption = printable(f"Nearest faces to {query}, by cosine similarity: {about}.")
    return np.concatenate([caption_strip(caption, rows[0].shape[1]), *rows])


def _check(args: argparse.Namespace) -> None:
    if args.output is None and args.query is None:
        raise ConfigError("there is nothing to do: give --output FILE, or --query IMAGE")
    if args.output is not None:
        check_new_file(args.output, flag="--output", suffixes=(NPZ, PARQUET))
    if args.sheet is not None:
        check_new_file(args.sheet, flag="--sheet", suffixes=(".png",))
    if args.sheet is not None and args.query is None:
        raise ConfigError("--sheet shows the neighbours of a face: give --query IMAGE, too")
    if args.query is not None and args.pool == "patches":
        raise ConfigError("--query compares one feature of each face: give another --pool")


def _read(
    inputs: Sequence[Input], network: Encoder, *, processes: int
) -> Iterator[tuple[Input, FileFaces]]:
    """Yields the inputs with their pixels, or why they cannot be read, in order."""
    inputs = [one._replace(media=None, error=VIDEO) if _is_video(one) else one for one in inputs]
    options = FaceOptions(CROPPED, 0.0, "largest", 1, network.image_size, network.view)
    with contextlib.closing(find_faces(inputs, options, processes=processes)) as found:
        done: dict[int, FileFaces] = {}
        for place, one in enumerate(inputs):
            if one.media is None:
                yield one, unreadable(one.error)
                continue
            while place not in done:
                number, faces = next(found)
                done[number] = faces
            yield one, done.pop(place)


def _is_video(one: Input) -> bool:
    return one.media is not None and one.media.is_video


def _empty(network: Encoder, count: int, *, pool: str) -> Float32[np.ndarray, "N ..."]:
    """Returns an array for the features of so many faces; memory is taken as it is filled."""
    shape = (count, *network.feature_shape(pool))
    needed, memory = 4 * math.prod(shape), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory // 2:
        raise ConfigError(
            f"the features of {count:,} faces take {needed / 1e9:.1f} GB, more than half of this"
            " machine's memory: name fewer faces, or give --pool mean"
        )
    return np.empty(shape, np.float32)


def _write_npz(
    file: BinaryIO, found: Embedding, *, network: Encoder, block: int | None, pool: str
) -> None:
    np.savez(
        file,
        paths=np.array(found.paths, np.str_),
        features=found.features,
        unread=np.array(found.unread, np.str_),
        pool=np.array(pool),
        block=np.array(0 if block is None else block),
        sha256=np.array(network.sha256),
    )


def _write_parquet(
    file: BinaryIO, found: Embedding, *, network: Encoder, block: int | None, pool: str
) -> None:
    """Writes a row per face: its path, and its features as a list, patch by patch."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = found.features.reshape(len(found.paths), -1)
    kind = pa.list_(pa.float32(), rows.shape[1])
    about = {
        "pool": pool,
        "block": str(0 if block is None else block),
        "sha256": network.sha256,
        "width": str(network.model.width),
        "unread": str(len(found.unread)),
    }
    schema = pa.schema([("path", pa.string()), ("features", kind)], metadata=about)
    with parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(rows), ROW_GROUP):
            part = rows[start : start + ROW_GROUP]
            names = pa.array(map(printable, found.paths[start : start + ROW_GROUP]))
            lists = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), type=kind)
            writer.write_batch(pa.record_batch([names, lists], schema=schema))


def _about(network: Encoder, *, block: int | None, pool: str) -> str:
    of_block = "the last block, after the final norm" if block is None else f"block {block}"
    return f"pool {pool} of {of_block}, weights {network.sha256[:12]}"


def _title(path: str) -> str:
    """Returns the end of a name that fits above a tile."""
    name = printable(os.path.basename(path))
    return name if len(name) <= MAX_TITLE else f"..{name[2 - MAX_TITLE :]}"
