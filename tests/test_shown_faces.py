"""Tests that every kind of input gives its faces with the right parsing maps."""

import argparse

import face_trees
import numpy as np
import pytest
from hostile_files import write_hostile_files
from PIL import Image

from fsvfm_jax.data.rand_augment import evaluation_map, evaluation_view
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.errors import ConfigError, DataError, UserError
from fsvfm_jax.predict.faces import Face, FileFaces
from fsvfm_jax.prepare.average import average_map
from fsvfm_jax.prepare.crops import Box
from fsvfm_jax.visualize import shown_faces
from fsvfm_jax.visualize.shown_faces import ShownFaces, add_arguments, read_faces

SIZE = face_trees.SIZE


def read(*argv: str, **options) -> ShownFaces:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_faces(parser.parse_args([*map(str, argv)]), **({"size": SIZE} | options))


def check_rendered(faces: ShownFaces, indices: list[int]) -> None:
    """Checks that the faces are these of the renderer, with their own maps."""
    for place, index in enumerate(indices):
        image, parsing_map = render_face(index, image_size=SIZE)
        np.testing.assert_array_equal(faces.images[place], image)
        np.testing.assert_array_equal(faces.parsing_maps[place], parsing_map)
    assert len(faces.images) == len(indices) and faces.notes == []


def test_without_an_input_the_faces_are_rendered():
    faces = read("--count=3", "--seed=5")
    image, _ = render_face(2, image_size=SIZE, seed=5)
    np.testing.assert_array_equal(faces.images[2], image)
    assert faces.names == ["rendered face 0", "rendered face 1", "rendered face 2"]


def test_a_tree_a_packed_set_and_a_file_of_a_tree_have_their_maps(tree, undisturbed, tmp_path):
    check_rendered(read(tree, "--count=4"), [0, 2, 4, 6])
    for name, content in undisturbed.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    of_set = read(tmp_path, "--count=20")
    assert len(of_set.images) == 20 and of_set.notes == []
    image, parsing_map = FaceRecords(str(tmp_path), image_size=SIZE).decoded(7)
    np.testing.assert_array_equal(of_set.images[7], image)
    np.testing.assert_array_equal(of_set.parsing_maps[7], parsing_map)
    file = tree / "images" / "b" / "003.png"
    check_rendered(read(file), [3])
    check_rendered(read(file, tree, "--count=3"), [3, 0, 2])


def test_a_picture_without_a_map_gets_the_regions_of_an_average_face_and_a_note(tmp_path, tree):
    Image.fromarray(render_face(0, image_size=50)[0]).save(tmp_path / "alone.png")
    faces = read(tree / "images" / "b" / "003.png", tmp_path)
    np.testing.assert_array_equal(faces.parsing_maps[1], average_map(SIZE, SIZE))
    (note,) = faces.notes
    assert note.startswith("No parsing map belongs to face 2:") and "prepare parse" in note


def test_image_and_map_are_those_of_the_networks_view(tree):
    image, parsing_map = render_face(3, image_size=SIZE)
    options = {"size": 24, "transform": "resize256_crop224"}
    faces = read(tree / "images" / "b" / "003.png", size=24, view=options["transform"])
    np.testing.assert_array_equal(faces.images[0], evaluation_view(image, **options))
    np.testing.assert_array_equal(faces.parsing_maps[0], evaluation_map(parsing_map, **options))


def test_a_whole_photograph_is_refused_as_a_crop_and_searched_for_faces(tmp_path, monkeypatch):
    file = tmp_path / "photo.png"
    photo = np.random.default_rng(0).integers(256, size=(40, 90, 3), dtype=np.uint8)
    Image.fromarray(photo).save(file)
    with pytest.raises(DataError, match="looks like a whole photograph"):
        read(file)
    pytest.importorskip("dlib")
    with pytest.raises(DataError, match="no face was found"):
        read(file, "--faces=all")
    empty = FileFaces([], 1, 1, 0, None, 0.0)
    one = FileFaces(
        [Face(photo[:, :40], Box(0, 0, 40, 40), 1.0, None, None, 0)], 1, 1, 0, None, 0.0
    )
    found = iter([empty, one, empty])
    monkeypatch.setattr(shown_faces, "faces_of_file", lambda *args, **options: next(found))
    faces = read(file, file, file, "--faces=all")
    assert faces.notes[0] == "No face was found in 2 pictures: photo.png, photo.png."


def test_paths_of_a_list_are_relative_to_its_folder_or_the_root(tree, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    face = next((tree / "images").rglob("*.png"))
    (lists / "a.txt").write_text(f"{face.relative_to(tree)}\n")
    with pytest.raises(DataError, match="No such file"):
        read(lists / "a.txt")
    faces = read(lists / "a.txt", "--root", tree)
    assert faces.names == [face.name]


@pytest.mark.parametrize(
    ("argv", "error", "words"),
    [
        (["/nowhere/at/all"], DataError, "it does not exist"),
        (["--count=65"], ConfigError, "--count is 65; it must be at most 64"),
        (["--seed=-1"], ConfigError, "--seed is -1"),
        ([f"--seed={2**70}"], ConfigError, "it must be from 0 to 2147483647"),
    ],
)
def test_wrong_flags_are_one_sentence(argv, error, words):
    with pytest.raises(error, match=words):
        read(*argv)


def test_odd_files_are_refused_in_one_sentence(tmp_path):
    write_hostile_files(tmp_path / "odd")
    for file in (tmp_path / "odd").iterdir():
        try:
            read(file)
        except UserError as error:
            assert str(error).count("\n") == 0
