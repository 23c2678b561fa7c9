"""Synthetic forgeries of rendered faces, for a benchmark that needs no download.

Four deepfakes change no pixel outside the face; two spoofs show the whole picture again, on paper
or on a screen. Each function takes the subject, a donor, a generator and a strength. A strength of
0 leaves every pixel unchanged; 1 is visible to a person at 64 px. Data workers import this module,
which needs NumPy and Pillow only.

Places are complex numbers x + iy in pixels; the centre of a pixel is at a half. The unit of length
on a face is the distance from the eyes to the mouth.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex64, Float32, UInt8
from PIL import Image, ImageFilter

from fsvfm_jax.data.rendered.synthetic import (
    BACKGROUND,
    HAIR,
    INNER_MOUTH,
    LEFT_BROW,
    LEFT_EYE,
    LOWER_LIP,
    NOSE,
    RIGHT_BROW,
    RIGHT_EYE,
    UPPER_LIP,
)

Picture = UInt8[np.ndarray, "H W 3"]
Mask = Float32[np.ndarray, "H W"]

EYES = (RIGHT_BROW, LEFT_BROW, RIGHT_EYE, LEFT_EYE)
LIPS = (UPPER_LIP, INNER_MOUTH, LOWER_LIP)
# The parts that a warp moves, with its reach in units of the face. Each eye is a part of its own,
# because no natural face has a single moved eye.
WARPED = (((RIGHT_EYE,), 0.5), ((LEFT_EYE,), 0.5), ((NOSE,), 0.5), (LIPS, 0.6))
# Half the height and half the width of the inner face, from above the brows to the chin, in units
# of the face.
INNER_FACE = (0.9, 0.8)


class Subject(NamedTuple):
    """A picture of a face and the LaPa class of each of its pixels."""

    image: Picture
    parsing_map: UInt8[np.ndarray, "H W"]


class Traces(NamedTuple):
    """What a forgery leaves in the picture beside its own change, in levels of 0 to 255.

    Attributes:
        softness: Share of the ellipse over which the changed face fades out.
        seam: Lowest and highest darkness of the seam; a negative seam is bright.
        missed: Mean error of red, green and blue inside the ellipse.
        spread: Largest difference of a forgery's error from that mean.
    """

    softness: float
    seam: tuple[float, float]
    missed: tuple[float, float, float]
    spread: float


# Each kind of deepfake has its own edge, seam and error of the colours. All change the inner face.
OF_SWAP = Traces(0.25, (12.0, 28.0), (-9.0, -2.0, 8.0), 10.0)
OF_WARP = Traces(0.5, (0.0, 0.0), (7.0, 1.0, -6.0), 6.0)
OF_TEXTURE = Traces(0.08, (0.0, 0.0), (0.0, 0.0, 0.0), 0.0)
OF_UPSAMPLING = Traces(0.15, (-20.0, -8.0), (0.0, 0.0, 0.0), 0.0)

# A donor is a function, so that only forgeries that need the donor's face render it.
Forgery = Callable[..., Picture]
Donor = Callable[[], Subject]


class Anchors(NamedTuple):
    """The mean places of the eyes with their brows and of the mouth."""

    eyes: complex
    mouth: complex


def face_pixels(parsing_map: UInt8[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Returns the pixels that a deepfake may change: skin and the features on it."""
    return (parsing_map != BACKGROUND) & (parsing_map != HAIR)


def anchors(parsing_map: UInt8[np.ndarray, "H W"]) -> Anchors:
    """Returns the places of eyes and mouth.

    If either is hidden, both are a quarter of the side above and below the centre.
    """
    eyes, mouth = (_centre(parsing_map, part, otherwise=0j) for part in (EYES, LIPS))
    if eyes and mouth:
        return Anchors(eyes, mouth)
    centre, quarter = (0.5 + 0.5j) * len(parsing_map), 0.25j * len(parsing_map)
    return Anchors(centre - quarter, centre + quarter)


def blended_swap(
    subject: Subject, donor: Donor, rng: np.random.Generator, *, strength: float
) -> Picture:
    """Pastes the donor's inner face over the subject's: aligned, colours matched, with a soft edge.

    Visible traces are brows and cheeks of the subject beside the pasted face, the donor's light,
    and the grain and sharpness of another camera.
    """
    giver = donor()
    here, there = anchors(subject.parsing_map), anchors(giver.parsing_map)
    turn = (there.mouth - there.eyes) / (here.mouth - here.eyes)
    start = there.eyes - turn * here.eyes
    face = np.uint8(255 * face_pixels(giver.parsing_map))
    planes = Image.fromarray(np.dstack([giver.image, face])).transform(
        face.shape[::-1],
        Image.Transform.AFFINE,
        (turn.real, -turn.imag, start.real, turn.imag, turn.real, start.imag),
        resample=Image.Resampling.BICUBIC,
    )
    pasted, covered = np.split(np.float32(planes), [3], axis=2)
    mask = _inner_face(subject.parsing_map, OF_SWAP, rng) * covered[..., 0] / 255
    pasted = _match_colours(pasted, np.float32(subject.image), mask)
    return _paste(subject, pasted, mask, OF_SWAP, rng, strength=strength)


