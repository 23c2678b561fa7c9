"""The parameters of a synthetic face, with their ranges, colour palettes and hair styles.

Lengths are in units of the head (see `synthetic.py`) and angles in radians, unless a comment states
otherwise.
"""

# ruff: noqa: RUF009 (`between` declares a field, as `dataclasses.field` does)

import math
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32

Vector = Float32[np.ndarray, "_"]
Table = Float32[np.ndarray, "_ _"]
Colour = Float32[np.ndarray, "3 #H #W"]
T = TypeVar("T")


def palette(*colours: int) -> Table:
    """Returns colours written as 0xRRGGBB as rows of red, green and blue from 0 to 1."""
    return np.float32([[c >> 16, c >> 8 & 255, c & 255] for c in colours]) / 255


def rgb(values: Vector) -> Colour:
    """Returns a colour in a shape that fits an image, [3, 1, 1]."""
    return values[:, None, None]


def tone(palette: Table, position: float) -> Colour:
    """Returns the palette's interpolated colour at a position from 0 to 1."""
    at = position * (len(palette) - 1)
    before = min(int(at), len(palette) - 2)
    return rgb(palette[before] + (at - before) * (palette[before + 1] - palette[before]))


SKIN_TONES = palette(0xF7D9C6, 0xEBBF9F, 0xD9A27C, 0xBF8256, 0x98603C, 0x6E432A, 0x4A2F20)
HAIR_TONES = palette(0x17120F, 0x2E1F17, 0x553621, 0x86532C, 0xA8602F, 0xD9B36C, 0xA9A49E, 0xE8E4DC)
IRIS_TONES = palette(0x2B1A10, 0x5A3A1E, 0x7A6A35, 0x4F7A55, 0x4A7FA8, 0x8A9BA8)


class HairStyle(NamedTuple):
    """Where hair starts and ends on the y axis, and how far it stands out.

    `hairline` and `temples` limit the hair in front, `length` all hair; `boxiness` makes the curve
    from hairline to temples steeper; `volume` is relative to the head; `bun` is a radius.
    """

    hairline: float
    temples: float
    boxiness: float
    volume: float
    length: float
    bun: float = 0.0


HAIR_STYLES = (
    HairStyle(-3.00, -3.00, 0.0, 0.50, 0.0),  # bald: all hair is hidden behind the head
    HairStyle(-0.68, 0.00, 0.9, 1.06, 0.0),  # cropped
    HairStyle(-0.66, -0.10, 0.5, 1.16, 0.1),  # short
    HairStyle(-0.90, 0.05, 0.7, 1.05, 0.1),  # receding
    HairStyle(-0.46, 0.25, 1.0, 1.14, 0.5),  # fringe
    HairStyle(-0.62, 0.70, 0.6, 1.22, 0.8),  # bob
    HairStyle(-0.72, 0.80, 0.3, 1.22, 2.5),  # long
    HairStyle(-0.46, 0.80, 0.9, 1.18, 2.5),  # long with a fringe
    HairStyle(-0.74, -0.10, 0.4, 1.06, 0.0, bun=0.4),
    HairStyle(-0.66, 0.10, 0.8, 1.45, 0.6),  # afro
)


def between(low: float, high: float, shape: tuple[int, ...] | None = None) -> Any:
    """Declares a parameter that `draw` draws uniformly from a range.

    Args:
        low: Lower end of the range.
        high: Upper end of the range.
        shape: Shape of an array of such values; None for a number.
    """
    return field(metadata={"range": (low, high, shape)})


def draw(group: type[T], rng: np.random.Generator) -> T:
    """Draws the parameters of a dataclass in the order of its fields, including nested groups."""
    values = {}
    for parameter in fields(group):
        if parameter.metadata:
            low, high, shape = parameter.metadata["range"]
            value = low + (high - low) * rng.random(shape)
            values[parameter.name] = value if shape is None else np.float32(value)
        else:
            values[parameter.name] = draw(parameter.type, rng)
    return group(**values)


@dataclass(frozen=True)
class Pose:
    """Place, size and rotation of the head."""

    size: float = between(0.31, 0.43)  # half the head's height, in image heights like the centre
    centre_x: float = between(0.45, 0.55)
    centre_y: float = between(0.48, 0.56)
    roll: float = between(-0.3, 0.3)
    yaw: float = between(-0.4, 0.4)
    pitch: float = between(-0.12, 0.12)


