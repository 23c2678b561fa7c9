"""Tests that a record contains what its files contain."""

import io
from pathlib import Path

import face_trees
import numpy as np
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from fsvfm_jax.data.images import decode_image, decode_map
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.prepare.encode import LeftOut, Packed, encode_map, pack_pair, pack_pairs
from fsvfm_jax.prepare.pack import pack
from fsvfm_jax.prepare.trees import list_tree

SIZE = face_trees.SIZE


def test_original_bytes_are_kept_where_all_decode_them_alike(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    image, parsing_map = face_trees.render_face(0, image_size=SIZE)
    (tree / "images").mkdir(parents=True)
    (tree / "parsing_maps").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = Image.fromarray(image)
    picture.save(tree / "images/jpeg.jpg")
    picture.save(tree / "images/png.png")
    picture.save(tree / "images/turned.jpg", exif=turned)
    picture.save(tree / "images/webp.webp")
    picture.convert("L").save(tree / "images/grey.jpg")
    picture.save(tree / "images/broken.png", exif=b"Exif\0\0garbage!")
    files = {file.stem: file.read_bytes() for file in (tree / "images").iterdir()}
    for name in files:
        Image.fromarray(parsing_map).save(tree / "parsing_maps" / f"{name}.png")
    pack(str(tree), str(tmp_path / "set"), encoding="original")
    source = FaceRecords(str(tmp_path / "set"), image_size=SIZE)
    theirs = tfds.builder_from_directory(tmp_path / "set").as_data_source("train")
    for index in range(len(source)):
        stored = source.records([index])[0]
        kept = stored.image == files[stored.name]
        assert kept == (stored.name in ("jpeg", "png"))
        face = source[index]["image"]
        np.testing.assert_array_equal(face, decode_image(files[stored.name]))
        assert np.abs(theirs[index]["image"].astype(int) - face).max() <= 2
        np.testing.assert_array_equal(source[index]["parsing_map"], parsing_map)


@given(
    npst.arrays(
        np.uint8,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        elements=st.integers(0, 10),
    )
)
def test_maps_are_stored_losslessly(parsing_map: np.ndarray) -> None:
    data = encode_map(parsing_map)
    np.testing.assert_array_equal(decode_map(data), parsing_map)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image), parsing_map)
    feature = tfds.features.Image(shape=(None, None, 1))
    np.testing.assert_array_equal(feature.decode_example_np(data)[..., 0], parsing_map)


def test_what_is_counted_is_what_is_stored(tree: Path) -> None:
    pairs = list_tree(str(tree)).pairs[:3]
    several = pack_pairs(pairs, encoding="raw", image_size=20)
    for pair, packed in zip(pairs, several, strict=True):
        assert isinstance(packed, Packed)
        example = tf_example_pb2.Example.FromString(packed.record)
        stored = {key: value.bytes_list.value[0] for key, value in example.features.feature.items()}
        pixels = np.frombuffer(stored["image"], np.uint8).reshape(-1, 3).astype(np.int64)
        assert stored["name"].decode() == pair.name
        assert packed.size == (20, 20)
        assert packed.classes == tuple(sorted(set(stored["parsing_map"])))
        expected = [(pixels**power).sum(axis=0) for power in (0, 1, 2)]
        np.testing.assert_array_equal(packed.power_sums, expected)


def test_a_pair_without_map_is_left_out(tree: Path) -> None:
    pair = list_tree(str(tree)).pairs[0]._replace(parsing_map=None)
    left_out = LeftOut(pair.name, "it has no parsing map")
    assert pack_pair(pair, encoding="jpeg", image_size=None) == left_out
