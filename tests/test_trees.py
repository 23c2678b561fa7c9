"""Tests that images find their maps by name."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.trees import Pair, list_tree

STEMS = st.sets(st.sampled_from(["a", "b.c", "d/e", "d/f g", "d/h/ä", "z"]))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@given(STEMS.filter(bool), STEMS, STEMS)
def test_each_image_has_its_map_and_the_npy_first(
    tmp_path_factory: pytest.TempPathFactory, images: set[str], npys: set[str], pngs: set[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    touch(root, *(f"images/{stem}.png" for stem in images), "images/notes.txt")
    touch(root, *(f"parsing_maps/{stem}.npy" for stem in npys))
    touch(root, *(f"parsing_maps/{stem}.png" for stem in pngs), "parsing_maps/notes.txt")
    maps = {stem: str(root / f"parsing_maps/{stem}.png") for stem in pngs}
    maps |= {stem: str(root / f"parsing_maps/{stem}.npy") for stem in npys}
    tree = list_tree(str(root))
    assert tree.pairs == [
        Pair(name, str(root / f"images/{name}.png"), maps.get(name))
        for name in sorted(images, key=lambda stem: f"{stem}.png")
    ]
    assert tree.maps_without_image == sorted(maps[stem] for stem in maps.keys() - images)
    reasons = {
        str(root / "images/notes.txt"): "it is no image by its name",
        str(root / "parsing_maps/notes.txt"): "it is no parsing map by its name",
    }
    reasons |= {
        str(root / f"parsing_maps/{stem}.png"): (
            f"{Path(stem).name}.npy beside it is the map that counts"
        )
        for stem in pngs & npys
    }
    assert tree.others == reasons


def test_capital_suffixes_and_links_are_found(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/x.JPEG", "tree/images/y.Webp", "tree/parsing_maps/y.NPY")
    (tmp_path / "tree/images/linked").symlink_to(tmp_path / "elsewhere")
    pairs = list_tree(str(tmp_path / "tree")).pairs
    assert [pair.name for pair in pairs] == ["linked/x", "y"]
    assert pairs[1].parsing_map == str(tmp_path / "tree/parsing_maps/y.NPY")


def test_two_images_of_one_map_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/a.png", "parsing_maps/a.npy")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png in .* would have one parsing map"):
        list_tree(str(tmp_path))


@pytest.mark.parametrize("name", ["images/a.png", "parsing_maps/a.npy", "parsing_maps/b.npy"])
def test_a_tree_of_others_cannot_lead_out_of_itself(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "tree/images/a.png", "tree/parsing_maps/a.npy", "secret")
    touch(tmp_path, "tree/parsing_maps/b.npy")
    list_tree(str(tmp_path / "tree"), links_out=False)
    (tmp_path / "tree" / name).unlink()
    (tmp_path / "tree" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=f"{name} is a link out of"):
        list_tree(str(tmp_path / "tree"), links_out=False)
    assert list_tree(str(tmp_path / "tree")).pairs


@pytest.mark.parametrize("names", [["letter.pdf"], ["letter.png", "letter.jpg"]])
def test_a_folder_that_leads_out_is_refused_whatever_is_in_it(
    tmp_path: Path, names: list[str]
) -> None:
    touch(tmp_path, "tree/images/a.png", "tree/parsing_maps/a.npy")
    touch(tmp_path / "home", *names)
    (tmp_path / "tree/images/x").symlink_to(tmp_path / "home")
    with pytest.raises(DataError, match=r"images/x is a link out of"):
        list_tree(str(tmp_path / "tree"), links_out=False)


@pytest.mark.parametrize("name", ["images", "parsing_maps", "images/x", "images/.hidden"])
def test_a_tree_of_others_is_not_searched_elsewhere(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests a link to the root of the file system, whose search would take hours."""
    touch(tmp_path / "tree/images", "a.png")
    if name == "images":
        shutil.rmtree(tmp_path / "tree/images")
    (tmp_path / "tree" / name).symlink_to("/")
    searched = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: searched.append(folder) or scandir(folder))
    with pytest.raises(DataError, match=rf"{name} is a link out of"):
        list_tree(str(tmp_path / "tree"), links_out=False)
    assert len(searched) <= 2


def test_what_has_no_image_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "parsing_maps/a.npy", "images/a.gif")
    (tmp_path / "empty").mkdir()
    for root, what in (
        ("", "/images holds no PNG, JPEG, WebP, BMP or TIFF image"),
        ("empty", "/empty/images does not exist"),
        ("nowhere", "/nowhere does not exist"),
    ):
        with pytest.raises(DataError, match=f"{tmp_path}{what}; a tree holds"):
            list_tree(str(tmp_path / root))