@dataclass(frozen=True)
class Head:
    """Skin, outline, ears and neck."""

    tone: float = between(0.0, 1.0)
    tint: Vector = between(-0.04, 0.04, (3,))
    width: float = between(0.66, 0.84)  # half the head's width
    jaw: float = between(-0.16, 0.08)  # below 0 pointed, above 0 wide
    squareness: float = between(0.0, 0.6)
    blush: float = between(0.0, 0.12)
    mottle: float = between(0.0, 0.06)
    beard: float = between(-1.2, 0.6)  # below 0: none
    ear: float = between(0.12, 0.22)
    neck: float = between(0.36, 0.6)


@dataclass(frozen=True)
class Eyes:
    """Eyes and lids."""

    y: float = between(-0.08, 0.02)
    spacing: float = between(0.4, 0.5)  # of the head's width
    width: float = between(0.14, 0.2)
    height: float = between(0.07, 0.13)
    lids: float = between(-0.25, 1.0)  # how far the upper lid is above the corners; below 0: closed
    slant: float = between(-0.2, 0.15)
    iris: float = between(0.07, 0.1)
    tone: float = between(0.0, 1.0)
    gaze: Vector = between(-0.3, 0.3, (2,))  # of the eye's width and height
    shadow: Vector = between(0.6, 1.0, (3,))


@dataclass(frozen=True)
class Brows:
    """Both brows."""

    gap: float = between(0.2, 0.28)
    raised: Vector = between(-0.02, 0.07, (2,))  # right, left
    width: float = between(0.17, 0.24)
    thickness: float = between(0.04, 0.08)
    arch: float = between(0.0, 0.08)
    tilt: float = between(-0.25, 0.25)
    strength: float = between(0.5, 0.95)


@dataclass(frozen=True)
class Nose:
    """Shape and colour of the nose."""

    tip: float = between(0.28, 0.42)
    length: float = between(0.36, 0.5)
    width: float = between(0.11, 0.19)
    taper: float = between(0.3, 0.65)
    relief: float = between(0.15, 0.35)
    redness: float = between(0.0, 0.1)
    nostrils: float = between(0.3, 0.8)


@dataclass(frozen=True)
class Mouth:
    """Lips and teeth."""

    y: float = between(0.54, 0.66)
    width: float = between(0.2, 0.34)
    smile: float = between(-0.06, 0.12)
    opening: float = between(-0.1, 0.16)  # below 0: closed
    upper: float = between(0.045, 0.09)
    lower: float = between(0.055, 0.11)
    tint: Vector = between(0.0, 0.35, (3,))
    teeth: float = between(-0.3, 0.8)  # below 0: not visible


@dataclass(frozen=True)
class Hair:
    """Style and colour of the hair."""

    style: float = between(0.0, float(len(HAIR_STYLES)))
    tone: float = between(0.0, 1.0)
    tint: Vector = between(-0.07, 0.07, (3,))
    lift: float = between(-0.06, 0.06)
    volume: float = between(0.0, 0.12)
    parting: float = between(-0.25, 0.25)
    strands: float = between(12.0, 40.0)
    wave: float = between(0.0, 6.0)
    contrast: float = between(0.1, 0.35)
    fringe: float = between(0.0, 0.04)


@dataclass(frozen=True)
class Scene:
    """Background, clothes, light and camera."""

    colours: Table = between(0.05, 0.95, (7, 3))  # two of the background, clothes, four shapes
    saturation: float = between(0.1, 0.8)
    direction: float = between(0.0, 2 * math.pi)
    shapes: Table = between(0.0, 1.0, (4, 5))  # centre, radius, aspect, softness; scaled where used
    noise: Table = between(-1.0, 1.0, (32, 32))
    cells: float = between(2.0, 30.0)
    contrast: float = between(0.0, 0.2)
    light_angle: float = between(0.0, 2 * math.pi)
    light: float = between(0.05, 0.45)
    cast: Vector = between(0.88, 1.08, (3,))
    exposure: float = between(0.75, 1.15)
    vignette: float = between(0.0, 0.6)
    blur: float = between(0.0, 0.22)
    grain: float = between(0.005, 0.08)

    def muted_colours(self) -> list[Colour]:
        """Returns the colours with reduced saturation."""
        grey = self.colours.mean(1, keepdims=True)
        return [rgb(colour) for colour in grey + self.saturation * (self.colours - grey)]


@dataclass(frozen=True)
class FaceParameters:
    """All properties of a face except its size in pixels and the camera's grain."""

    pose: Pose
    head: Head
    eyes: Eyes
    brows: Brows
    nose: Nose
    mouth: Mouth
    hair: Hair
    scene: Scene