def region_warp(
    subject: Subject, donor: Donor, rng: np.random.Generator, *, strength: float
) -> Picture:
    """Moves, enlarges or shrinks two of four parts: either eye, the nose, the mouth."""
    del donor
    face = anchors(subject.parsing_map)
    unit = abs(face.mouth - face.eyes)
    places = _places(subject.parsing_map)
    shifted = places.copy()
    for part in rng.choice(len(WARPED), 2, replace=False):
        classes, reach = WARPED[part]
        offset = places - np.complex64(_centre(subject.parsing_map, classes, otherwise=face.eyes))
        near = np.maximum(1 - np.square(abs(offset) / (reach * unit)), 0)
        shift = rng.uniform(0.1, 0.2) * unit * np.exp(2j * math.pi * rng.random())
        growth = rng.choice([-0.4, 0.3]) + rng.uniform(-0.1, 0.1)
        shifted += near * near * np.complex64(shift)
        shifted += np.float32(growth) * near * near * offset
    mask = _inner_face(subject.parsing_map, OF_WARP, rng)
    return _paste(subject, _sample(subject.image, shifted), mask, OF_WARP, rng, strength=strength)


def local_texture(
    subject: Subject, donor: Donor, rng: np.random.Generator, *, strength: float
) -> Picture:
    """Makes the inner face smoother or rougher than the rest, with equal probability."""
    del donor
    mask = _inner_face(subject.parsing_map, OF_TEXTURE, rng)
    if rng.random() < 0.5:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.7, 1.1) * len(mask) / 64)
        changed = np.float32(Image.fromarray(subject.image).filter(blur))
    else:
        noise = rng.standard_normal((*mask.shape, 1), np.float32)
        changed = subject.image + np.float32(rng.uniform(5, 9)) * noise
    return _paste(subject, changed, mask, OF_TEXTURE, rng, strength=strength)


