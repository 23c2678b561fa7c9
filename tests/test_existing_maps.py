"""Tests maps of other programs: their labels are translated, or they are refused with a reason."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.existing_maps import LABELS, ImportParser
from fsvfm_jax.regions import CLASSES

IMAGE = np.zeros((4, 5, 3), np.uint8)
NUMBERS = np.arange(20, dtype=np.uint8).reshape(4, 5)


def imported(
    root: Path, name: str = "sub/a.jpg", *, labels: str = "lapa", of_crops: bool = False
) -> np.ndarray | str:
    """Imports and returns the map of one image."""
    return ImportParser(str(root), labels=labels, of_crops=of_crops)([name], [IMAGE])[0]


def write_map(file: Path, parsing_map: np.ndarray) -> None:
    """Writes a map in the format of its suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".npy":
        np.save(file, parsing_map)
    else:
        Image.fromarray(parsing_map).save(file)


@pytest.mark.parametrize("suffix", ["npy", "png"])
def test_lapa_s_labels_are_ours(tmp_path: Path, suffix: str) -> None:
    write_map(tmp_path / f"sub/a.{suffix}", NUMBERS % 11)
    np.testing.assert_array_equal(imported(tmp_path), NUMBERS % 11)


def test_celebamask_s_labels_are_translated(tmp_path: Path) -> None:
    write_map(tmp_path / "sub/a.png", NUMBERS % 19)
    made = imported(tmp_path, labels="celebamask19")
    names = [CLASSES[number] for number in np.asarray(made).ravel()[:19]]
    assert names[:3] == ["background", "skin", "nose"]
    assert names[4:8] == ["left_eye", "right_eye", "left_brow", "right_brow"]
    assert names[10:14] == ["inner_mouth", "upper_lip", "lower_lip", "hair"]
    assert names[3] == "skin"  # glasses are skin
    assert set(names[8:10] + names[14:]) == {"background"}
    assert set(LABELS["celebamask19"]) == set(CLASSES)


def test_what_cannot_be_taken_has_a_reason(tmp_path: Path) -> None:
    assert imported(tmp_path) == "it has no map"
    write_map(tmp_path / "sub/a.png", NUMBERS % 19)
    assert imported(tmp_path) == "its map holds class 18 of 0 to 10: choose other --labels"
    write_map(tmp_path / "sub/a.npy", NUMBERS % 11)
    assert imported(tmp_path) == "2 maps, .npy and .png, are there"
    (tmp_path / "sub/a.png").unlink()
    write_map(tmp_path / "sub/a.npy", NUMBERS[:, :4] % 11)
    assert "its map has 4 x 4 pixels and the image 4 x 5" in imported(tmp_path)
    (tmp_path / "sub/a.npy").write_bytes(b"\x93NUMPY")
    assert str(imported(tmp_path)).startswith("its map: ")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_map(tmp_path / "other.npy", NUMBERS % 11)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a.npy").symlink_to(tmp_path / "other.npy")
    assert "its map is a link out of" in imported(tmp_path / "maps", "a.png")
    (tmp_path / "maps" / "b.npy").symlink_to("/dev/zero")
    assert "its map is a link out of" in imported(tmp_path / "maps", "b.png")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        ImportParser(str(tmp_path / "nowhere"), labels="lapa", of_crops=False)


def test_a_map_of_another_size_is_taken_if_its_aspect_ratio_is_the_image_s(tmp_path: Path) -> None:
    write_map(tmp_path / "sub/a.png", np.kron(NUMBERS % 11, np.ones((3, 3), np.uint8)))
    np.testing.assert_array_equal(imported(tmp_path)[1::3, 1::3], NUMBERS % 11)
    said = "12 x 15 pixels and the image 4 x 5, which was cut out of a photograph: make it anew"
    assert said in imported(tmp_path, of_crops=True)
    write_map(tmp_path / "sub/a.png", np.zeros((12, 16), np.uint8))
    assert "the image 4 x 5, another aspect ratio: make it anew" in imported(tmp_path)
    write_map(tmp_path / "sub/a.png", NUMBERS % 11)
    np.testing.assert_array_equal(imported(tmp_path, of_crops=True), NUMBERS % 11)
