import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.data.rendered.synthetic_parameters import FaceParameters, draw
from fsvfm_jax.regions import CLASSES, GROUP_CLASSES, NUM_CLASSES, patch_classes

NUM_FACES = 200
INDEX = {name: index for index, name in enumerate(CLASSES)}


@pytest.fixture(scope="module")
def faces():
    """Returns images and parsing maps of the first faces at 64 px."""
    images, maps = zip(*(render_face(i, image_size=64) for i in range(NUM_FACES)), strict=True)
    return np.stack(images), np.stack(maps)


@pytest.fixture(scope="module")
def large_faces():
    """Returns the same at 128 px, where every part is several pixels thick."""
    images, maps = zip(*(render_face(i, image_size=128) for i in range(80)), strict=True)
    return np.stack(images), np.stack(maps)


@settings(max_examples=25)
@given(
    index=st.integers(0, 2**40),
    seed=st.integers(0, 2**40),
    image_size=st.sampled_from([1, 16, 33, 64]),
)
def test_any_face_is_an_image_and_a_map_of_the_size_asked_for(index, seed, image_size):
    image, parsing_map = render_face(index, image_size=image_size, seed=seed)
    assert image.shape == (image_size, image_size, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert parsing_map.shape == (image_size, image_size)
    assert parsing_map.dtype == np.uint8
    assert parsing_map.max() < NUM_CLASSES


def test_a_face_depends_on_nothing_but_the_arguments():
    first = render_face(3, image_size=64, seed=5)
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    render_face(4, image_size=64, seed=5)
    second = render_face(3, image_size=64, seed=5)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_indices_and_seeds_give_different_faces():
    faces = [render_face(i, image_size=32, seed=seed) for i in range(8) for seed in range(8)]
    assert len({image.tobytes() for image, _ in faces}) == 64
    assert len({parsing_map.tobytes() for _, parsing_map in faces}) == 64


@pytest.mark.parametrize("wrong", [{"index": -1}, {"index": 0, "seed": -1}])
def test_negative_indices_and_seeds_are_refused(wrong):
    with pytest.raises(ValueError, match="non-negative"):
        render_face(image_size=16, **wrong)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("background", 1, 1),
        ("skin", 1, 1),
        ("right_brow", 0.95, 1),
        ("left_brow", 0.95, 1),
        ("right_eye", 0.95, 1),
        ("left_eye", 0.95, 1),
        ("nose", 0.99, 1),
        ("upper_lip", 0.99, 1),
        ("inner_mouth", 0.45, 0.8),
        ("lower_lip", 0.99, 1),
        ("hair", 0.8, 0.97),
    ],
)
def test_each_class_occurs_in_its_share_of_faces(faces, name, least, most):
    occurs = (faces[1] == INDEX[name]).any(axis=(1, 2)).mean()
    assert least <= occurs <= most


def test_the_coverable_groups_occur_in_nearly_all_faces(faces):
    words = patch_classes(faces[1], 8)

    def has(classes):
        return (words & sum(1 << c for c in classes)) != 0

    groups = {name: has(classes) for name, classes in GROUP_CLASSES.items()}
    groups["boundary"] = has([INDEX["skin"]]) & has([INDEX["hair"], INDEX["background"]])
    for name in ("brows", "eyes", "nose", "mouth", "boundary"):
        assert groups[name].any(axis=1).mean() >= 0.99, name
    assert groups["hair"].any(axis=1).mean() >= 0.8
    # A mask that covers a group and a quarter of the rest leaves three quarters of the patches.
    assert groups["boundary"].mean() < 0.5
    assert groups["hair"].mean() < 0.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("skin", "background"),
        ("skin", "hair"),
        ("hair", "background"),
        ("right_brow", "skin"),
        ("left_brow", "skin"),
        ("right_eye", "skin"),
        ("left_eye", "skin"),
        ("nose", "skin"),
        ("upper_lip", "skin"),
        ("upper_lip", "inner_mouth"),
        ("lower_lip", "inner_mouth"),
        ("lower_lip", "skin"),
    ],
)
def test_the_map_lies_on_the_edges_of_the_image_to_the_pixel(large_faces, one, other):
    """Compares the change across the map's borders with that across borders moved by 1 or 2 px."""
    images, maps = large_faces
    low, high = sorted((INDEX[one], INDEX[other]))
    shifts = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    strengths = np.zeros(len(shifts))
    for axis in (1, 2):
        change = np.abs(np.diff(images.astype(np.float32), axis=axis)).mean(axis=-1)
        first, second = (np.delete(maps, end, axis=axis) for end in (-1, 0))
        border = (np.minimum(first, second) == low) & (np.maximum(first, second) == high)
        face, row, column = np.nonzero(border[:, 2:-2, 2:-2])
        for i, (down, right) in enumerate(shifts):
            strengths[i] += change[face, row + 2 + down, column + 2 + right].sum()
    assert shifts[np.argmax(strengths)] == (0, 0), dict(zip(shifts, strengths, strict=True))


