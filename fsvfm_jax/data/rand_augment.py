"""Augments a face for fine-tuning before it is batched (METHOD section 5: full fine-tuning).

Operations and levels are those of timm's `rand-m9-mstd0.5-inc1`. All random numbers come from the
generator that is passed in. Data workers import this module, which needs NumPy and Pillow only.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from fsvfm_jax.data.augment import draw_crop
from fsvfm_jax.errors import ConfigError

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC

# The part of the resized picture's shorter side that each of the evaluation's transforms keeps.
CROP_PCT = {"resize": 1.0, "resize256_crop224": 0.875}
EVALUATION_TRANSFORMS = tuple(CROP_PCT)

# The names are timm's.
OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
MAX_MAGNITUDE = 10


def random_resized_crop(
    image: UInt8[np.ndarray, "H W 3"],
    rng: np.random.Generator,
    *,
    size: int,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    resample: Image.Resampling = BILINEAR,
) -> UInt8[np.ndarray, "S S 3"]:
    """Returns a random part of the picture, stretched to size x size.

    Args:
        image: The picture.
        rng: Draws the part.
        size: S, in pixels.
        area: As in `draw_crop`.
        aspect: As in `draw_crop`.
        resample: Pillow's filter.
    """
    box = draw_crop(*image.shape[:2], rng=rng, area=area, aspect=aspect)
    return np.array(Image.fromarray(image[box]).resize((size, size), resample))


def flip(image: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the picture, mirrored with probability 1/2."""
    return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image


def rand_augment(
    image: UInt8[np.ndarray, "H W 3"],
    rng: np.random.Generator,
    *,
    mean: tuple[float, float, float],
    magnitude: float | int = 9,
    deviation: float | int = 0.5,
    operations: int = 2,
) -> UInt8[np.ndarray, "H W 3"]:
    """Applies a few random operations, as timm's RandAugment with increasing severity does.

    Args:
        image: The picture.
        rng: Draws the operations (with repetition), whether to apply each (with probability 1/2),
            and its magnitude and direction.
        mean: Mean of the data set's pixels, 0 to 1; the colour of areas that an operation uncovers.
        magnitude: Mean of the magnitudes, 0 (no effect, for most operations) to 10.
        deviation: Standard deviation of the magnitudes, which are clipped to 0 to 10.
        operations: Number of operations to draw.
    """
    fill = tuple(min(255, round(255 * x)) for x in mean)
    picture = Image.fromarray(image)
    for name in rng.choice(OPERATIONS, operations):
        if rng.random() < 0.5:
            drawn = min(max(rng.normal(magnitude, deviation), 0.0), MAX_MAGNITUDE)
            level = drawn / MAX_MAGNITUDE * (1 if rng.random() < 0.5 else -1)
            picture = operate(picture, str(name), level=level, fill=fill)
    return np.array(picture)


