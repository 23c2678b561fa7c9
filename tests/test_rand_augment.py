"""Tests fine-tuning's augmentation against timm and torchvision, with our own generator."""

import colorsys
import itertools
import random
from functools import partial

import numpy as np
import pytest
from golden_files import need
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fsvfm_jax.data import rand_augment as ra
from fsvfm_jax.data.augment import draw_crop
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.errors import ConfigError

MEAN = (0.54822, 0.42341, 0.36547)
FILL = (140, 108, 93)
RECIPE = "rand-m9-mstd0.5-inc1"
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)

augment = partial(ra.rand_augment, mean=MEAN)
VIEWS = {
    "crop": partial(ra.random_resized_crop, size=24),
    "flip": ra.flip,
    "augment": augment,
    "saturation": partial(ra.saturation_jitter, strength=0.5),
}


def noise(height: int = 40, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return render_face(0, image_size=64)[0]


# Comparison with timm and torchvision


@pytest.mark.parametrize("name", ra.OPERATIONS)
def test_every_operation_is_timms_pixel_by_pixel(face, monkeypatch, name):
    timm = need("timm.data.auto_augment")
    parameters = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
    for picture in (face, noise(33, 50), np.full((5, 7, 3), 90, np.uint8)):
        for sign in (1, -1):
            monkeypatch.setattr(timm.random, "random", lambda sign=sign: (1 - sign) / 2)
            for magnitude in (0, 0.3, 5, 8.5, 9, 9.7, 10):
                operation = timm.AugmentOp(name, 1.0, magnitude, parameters)
                expected = np.asarray(operation(Image.fromarray(picture)))
                level = sign * magnitude / 10
                found = ra.operate(Image.fromarray(picture), name, level=level, fill=FILL)
                np.testing.assert_array_equal(np.asarray(found), expected, f"{magnitude} {sign}")


def test_the_operations_and_their_chances_are_those_of_timms_recipe():
    timm = need("timm.data.auto_augment")
    recipe = timm.rand_augment_transform(RECIPE, {"img_mean": FILL})
    assert tuple(operation.name for operation in recipe.ops) == ra.OPERATIONS
    assert (recipe.num_layers, recipe.choice_weights) == (2, None)
    for operation in recipe.ops:
        assert (operation.prob, operation.magnitude, operation.magnitude_std) == (0.5, 9, 0.5)


def test_uncovered_pixels_get_the_colour_timm_fills_with():
    factory = need("timm.data.transforms_factory")
    transform = factory.create_transform(
        64,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bilinear",
        mean=MEAN,
    )
    of_timm = next(t for t in transform.transforms if hasattr(t, "ops")).ops[0].kwargs
    assert of_timm == {"fillcolor": FILL, "resample": Image.Resampling.BILINEAR}
    white = np.full((20, 20, 3), 255, np.uint8)
    drawn = (augment(white, np.random.default_rng(seed)) for seed in range(300))
    assert any((picture == FILL).all(axis=2).any() for picture in drawn)


class Halves(np.random.Generator):
    """A generator whose uniform draws are given shares of the range; places are the middle."""

    def __init__(self, *shares: float):
        super().__init__(np.random.PCG64())
        self._shares = itertools.cycle(shares)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._shares)

    def integers(self, high: int) -> int:
        return (high - 1) // 2

    def randint(self, low: int, high: int) -> int:  # like Python's `random`, `high` is included
        return (low + high) // 2


