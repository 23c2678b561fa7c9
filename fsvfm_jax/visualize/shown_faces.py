"""Reads the faces to draw, with their parsing maps, as a network takes them."""

import argparse
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from fsvfm_jax import cli
from fsvfm_jax.data.rand_augment import evaluation_map, evaluation_view
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.data.set_manifest import TFDS_FILES
from fsvfm_jax.data.sources import FaceFolder, read_image, read_pair
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.predict.faces import CROPPED, FaceOptions, detector_of, faces_of_file, looks_whole
from fsvfm_jax.predict.inputs import Input, find_inputs
from fsvfm_jax.predict.networks import Encoder
from fsvfm_jax.prepare.average import average_map
from fsvfm_jax.prepare.crops import MARGIN, Box
from fsvfm_jax.prepare.extras import check_installed
from fsvfm_jax.prepare.files import is_list

FACES = (CROPPED, "largest", "all")
MAX_DRAWN = 64  # faces of a picture
MAX_NAMED = 10  # pictures without a face that a note names
MAPS = "parsing_maps"
VIDEO = "is a video: cut its faces out with prepare detect"


class Pair(NamedTuple):
    """A face with its parsing map.

    Attributes:
        name: A name by which a person finds the face.
        image: RGB pixels.
        parsing_map: LaPa classes 0 to 10; None if there is no map.
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    parsing_map: UInt8[np.ndarray, "H W"] | None


class ShownFaces(NamedTuple):
    """The faces of a picture.

    Attributes:
        names: Name of each face.
        images: The faces as the network takes them.
        parsing_maps: LaPa classes 0 to 10; those of an average face where a face has no map.
        notes: Sentences on what a reader must know of these faces.
    """

    names: list[str]
    images: UInt8[np.ndarray, "B S S 3"]
    parsing_maps: UInt8[np.ndarray, "B S S"]
    notes: list[str]

    @property
    def captions(self) -> list[str]:
        """Number and name of each face."""
        return [f"{number}: {name}" for number, name in enumerate(self.names, start=1)]


Render = Callable[[int, int, int], Pair]  # takes index, image size and seed


def add_arguments(parser: argparse.ArgumentParser, *, rendered: str = "rendered faces") -> None:
    """Adds the flags that name the faces.

    Args:
        parser: The parser.
        rendered: What is drawn without an input.
    """
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="picture of a face, folder of such pictures, .txt list of paths, folder with images/"
        f" and parsing_maps/, or packed set; without any, {rendered}",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="folder to which the paths in lists are relative; by default each list's folder",
    )
    parser.add_argument(
        "--count", type=cli.count, default=8, metavar="N", help="faces to draw, from the first on"
    )
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="split of packed sets to read"
    )
    parser.add_argument(
        "--faces",
        choices=FACES,
        default=CROPPED,
        help="what a picture shows: a face that is cropped already, or a scene in which dlib finds"
        " the largest face or all faces",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of rendered faces and of masks")


def render(index: int, image_size: int, seed: int) -> Pair:
    """Returns a rendered face."""
    return Pair(f"rendered face {index}", *render_face(index, image_size=image_size, seed=seed))


def read_faces(
    args: argparse.Namespace,
    *,
    size: int,
    view: str = "resize",
    crop_margin: float | int = MARGIN,
    render: Render = render,
    most: int = MAX_DRAWN,
) -> ShownFaces:
    """Returns the faces that the flags of `add_arguments` name.

    Args:
        args: The parsed flags.
        size: Side of a face in pixels.
        view: How a face is resized, one of `data.rand_augment.EVALUATION_TRANSFORMS`.
        crop_margin: Margin around the boxes of dlib.
        render: Makes the faces if there is no input.
        most: Largest number of faces.

    Raises:
        DataError: An input cannot be read, or there is no face in any of them.
        ConfigError: A flag has a value that is not allowed.
    """
    if args.count > most:
        raise ConfigError(f"--count is {args.count}; it must be at most {most}")
    if args.seed not in range(2**31):
        raise ConfigError(f"--seed is {args.seed}; it must be from 0 to {2**31 - 1}")
    without_face: list[str] = []
    if args.inputs:
        options = FaceOptions("dlib", crop_margin, "all", 1, size, view)
        pairs = itertools.chain.from_iterable(
            _pairs(one, args, options, without_face) for one in args.inputs
        )
        found = [_viewed(pair, size, view) for pair in itertools.islice(pairs, args.count)]
    else:
        found = [render(index, size, args.seed) for index in range(args.count)]
    if not found:
        raise DataError(
            f"no face was found in {', '.join(args.inputs)}; --faces=cropped takes pictures whole"
        )
    average = average_map(size, size)
    maps = [average if one.parsing_map is None else one.parsing_map for one in found]
    names = [printable(one.name) for one in found]
    notes = _notes(found, without_face)
    return ShownFaces(names, np.stack([one.image for one in found]), np.stack(maps), notes)


def read_for(network: Encoder, args: argparse.Namespace, *, render: Render = render) -> ShownFaces:
    """Returns the faces that the flags name as a network takes them; see `read_faces`."""
    margin = network.facts.get("crop_margin")
    return read_faces(
        args,
        size=network.image_size,
        view=network.view,
        crop_margin=MARGIN if margin is None else margin,
        render=render,
    )


def _viewed(pair: Pair, size: int, view: str) -> Pair:
    parsing_map = pair.parsing_map
    if parsing_map is not None:
        parsing_map = evaluation_map(parsing_map, size=size, transform=view)
    return Pair(pair.name, evaluation_view(pair.image, size=size, transform=view), parsing_map)


def _notes(found: Sequence[Pair], without_face: Sequence[str]) -> list[str]:
    notes = []
    if without_face:
        shown = ", ".join([*without_face[:MAX_NAMED], *["..."][: len(without_face) - MAX_NAMED]])
        notes.append(f"No face was found in {len(without_face)} pictures: {shown}.")
    without_map = [str(row) for row, one in enumerate(found, start=1) if one.parsing_map is None]
    if not without_map:
        return notes
    return [
        *notes,
        f"No parsing map belongs to face {', '.join(without_map)}: the regions drawn there are"
        " those of an average face, and may not lie on this one. `prepare parse` makes parsing"
        " maps.",
    ]


def _pairs(
    source: str, args: argparse.Namespace, options: FaceOptions, without_face: list[str]
) -> Iterator[Pair]:
    """Yields the faces of an input in their stored size, each read when its turn comes."""
    folder = Path(source)
    if (folder / "images").is_dir() and (folder / MAPS).is_dir():
        yield from _of_set(FaceFolder(source, image_size=options.image_size))
    elif any((folder / name).exists() for name in TFDS_FILES):
        # The import is here because it imports TensorFlow Datasets, which only packed sets need.
        from fsvfm_jax.data.records import FaceRecords

        yield from _of_set(FaceRecords(source, image_size=options.image_size, split=args.split))
    else:
        for one in find_inputs([source], root=args.root if is_list(source) else None).each:
            yield from _of_file(one, args.faces, options, without_face)


def _of_set(faces) -> Iterator[Pair]:
    for index in range(len(faces)):
        yield Pair(os.path.basename(faces.name(index)), *faces.decoded(index))


def _of_file(
    one: Input, faces: str, options: FaceOptions, without_face: list[str]
) -> Iterator[Pair]:
    if one.media is None:
        raise DataError(f"{one.path}: {one.error}")
    if one.media.is_video:
        raise DataError(f"{one.path} {VIDEO}")
    file, name = Path(one.media.file), os.path.basename(one.path)
    if faces == CROPPED:
        yield _of_crop(file, name)
        return
    check_installed({"dlib"}, extra="prepare")
    found = faces_of_file(
        one.media, detector=detector_of(options), options=options._replace(faces=faces)
    )
    if found.error is not None:
        raise DataError(f"{one.path}: {found.error}")
    if not found.faces:
        without_face.append(name)
    for number, face in enumerate(found.faces, start=1):
        yield Pair(f"{name}, face {number}", face.pixels, None)


def _of_crop(file: Path, name: str) -> Pair:
    map_file = _map_file(file)
    if map_file is not None:
        return Pair(name, *read_pair(file, map_file))
    image = read_image(file)
    if looks_whole(Box(0, 0, image.shape[1], image.shape[0])):
        raise DataError(
            f"{file} looks like a whole photograph, and not like a crop of a face: give"
            " --faces=largest or --faces=all, which find the faces"
        )
    return Pair(name, image, None)


def _map_file(file: Path) -> Path | None:
    """Returns the parsing map of an image in a folder with images/ and parsing_maps/."""
    for number, part in enumerate(file.parts):
        if part == "images":
            root = Path(*file.parts[:number])
            found = (root / MAPS / Path(*file.parts[number + 1 :])).with_suffix(".npy")
            if os.path.lexists(found):
                return found
    return None