def operate(
    picture: Image.Image, name: str, *, level: float, fill: tuple[int, int, int]
) -> Image.Image:
    """Applies one of `OPERATIONS`.

    Args:
        picture: RGB picture.
        name: Name of the operation.
        level: From -1 to 1. Operations without a direction use the absolute value.
        fill: RGB colour of uncovered areas, 0 to 255.
    """
    strength = abs(level)
    factor = max(0.1, 1 + 0.9 * level)  # A factor of 1 changes nothing.
    match name:
        case "AutoContrast":
            return ImageOps.autocontrast(picture)
        case "Equalize":
            return ImageOps.equalize(picture)
        case "Invert":
            return ImageOps.invert(picture)
        case "PosterizeIncreasing":
            # At full strength no bit is kept, which Pillow's own function refuses from version 13.
            kept = 256 - 2 ** (4 + int(4 * strength))
            return picture.point([value & kept for value in range(256)] * 3)
        case "SolarizeIncreasing":
            return ImageOps.solarize(picture, 256 - int(256 * strength))
        case "SolarizeAdd":
            lighter = [min(255, value + int(110 * strength)) for value in range(128)]
            return picture.point([*lighter, *range(128, 256)] * 3)
        case "ColorIncreasing":
            return ImageEnhance.Color(picture).enhance(factor)
        case "ContrastIncreasing":
            return ImageEnhance.Contrast(picture).enhance(factor)
        case "BrightnessIncreasing":
            return ImageEnhance.Brightness(picture).enhance(factor)
        case "SharpnessIncreasing":
            return ImageEnhance.Sharpness(picture).enhance(factor)
        case "Rotate":
            return picture.rotate(30 * level, BILINEAR, fillcolor=fill)
        # With (a, b, c, d, e, f) the pixel at x, y comes from a x + b y + c, d x + e y + f.
        case "ShearX":
            affine = (1, 0.3 * level, 0, 0, 1, 0)
        case "ShearY":
            affine = (1, 0, 0, 0.3 * level, 1, 0)
        case "TranslateXRel":
            affine = (1, 0, 0.45 * level * picture.width, 0, 1, 0)
        case "TranslateYRel":
            affine = (1, 0, 0, 0, 1, 0.45 * level * picture.height)
    kind = Image.Transform.AFFINE
    return picture.transform(picture.size, kind, affine, BILINEAR, fillcolor=fill)


def saturation_jitter(
    image: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator, *, strength: float | int
) -> UInt8[np.ndarray, "H W 3"]:
    """Scales the saturation of a picture with probability 1/2 (METHOD section 5: anti-spoofing).

    The S of HSV, (max - min) / max, is multiplied by a factor from 1 - strength (at least 0) to
    1 + strength. Hue and value (the largest channel) do not change: every channel's distance from
    the largest is multiplied by the factor, and the result is clipped to 0 to 255.

    Args:
        image: The picture.
        rng: Draws whether the picture is changed, and the factor.
        strength: Largest deviation of the factor from 1.
    """
    if rng.random() < 0.5:
        return image
    factor = np.float32(rng.uniform(max(0.0, 1 - strength), 1 + strength))
    value = image.max(axis=2, keepdims=True).astype(np.float32)
    scaled = value - factor * (value - image)
    return np.uint8(scaled.clip(0, 255).round())


def evaluation_view(
    image: UInt8[np.ndarray, "H W 3"], *, size: int, transform: str
) -> UInt8[np.ndarray, "S S 3"]:
    """Returns the picture as it is evaluated, resampled bicubic.

    Args:
        image: The picture.
        size: Side of the result in pixels.
        transform: `resize`, as in the papers' logs, stretches the picture to size x size.
            `resize256_crop224`, as in their README, makes the shorter side 256/224 of the size and
            takes the middle.

    Raises:
        ConfigError: The transform is unknown.
    """
    if transform not in EVALUATION_TRANSFORMS:
        choices = " or ".join(EVALUATION_TRANSFORMS)
        raise ConfigError(f"unknown config.data.view {transform!r}; choose {choices}")
    return _view(image, size, transform, resample=BICUBIC)


def evaluation_map(
    parsing_map: UInt8[np.ndarray, "H W"], *, size: int, transform: str
) -> UInt8[np.ndarray, "S S"]:
    """Returns the parsing map of the picture that `evaluation_view` returns, nearest neighbour."""
    return _view(parsing_map, size, transform, resample=Image.Resampling.NEAREST)


def _view(
    pixels: np.ndarray, size: int, transform: str, *, resample: Image.Resampling
) -> np.ndarray:
    picture = Image.fromarray(pixels)
    box = None if transform == "resize" else _middle(picture.size, size)
    return np.array(picture.resize((size, size), resample, box=box))


def _middle(picture: tuple[int, int], size: int) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of the middle crop, in pixels of the original picture.

    Resampling only this part gives the same pixels (up to 1 of 255 in a picture that is not
    square), and a long strip needs little memory.
    """
    shorter = round(size * 256 / 224)
    spans = []
    for side in picture:
        resized = int(shorter * side / min(picture))
        start = round((resized - size) / 2)
        spans.append((start * side / resized, (start + size) * side / resized))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom
