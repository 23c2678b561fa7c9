"""Lists trees of faces: `images/**` and `parsing_maps/**` with the same names."""

import itertools
import os
from collections.abc import Iterable
from typing import NamedTuple

from fsvfm_jax.data.images import IMAGES
from fsvfm_jax.data.listing import LeftOut, Tally, walk, warn_of_left_out
from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.files import is_below

MAP_SUFFIXES = (".npy", ".png")


class Pair(NamedTuple):
    """An image and its parsing map."""

    name: str  # relative path of the image without its suffix
    image: str  # path of the file
    parsing_map: str | None  # path of the file; None if there is none


class Tree(NamedTuple):
    """The files of a tree."""

    pairs: list[Pair]  # one per image, sorted by the image's relative path
    maps_without_image: list[str]  # paths of files
    others: dict[str, str]  # paths of files that do not count, with the reasons


def list_tree(root: str, *, links_out: bool = True) -> Tree:
    """Finds the images of a tree and the map of each; symbolic links are followed.

    Args:
        root: The tree.
        links_out: Whether links may lead out of the tree, which a stranger's tree may not do.

    Raises:
        DataError: There is no image, two images would have one map, a folder cannot be listed, or a
            link leads out of the tree.
    """
    image_root, map_root = os.path.join(root, "images"), os.path.join(root, "parsing_maps")
    if not links_out:
        _refuse_links_out(root, (image_root, map_root))
    no_images: list[LeftOut] = []
    no_maps: list[LeftOut] = []
    images = sorted(walk(image_root, leave_out=no_images.append))
    in_maps = sorted(walk(map_root, MAP_SUFFIXES, leave_out=no_maps.append))
    warn_of_left_out(image_root, Tally(no_images))
    warn_of_left_out(map_root, Tally(no_maps))
    if not images:
        missing = next((one for one in (root, image_root) if not os.path.isdir(one)), None)
        what = f"{missing} does not exist" if missing else f"{image_root} holds no {IMAGES}"
        raise DataError(
            f"{what}; a tree holds images/**.png (or jpg, jpeg,"
            " webp, bmp, tif) and parsing_maps/**.npy (or png)"
        )
    others = _reasons(image_root, no_images, "image") | _reasons(map_root, no_maps, "parsing map")
    maps: dict[str, str] = {}
    for name in in_maps:  # .npy sorts before .png, and the first map counts.
        stem, file = os.path.splitext(name)[0], os.path.join(map_root, name)
        if maps.setdefault(stem, file) != file:
            others[file] = f"{os.path.basename(maps[stem])} beside it is the map that counts"
    by_stem: dict[str, str] = {}
    for name in images:
        other = by_stem.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            raise DataError(
                f"{other} and {name} in {image_root} would have one parsing map: rename one of"
                " them, and make its map anew"
            )
    pairs = [
        Pair(stem, os.path.join(image_root, name), maps.get(stem)) for stem, name in by_stem.items()
    ]
    alone = sorted(file for stem, file in maps.items() if stem not in by_stem)
    return Tree(pairs, alone, others)


def _refuse_links_out(root: str, folders: Iterable[str]) -> None:
    """Raises DataError if a folder of a tree, or anything in it, is a link out of the tree."""
    real_root = os.path.realpath(root)
    for folder in folders:
        # Links are not followed here, because they may lead to all files of this machine.
        left_out: list[LeftOut] = []
        names = walk(folder, None, leave_out=left_out.append, follow_links=False)
        for name in itertools.chain([""], names, (one.name for one in left_out)):
            file = os.path.join(folder, name).rstrip(os.sep)
            if not is_below(os.path.realpath(file), real_root):
                raise DataError(
                    f"{file} is a link out of {root}: remove it; or, if the tree is your own, pack"
                    f" it by itself: python -m fsvfm_jax.prepare pack {root} SET"
                )


def _reasons(folder: str, left_out: list[LeftOut], what: str) -> dict[str, str]:
    """Returns the reason why each of these files does not count."""
    return {os.path.join(folder, one.name): one.reason(wanted=what) for one in left_out}
