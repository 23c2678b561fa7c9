"""Trees of faces: `images/**` and `parsing_maps/**` with the same names."""

import os
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


def list_tree(root: str) -> Tree:
    """Finds the images of a tree and the map of each; symbolic links are followed.

    Raises:
        DataError: There is no image, two images would have one map, or a folder cannot be listed.
    """
    image_root, map_root = os.path.join(root, "images"), os.path.join(root, "parsing_maps")
    images = sorted(name for name in walk(image_root) if _parts(name)[1] in IMAGE_SUFFIXES)
    if not images:
        raise DataError(
            f"no PNG, JPEG or WebP image was found under {image_root}; a tree holds images/**.png"
            " (or jpg, jpeg, webp) and parsing_maps/**.npy (or png)"
        )
    maps = {}
    for name in sorted(walk(map_root), reverse=True):  # .npy goes before .png
        stem, suffix = _parts(name)
        if suffix in MAP_SUFFIXES:
            maps[stem] = os.path.join(map_root, name)
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
    return Tree(pairs, sorted(file for stem, file in maps.items() if stem not in by_stem))


def refuse_links_out(root: str) -> None:
    """Raises DataError if a file of a tree, which may come from anyone, lies outside of it."""
    real_root = os.path.realpath(root)
    for pair in list_tree(root).pairs:
        for file in pair[1:]:
            if file and not is_below(os.path.realpath(file), real_root):
                raise DataError(
                    f"{file} is a link out of {root}: remove it; or, if the tree is your own, pack"
                    f" it by itself: python -m fsvfm_jax.prepare pack {root} SET"
                )


def _parts(name: str) -> tuple[str, str]:
    stem, suffix = os.path.splitext(name)
    return stem, suffix.lower()
