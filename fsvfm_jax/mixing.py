"""Mixup, cutmix and random erasing of a batch, on the device (METHOD section 5: full fine-tuning).

All shapes are static. All random draws depend on the key alone, not on the devices that hold the
batch.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from fsvfm_jax.errors import ConfigError

# The erased box: its share of the image's area, its height / width, and the number of draws.
ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 1 / 0.3)
ERASED_TRIES = 10


class Mixed(NamedTuple):
    """A batch in which every image, with its target, is mixed with the image of another row."""

    images: Float32[Array, "B H W 3"]
    targets: Float32[Array, "B C"]  # rows sum to 1


def mix(
    key: PRNGKeyArray,
    images: Float32[Array, "B H W 3"],
    targets: Int[Array, " B"],
    *,
    mixup: float | int,
    cutmix: float | int,
    smoothing: float | int,
    num_classes: int = 2,
) -> Mixed:
    """Mixes a batch with the same batch in reverse order, as timm's Mixup does in batch mode.

    The whole batch uses one lambda, drawn from Beta(alpha, alpha), and one method. Mixup keeps the
    share lambda of every pixel. Cutmix replaces a box by the pixels of the other image; the box has
    1 - lambda of the area, its centre is anywhere in the image, and it ends at the image's edges.
    If both are on, each is chosen with probability 1/2. The middle row of an odd batch is mixed
    with itself.

    Args:
        key: Key of this batch.
        images: Normalised images.
        targets: Classes, 0 to C - 1.
        mixup: alpha of mixup; 0 turns mixup off.
        cutmix: alpha of cutmix; 0 turns cutmix off.
        smoothing: Share of every target that is spread over all classes.
        num_classes: C.

    Returns:
        The mixed images, and the smoothed targets mixed by the share of the pixels that is kept. If
        both methods are off, nothing is mixed.

    Raises:
        ConfigError: An alpha is negative, or smoothing is not in 0 to 1.
    """
    if not (mixup >= 0 and cutmix >= 0):
        raise ConfigError(f"mixup is {mixup} and cutmix {cutmix}; neither may be below 0 (off)")
    _check_share("smoothing", smoothing)
    targets = jax.nn.one_hot(targets, num_classes) * (1 - smoothing) + smoothing / num_classes
    if mixup == cutmix == 0:
        return Mixed(images, targets)

    choice_key, lambda_key, box_key = jax.random.split(key, 3)
    cuts = jax.random.uniform(choice_key) < (0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = jnp.where(cuts, jnp.float32(cutmix), jnp.float32(mixup))
    lam = jax.random.beta(lambda_key, alpha, alpha)
    height, width = images.shape[1:3]
    centre = jax.random.randint(box_key, (2,), 0, jnp.array([height, width]))
    outside = 1 - cut_box(lam, centre, height=height, width=width).astype(jnp.float32)
    kept = jnp.where(cuts, outside, lam)[None, :, :, None]
    lam = jnp.where(cuts, outside.mean(), lam)
    return Mixed(
        images * kept + images[::-1] * (1 - kept), targets * lam + targets[::-1] * (1 - lam)
    )


def cut_box(
    lam: Float[Array, ""], centre: Int[Array, "2"], *, height: int, width: int
) -> Bool[Array, "H W"]:
    """Returns which pixels belong to the box of cutmix.

    Args:
        lam: lambda. The box has 1 - lambda of the image's area before it is cut off at the edges.
        centre: Row and column of the centre of the box, in pixels.
        height: H.
        width: W.
    """
    sides = (jnp.array([height, width]) * jnp.sqrt(1 - lam)).astype(jnp.int32)
    return _box(centre - sides // 2, sides, height=height, width=width)


def erase(
    key: PRNGKeyArray, images: Float32[Array, "B H W 3"], *, probability: float | int
) -> Float32[Array, "B H W 3"]:
    """Fills a box of some images with N(0, 1), as timm's random erasing does in mode `pixel`.

    Args:
        key: Key of this batch. Row i depends on the key, on i and on its own image only.
        images: Normalised images.
        probability: Probability that an image loses a box.

    Returns:
        The images with the boxes filled.

    Raises:
        ConfigError: The probability is not in 0 to 1.
    """
    _check_share("probability", probability)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))
    return jax.vmap(partial(_erase_one, probability=probability))(keys, images)


def _erase_one(
    key: PRNGKeyArray, image: Float32[Array, "H W 3"], *, probability: float | int
) -> Float32[Array, "H W 3"]:
    height, width, _ = image.shape
    coin_key, area_key, aspect_key, corner_key, noise_key = jax.random.split(key, 5)
    # All ten boxes are drawn at once, and the first that fits is used. In a square image 99 of 100
    # boxes fit.
    low, high = ERASED_AREA
    area = jax.random.uniform(area_key, ERASED_TRIES, minval=low, maxval=high) * height * width
    low, high = jnp.log(jnp.array(ERASED_ASPECT))
    aspect = jnp.exp(jax.random.uniform(aspect_key, ERASED_TRIES, minval=low, maxval=high))
    sides = jnp.sqrt(jnp.stack([area * aspect, area / aspect], axis=1)).round().astype(jnp.int32)
    fits = (sides < jnp.array([[height, width]])).all(axis=1)
    sides = sides[fits.argmax()]
    corner = jax.random.randint(corner_key, (2,), 0, jnp.array([height, width]) - sides + 1)
    erased = _box(corner, sides, height=height, width=width) & fits.any()
    erased &= jax.random.uniform(coin_key) < probability
    return jnp.where(erased[:, :, None], jax.random.normal(noise_key, image.shape), image)


def _box(
    corner: Int[Array, "2"], sides: Int[Array, "2"], *, height: int, width: int
) -> Bool[Array, "H W"]:
    rows = _span(height, corner[0], sides[0])
    columns = _span(width, corner[1], sides[1])
    return rows[:, None] & columns[None]


def _span(length: int, start: Int[Array, ""], extent: Int[Array, ""]) -> Bool[Array, " L"]:
    place = jnp.arange(length)
    return (place >= start) & (place < start + extent)


def _check_share(name: str, value: float | int) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value}; choose it from 0 to 1")