def test_right_is_the_subjects_right(faces):
    def centroids(name):
        rows, columns = np.mgrid[:64, :64]
        inside = faces[1] == INDEX[name]
        area = np.maximum(inside.sum(axis=(1, 2)), 1)
        centres = [(inside * axis).sum(axis=(1, 2)) / area for axis in (columns, rows)]
        return np.stack(centres, axis=1), inside.any(axis=(1, 2))

    rolls = [
        draw(FaceParameters, np.random.default_rng([0, i])).pose.roll for i in range(NUM_FACES)
    ]
    face_axis = np.stack([np.cos(rolls), np.sin(rolls)], axis=1)
    for part in ("eye", "brow"):
        right, has_right = centroids(f"right_{part}")
        left, has_left = centroids(f"left_{part}")
        distance = ((left - right) * face_axis).sum(axis=1)[has_right & has_left]
        assert len(distance) > 0.9 * NUM_FACES
        assert distance.min() > 4


def test_faces_vary(faces):
    luminance = faces[0].mean(axis=-1)
    skin = faces[1] == INDEX["skin"]
    skin_luminance = (luminance * skin).sum(axis=(1, 2)) / skin.sum(axis=(1, 2))
    assert skin_luminance.std() > 30
    shares = np.stack([(faces[1] == c).mean(axis=(1, 2)) for c in range(NUM_CLASSES)])
    for name in ("background", "skin", "hair"):
        assert shares[INDEX[name]].std() > 0.04, name
    for name in ("right_eye", "left_brow", "nose", "upper_lip", "lower_lip"):
        assert shares[INDEX[name]].std() > 0.2 * shares[INDEX[name]].mean(), name
    assert luminance[faces[1] == INDEX["background"]].std() > 30
    nose = faces[1] == INDEX["nose"]
    assert nose.mean(axis=0).max() < 0.9
    assert (nose.mean(axis=0) > 0).mean() > 0.1


@pytest.mark.parametrize(("image_size", "agreement"), [(192, 1), (224, 0.97)])
def test_another_size_shows_the_same_face(faces, image_size, agreement):
    nearest = ((np.arange(64) + 0.5) * image_size / 64).astype(int)
    agree, difference = [], []
    for i in range(12):
        image, parsing_map = render_face(i, image_size=image_size)
        agree.append((parsing_map[np.ix_(nearest, nearest)] == faces[1][i]).mean())
        rows = image[np.ix_(nearest, nearest)].astype(float) - faces[0][i]
        difference.append(np.abs(rows).mean())
    # At three times the size, every third pixel has the same centre, up to rounding.
    assert np.mean(agree) >= agreement - 1e-4
    assert min(agree) >= agreement - 1e-3
    assert np.mean(difference) < 10


def test_every_parameter_is_drawn_within_its_range():
    def check(group):
        for parameter in dataclasses.fields(group):
            value = getattr(group, parameter.name)
            if dataclasses.is_dataclass(value):
                check(value)
            else:
                low, high, shape = parameter.metadata["range"]
                assert np.shape(value) == (shape or ())
                assert np.all((np.float32(low) <= value) & (value <= np.float32(high)))
                if shape:
                    assert np.unique(value).size == np.size(value)

    first, second = (draw(FaceParameters, np.random.default_rng(i)) for i in range(2))
    check(first)
    assert first.pose != second.pose