def upsampling_pattern(
    subject: Subject, donor: Donor, rng: np.random.Generator, *, strength: float
) -> Picture:
    """Halves and redoubles the inner face's size, with a transposed convolution's checkerboard."""
    del donor
    height, width = subject.parsing_map.shape
    small = Image.fromarray(subject.image).resize(
        ((width + 1) // 2, (height + 1) // 2), Image.Resampling.BOX
    )
    large = np.float32(small.resize((width, height), Image.Resampling.BILINEAR))
    rows, columns = 1 - 2 * (np.arange(height) % 2), 1 - 2 * (np.arange(width) % 2)
    checks = np.float32(rng.uniform(2, 5) * rows[:, None] * columns)
    mask = _inner_face(subject.parsing_map, OF_UPSAMPLING, rng)
    return _paste(subject, large + checks[..., None], mask, OF_UPSAMPLING, rng, strength=strength)


def print_attack(
    subject: Subject, donor: Donor, rng: np.random.Generator, *, strength: float
) -> Picture:
    """Shows the picture on paper: halftone dots, a flat and tinted range, held at an angle."""
    del donor
    held = _hold(subject.image, rng, reach=0.1 * strength, around=rng.integers(150, 250, 3))
    places = _places(subject.parsing_map) * np.exp(1j * rng.uniform(0.2, 1.3))
    pitch = 2 * math.pi * 64 / (rng.uniform(2.6, 3.6) * len(places))
    dots = np.cos(pitch * places.real) * np.cos(pitch * places.imag)
    dots = np.float32(rng.uniform(4, 8)) * dots[..., None].astype(np.float32)
    paper = np.float32(rng.uniform([205, 195, 175], [235, 225, 215]))
    ink = np.float32(rng.uniform(15, 45))
    printed = ink + (held + dots) * (paper - ink) / 255
    return _to_bytes(subject.image + np.float32(strength) * (printed - subject.image))


def replay_attack(
    subject: Subject, donor: Donor, rng: np.random.Generator, *, strength: float
) -> Picture:
    """Shows the picture on a screen: moire of screen and camera, glare, and shifted colours."""
    del donor
    held = _hold(subject.image, rng, reach=0.06 * strength, around=rng.integers(0, 40, 3))
    places = _places(subject.parsing_map) / np.complex64(len(subject.parsing_map))
    angle, turn = rng.uniform(0, math.pi), rng.uniform(0.03, 0.1)
    lines, stretch = rng.uniform(50, 90), rng.uniform(1.03, 1.1)
    first = np.cos(2 * math.pi * lines * (places * np.exp(1j * angle)).real)
    second = np.cos(2 * math.pi * lines * stretch * (places * np.exp(1j * (angle + turn))).real)
    # The grids are finer than a pixel, so only the beat of their product is visible.
    beat = np.float32(first * second + 0.2 * (first + second))[..., None]
    lamp = complex(*rng.uniform(0.1, 0.9, 2))
    glare = np.maximum(1 - np.square(abs(places - lamp) / rng.uniform(0.15, 0.4)), 0)
    colour = np.float32(rng.uniform([0.82, 0.9, 0.95], [0.95, 1.0, 1.12]))
    shown = held * colour * (1 + np.float32(rng.uniform(0.05, 0.1)) * beat)
    shown += np.float32(rng.uniform(30, 80) * glare[..., None])
    return _to_bytes(subject.image + np.float32(strength) * (shown - subject.image))


def _places(parsing_map: UInt8[np.ndarray, "H W"]) -> Complex64[np.ndarray, "H W"]:
    rows, columns = (np.arange(n, dtype=np.float32) + 0.5 for n in parsing_map.shape)
    return columns + np.complex64(1j) * rows[:, None]


def _centre(
    parsing_map: UInt8[np.ndarray, "H W"], classes: tuple[int, ...], *, otherwise: complex
) -> complex:
    """Returns the mean place of the pixels of some classes, or `otherwise` if there are none."""
    member = np.zeros(HAIR + 1, bool)
    member[list(classes)] = True
    rows, columns = member[parsing_map].nonzero()
    return complex(columns.mean() + 0.5, rows.mean() + 0.5) if rows.size else otherwise


def _inner_face(
    parsing_map: UInt8[np.ndarray, "H W"], traces: Traces, rng: np.random.Generator
) -> Mask:
    """Returns 1 inside an ellipse over eyes, nose and mouth, falling to 0 at its edge."""
    face = anchors(parsing_map)
    down = face.mouth - face.eyes
    along = (_places(parsing_map) - np.complex64(face.eyes + 0.5 * down)) / np.complex64(down)
    half_height, half_width = np.float32(INNER_FACE * rng.uniform(0.9, 1.1, 2))
    level = np.sqrt(np.square(along.real / half_height) + np.square(along.imag / half_width))
    return np.clip((1 - level) / np.float32(traces.softness), 0, 1)


def _match_colours(
    pasted: Float32[np.ndarray, "H W 3"], wanted: Float32[np.ndarray, "H W 3"], mask: Mask
) -> Float32[np.ndarray, "H W 3"]:
    """Gives the pasted face the mean colour of the area it covers, and half its contrast."""
    weights = mask[..., None] / max(float(mask.sum()), 1.0)
    mean, wanted_mean = (np.sum(weights * one, (0, 1)) for one in (pasted, wanted))
    spread, wanted_spread = (
        np.sqrt(np.sum(weights * np.square(one - middle), (0, 1))) + 4
        for one, middle in ((pasted, mean), (wanted, wanted_mean))
    )
    return (pasted - mean) * np.sqrt(wanted_spread / spread) + wanted_mean


def _sample(image: Picture, places: Complex64[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W 3"]:
    """Returns the picture's colours at any places, bilinear; outside, the colours of the edge."""
    height, width = places.shape
    x, y = (places.real - 0.5).clip(0, width - 1), (places.imag - 0.5).clip(0, height - 1)
    left, top = x.astype(np.int32), y.astype(np.int32)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = np.modf(x)[0][..., None], np.modf(y)[0][..., None]
    colours = np.float32(image)
    upper = colours[top, left] + across * (colours[top, right] - colours[top, left])
    lower = colours[bottom, left] + across * (colours[bottom, right] - colours[bottom, left])
    return upper + down * (lower - upper)


def _hold(
    image: Picture, rng: np.random.Generator, *, reach: float, around: np.ndarray
) -> Float32[np.ndarray, "H W 3"]:
    """Moves each corner of a flat picture by up to `reach` of its side, and fills the outside."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [0, 1], [1, 1], [1, 0]]) + reach * rng.uniform(-0.5, 1, (4, 2)) * [
        [1, 1],
        [1, -1],
        [-1, -1],
        [-1, 1],
    ]
    quad = (corners * [width, height]).ravel().tolist()
    held = Image.fromarray(image).transform(
        (width, height),
        Image.Transform.QUAD,
        quad,
        resample=Image.Resampling.BICUBIC,
        fillcolor=tuple(around.tolist()),
    )
    return np.float32(held)


def _paste(
    subject: Subject,
    changed: Float32[np.ndarray, "H W 3"],
    mask: Mask,
    traces: Traces,
    rng: np.random.Generator,
    *,
    strength: float,
) -> Picture:
    """Pastes a changed face over the subject's where the mask is 1, and never outside the face.

    The seam lies where the mask is between 0 and 1.
    """
    missed = np.float32(traces.missed + rng.uniform(-traces.spread, traces.spread, 3))
    seam = np.float32(rng.uniform(*traces.seam)) * 4 * (mask * (1 - mask))[..., None]
    within = np.float32(strength) * face_pixels(subject.parsing_map)[..., None]
    change = mask[..., None] * (changed + missed - subject.image) - seam
    return _to_bytes(subject.image + within * change)


def _to_bytes(image: Float32[np.ndarray, "H W 3"]) -> Picture:
    return np.uint8(image.clip(0, 255) + np.float32(0.5))
