"""Tests sets that have a text list for each class."""

import pytest
from labelled_trees import read, refused, write_pictures

from fsvfm_jax.data.labelled.protocols import read_set
from fsvfm_jax.errors import ConfigError

LISTS = {
    "Celeb-real": "datasets/CDFv2/Celeb-real/id0_0000/045.png\n"
    "datasets/CDFv2/Celeb-real/id0_0000/000.png\ndatasets/CDFv2/Celeb-real/id1_0001/7.png",
    "YouTube-real": "datasets/CDFv2/YouTube-real/00000/000.png",
    "Celeb-synthesis": "# a comment\n\n'datasets/CDFv2/Celeb-synthesis/id0_id1_0000/000.png'\n",
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "config/CDFv2/test"
    folder.mkdir(parents=True)
    for name, text in LISTS.items():
        (folder / f"{name}.txt").write_text(text)
        files = [line.strip("'") for line in text.splitlines() if line.endswith((".png", ".png'"))]
        write_pictures(tmp_path, files)
    (folder / "notes.md").write_text("no list")
    return tmp_path


def test_the_name_of_a_list_is_the_class(root):
    videos = "datasets/CDFv2"
    assert read(root, "lists", list_file="config/CDFv2/test") == [
        (f"{videos}/Celeb-real/id0_0000/000.png", "real", f"{videos}/Celeb-real/id0_0000"),
        (f"{videos}/Celeb-real/id0_0000/045.png", "real", f"{videos}/Celeb-real/id0_0000"),
        (f"{videos}/Celeb-real/id1_0001/7.png", "real", f"{videos}/Celeb-real/id1_0001"),
        (
            f"{videos}/Celeb-synthesis/id0_id1_0000/000.png",
            "fake",
            f"{videos}/Celeb-synthesis/id0_id1_0000/000",
        ),
        (f"{videos}/YouTube-real/00000/000.png", "real", f"{videos}/YouTube-real/00000/000"),
    ]


def test_videos_labels_prefixes_and_excluded_lists(root):
    (root / "lists").mkdir()
    (root / "lists/DF.txt").write_text("/home/somebody/datasets/CDFv2/YouTube-real/00000/000.png")
    (root / "lists/real.txt").write_text("/home/somebody/datasets/CDFv2/Celeb-real/id0_0000")
    (root / "lists/extra.txt").write_text("../../no.png")
    options = {"strip_prefix": "/home/somebody/", "labels": {"DF": "fake"}, "videos": "folder"}
    found = read(root, "lists", "lists", exclude=("extra",), **options)
    assert [(label, video.rsplit("/", 1)[1]) for _, label, video in found] == [
        ("real", "id0_0000"),
        ("real", "id0_0000"),
        ("fake", "00000"),
    ]
    said = refused(root, "lists", "lists", **options)
    assert "a path may hold neither '..' nor NUL" in said


def test_what_is_no_folder_of_lists_is_named(root):
    assert "ROOT/no is no folder of lists (No such file" in refused(root, "lists", "no")
    (root / "one").mkdir()
    (root / "one/real.txt").write_text("")
    said = refused(root, "lists", "one")
    assert "ROOT/one has 'real.txt': a set has a list for each class, such as real.txt and" in said
    (root / "one/odd.txt").mkdir()
    assert "odd.txt cannot be read (it is a folder" in refused(root, "lists", "one")
    with pytest.raises(ConfigError, match="name a split, or the folder of lists as list_file"):
        read_set("lists", str(root), split="")