@settings(max_examples=100)
@given(st.integers(3, 90), st.integers(3, 90), st.lists(st.floats(0, 1), min_size=20, max_size=20))
def test_the_box_is_timms_and_torchvisions(height, width, shares):
    transforms = need("timm.data.transforms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "random", Halves(*shares))
        top, left, rows, columns = transforms.RandomResizedCropAndInterpolation.get_params(
            Image.new("RGB", (width, height)), AREA, ASPECT
        )
    box = draw_crop(height, width, rng=Halves(*shares), area=AREA, aspect=ASPECT)
    assert box == (slice(top, top + rows), slice(left, left + columns))


@pytest.mark.parametrize("shape", [(317, 317), (64, 64), (40, 40), (300, 201), (97, 300)])
def test_evaluation_views_are_torchvisions(shape):
    transforms = need("torchvision.transforms")
    bicubic = transforms.InterpolationMode.BICUBIC
    image = noise(*shape)
    picture = Image.fromarray(image)
    stretched = transforms.Resize((224, 224), bicubic)(picture)
    found = ra.evaluation_view(image, size=224, transform="resize")
    np.testing.assert_array_equal(found, np.asarray(stretched))
    cropped = transforms.CenterCrop(224)(transforms.Resize(256, bicubic)(picture))
    found = ra.evaluation_view(image, size=224, transform="resize256_crop224")
    difference = np.abs(found.astype(int) - np.asarray(cropped))
    assert difference.max() <= (shape[0] != shape[1]) and (difference > 0).mean() < 0.002


# Random draws


def test_crops_have_areas_and_aspects_of_the_whole_range():
    rng = np.random.default_rng(0)
    boxes = [draw_crop(1000, 1000, rng=rng, area=AREA, aspect=ASPECT) for _ in range(4000)]
    rows, columns = (
        np.array([box[axis].stop - box[axis].start for box in boxes]) for axis in (0, 1)
    )
    areas, ratios = rows * columns / 1e6, np.log(columns / rows)
    assert 0.079 < areas.min() < 0.09 and 0.9 < areas.max() <= 1
    assert abs(ratios).max() < np.log(4 / 3) + 0.01
    # Areas below 3/4 are uniform, because every aspect ratio fits.
    inner = areas[areas < 0.74]
    np.testing.assert_allclose(
        np.quantile(inner, [0.25, 0.5, 0.75]), [0.245, 0.41, 0.575], atol=0.03
    )
    np.testing.assert_allclose(np.median(ratios), 0, atol=0.02)
    corners = np.array([[box[axis].start for axis in (0, 1)] for box in boxes])
    room = 1000 - np.stack([rows, columns], axis=1)
    np.testing.assert_allclose((corners / room.clip(1))[areas < 0.74].mean(0), 0.5, atol=0.03)


def test_half_of_the_pictures_are_mirrored():
    image = noise()
    rng = np.random.default_rng(0)
    mirrored = 0
    for _ in range(1000):
        found = ra.flip(image, rng)
        changed = not (found == image).all()
        np.testing.assert_array_equal(found, image[:, ::-1] if changed else image)
        mirrored += changed
    assert 430 < mirrored < 570


def test_operations_levels_and_directions_are_drawn_as_asked(monkeypatch):
    calls = []

    def record(picture, name, *, level, fill):
        calls.append((name, level))
        return picture

    monkeypatch.setattr(ra, "operate", record)
    rng = np.random.default_rng(0)
    image = noise(2, 2)
    applied = []
    for _ in range(6000):
        before = len(calls)
        augment(image, rng)
        applied.append(len(calls) - before)
    np.testing.assert_allclose(np.bincount(applied) / 6000, [0.25, 0.5, 0.25], atol=0.03)
    counts = np.unique([name for name, _ in calls], return_counts=True)[1]
    assert len(counts) == 15 and abs(counts - 400).max() < 100  # 5 deviations
    levels = np.array([level for _, level in calls])
    assert abs((levels > 0).mean() - 0.5) < 0.03
    sizes = abs(levels)
    # The upper 2.3 % of the normal distribution are clipped to 10.
    assert abs((sizes == 1).mean() - 0.0228) < 0.01
    np.testing.assert_allclose(
        np.quantile(sizes, [0.1587, 0.5, 0.8413]), [0.85, 0.9, 0.95], atol=0.005
    )
    names = np.array([name for name, _ in calls])
    pairs = names[: len(names) // 2 * 2].reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).any()  # draws are with replacement


def test_another_magnitude_deviation_and_number_are_taken(monkeypatch):
    levels = []
    monkeypatch.setattr(
        ra, "operate", lambda picture, _, level, fill: levels.append(level) or picture
    )
    for seed in range(20):
        rng = np.random.default_rng(seed)
        augment(noise(2, 2), rng, magnitude=3, deviation=0, operations=10)
    np.testing.assert_allclose(np.abs(levels), 0.3)
    assert 60 < len(levels) < 140
    image = noise()
    np.testing.assert_array_equal(augment(image, np.random.default_rng(0), operations=0), image)


class Draws(np.random.Generator):
    """A generator with known draws: whether a picture is changed, and the place in a range."""

    def __init__(self, share: float, *, changes: bool = True):
        super().__init__(np.random.PCG64())
        self._share, self._changes = share, changes

    def random(self) -> float:
        return 0.5 if self._changes else 0.0

    def uniform(self, low: float, high: float) -> float:
        return low + self._share * (high - low)


def test_saturation_goes_from_grey_to_twice_the_colour(face):
    def colourfulness(strength, share):
        found = ra.saturation_jitter(face, Draws(share), strength=strength)
        return np.ptp(found.astype(int), axis=2).mean()

    of_face = np.ptp(face.astype(int), axis=2).mean()
    assert colourfulness(1, 0.5) == colourfulness(0, 0.9) == of_face
    assert colourfulness(1, 0.0) == colourfulness(3, 0.0) == 0  # grey is the limit
    assert colourfulness(1, 1.0) > 1.3 * of_face
    assert colourfulness(0.4, 0.0) == pytest.approx(0.6 * of_face, rel=0.02)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.floats(0, 1))
def test_saturation_is_the_s_of_hsv_unclipped_until_the_end(pixel, share):
    """Compares with Python's HSV: for 0.8 to 1.2 times S, colours below 0 are clipped last."""
    image = np.array(pixel, np.uint8).reshape(1, 1, 3)
    found = ra.saturation_jitter(image, Draws(share), strength=0.2)
    hue, saturation, value = colorsys.rgb_to_hsv(*(x / 255 for x in pixel))
    factor = 0.8 + 0.4 * share
    expected = colorsys.hsv_to_rgb(hue, saturation * factor, value)
    np.testing.assert_allclose(found.ravel(), np.clip(np.multiply(expected, 255), 0, 255), atol=0.6)
    assert found.max() == max(pixel)


def test_every_other_picture_keeps_its_saturation(face):
    np.testing.assert_array_equal(
        ra.saturation_jitter(face, Draws(1.0, changes=False), strength=0.2), face
    )
    changed = [
        (ra.saturation_jitter(face, np.random.default_rng(seed), strength=0.2) != face).any()
        for seed in range(200)
    ]
    assert 70 < sum(changed) < 130


# Properties of all operations


@pytest.mark.parametrize("name", VIEWS)
def test_the_generator_alone_decides(face, name):
    before = random.getstate(), np.random.get_state()[1].tolist()
    image = face.copy()
    image.flags.writeable = False
    first, again = ([VIEWS[name](image, np.random.default_rng(s)) for s in range(12)] for _ in "ab")
    np.testing.assert_array_equal(first, again)
    assert len({picture.tobytes() for picture in first}) > 1
    np.testing.assert_array_equal(image, face)
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


@settings(max_examples=60)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_any_picture_comes_out_in_the_size_asked_for(height, width, size, seed):
    image = noise(height, width, seed)
    rng = np.random.default_rng(seed)
    for found in (
        ra.random_resized_crop(image, rng, size=size),
        ra.evaluation_view(image, size=size, transform="resize"),
        ra.evaluation_view(image, size=size, transform="resize256_crop224"),
    ):
        assert found.shape == (size, size, 3) and found.flags.c_contiguous
    for found in (
        ra.flip(image, rng),
        augment(image, rng, operations=4),
        ra.saturation_jitter(image, rng, strength=0.4),
    ):
        assert found.shape == image.shape and found.flags.c_contiguous


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 12_000), (12_000, 1), (1, 1)])
def test_the_longest_strips_are_only_pictures(shape):
    image = np.full((*shape, 3), (10, 128, 250), np.uint8)
    rng = np.random.default_rng(0)
    for found in (
        ra.random_resized_crop(image, rng, size=32),
        ra.evaluation_view(image, size=32, transform="resize"),
        ra.evaluation_view(image, size=32, transform="resize256_crop224"),
    ):
        assert found.shape == (32, 32, 3) and (found == (10, 128, 250)).all()
    for name in ra.OPERATIONS:
        ra.operate(Image.fromarray(image), name, level=0.9, fill=FILL)


def test_a_crop_that_fits_nowhere_is_the_middle():
    image = np.zeros((4, 300, 3), np.uint8)
    rows, columns = draw_crop(4, 300, rng=np.random.default_rng(0), area=(0.9, 1.0), aspect=ASPECT)
    assert (rows, columns) == (slice(0, 4), slice(147, 152))
    image[rows, columns] = 255
    found = ra.random_resized_crop(image, np.random.default_rng(0), size=8, area=(0.9, 1.0))
    assert (found == 255).all()


def test_an_unknown_evaluation_transform_is_named():
    with pytest.raises(ConfigError, match=r"'resize224'; choose resize or resize256_crop224"):
        ra.evaluation_view(noise(), size=24, transform="resize224")


@pytest.mark.parametrize(("level", "kept"), [(0.0, 0b11110000), (0.5, 0b11000000), (-1.0, 0)])
def test_posterizing_keeps_the_highest_bits_and_at_full_strength_none(level, kept):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    picture = Image.fromarray(image)
    found = ra.operate(picture, "PosterizeIncreasing", level=level, fill=(0, 0, 0))
    np.testing.assert_array_equal(np.asarray(found), image & kept)
