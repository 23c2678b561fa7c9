"""Trees of faces: `images/**` and `parsing_maps/**` with the same names."""

import os
from collections.abc import Iterable
from typing import NamedTuple

from fsvfm_jax.data.images import IMAGE_SUFFIXES
from fsvfm_jax.data.sources import walk
from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.files import is_below

MAP_SUFFIXES = (".npy", ".png")


class Pair(NamedTuple):
    """An image and its parsing map."""

    name: str  # the image's relative path without its suffix
    image: str  # file
    parsing_map: str | None  # file; None if there is none


class Tree(NamedTuple):
    """What is in a tree."""

    pairs: list[Pair]  # one per image, sorted by the image's relative path
    maps_without_image: list[str]  # files
    others: dict[str, str]  # files that do not count, and why


def list_tree(root: str, *, links_out: bool = True) -> Tree:
    """Finds the images of a tree and the map of each; symbolic links are followed.

    Args:
        root: The tree.
        links_out: Whether they may lead out of it: not if it comes from anyone.

    Raises:
        DataError: There is no image, two images would have one map, a folder cannot be listed, or
            a link leads out.
    """
    image_root, map_root = os.path.join(root, "images"), os.path.join(root, "parsing_maps")
    in_images, in_maps = sorted(walk(image_root)), sorted(walk(map_root))
    if not links_out:
        _refuse_links_out(root, (os.path.join(image_root, name) for name in in_images))
        _refuse_links_out(root, (os.path.join(map_root, name) for name in in_maps))
    images, others = [], {}
    for name in in_images:
        if _parts(name)[1] in IMAGE_SUFFIXES:
            images.append(name)
        else:
            others[os.path.join(image_root, name)] = "it is no image by its name"
    if not images:
        raise DataError(
            f"no PNG, JPEG or WebP image was found under {image_root}; a tree holds images/**.png"
            " (or jpg, jpeg, webp) and parsing_maps/**.npy (or png)"
        )
    maps: dict[str, str] = {}
    for name in in_maps:  # .npy goes before .png
        stem, suffix = _parts(name)
        file = os.path.join(map_root, name)
        if suffix not in MAP_SUFFIXES:
            others[file] = "it is no parsing map by its name"
        elif maps.setdefault(stem, file) != file:
            others[file] = f"{os.path.basename(maps[stem])} beside it is the map that counts"
    by_stem: dict[str, str] = {}
    for name in images:
        other = by_stem.setdefault(_parts(name)[0], name)
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


def _refuse_links_out(root: str, files: Iterable[str]) -> None:
    real_root = os.path.realpath(root)
    for file in files:
        if not is_below(os.path.realpath(file), real_root):
            raise DataError(
                f"{file} is a link out of {root}: remove it; or, if the tree is your own, pack"
                f" it by itself: python -m fsvfm_jax.prepare pack {root} SET"
            )


def _parts(name: str) -> tuple[str, str]:
    stem, suffix = os.path.splitext(name)
    return stem, suffix.lower()
