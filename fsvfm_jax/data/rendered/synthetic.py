"""Synthetic faces with exact parsing maps, rendered by index.

A face is a list of layers painted from back to front. A layer is one signed distance field
(negative inside). The same field blends the layer's colour into the image and writes its class into
the map, so image and map agree by construction. A pixel has the class of the topmost layer that
covers its centre; within half a pixel of an edge its colour is a blend of both sides.

Coordinates are those of the head: the origin is between eyes and nose, the unit is half the head's
height, x points to the image's right, y down. The subject's right is at negative x. As in LaPa, a
beard is skin; neck and ears are background. Data workers import this module, which needs NumPy
only.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from fsvfm_jax.data.rendered.synthetic_parameters import (
    HAIR_STYLES,
    HAIR_TONES,
    IRIS_TONES,
    SKIN_TONES,
    Colour,
    FaceParameters,
    Scene,
    Table,
    Vector,
    draw,
    rgb,
    tone,
)
from fsvfm_jax.regions import CLASSES

BACKGROUND, SKIN, RIGHT_BROW, LEFT_BROW, RIGHT_EYE, LEFT_EYE = range(6)
NOSE, UPPER_LIP, INNER_MOUTH, LOWER_LIP, HAIR = range(6, len(CLASSES))

Map = Float32[np.ndarray, "H W"]
Layer = Float32[np.ndarray, "3 H W"]
Label = int | UInt8[np.ndarray, "H W"]


@dataclass(frozen=True)
class Canvas:
    """The picture being painted, and the coordinates of its pixels.

    `x`, `y` are coordinates of the head; `face_x`, `face_y` coordinates on its skin, where features
    keep their place when the head turns. `skin` is the colour of the skin in the scene's light;
    `pixel` is the side of a pixel in units of the head.
    """

    image: Layer
    parsing_map: UInt8[np.ndarray, "H W"]
    x: Map
    y: Map
    face_x: Map
    face_y: Map
    skin: Layer
    pixel: float

    def crop(self, shape: Map) -> "Canvas":
        """Returns the part of the canvas that encloses a shape; both share their pixels."""
        box = bounding_box(shape < 0)
        arrays = {name: value[..., *box] for name, value in vars(self).items() if name != "pixel"}
        return Canvas(**arrays, pixel=self.pixel)

    def paint(self, shape: Map, colour: Colour, label: Label, *, softness: float = 1.0) -> None:
        """Paints one shape over the picture; its edge in the image is `softness` pixels wide."""
        edge = self.pixel * softness
        box = bounding_box(shape < 0.5 * edge)
        image = self.image[:, *box]
        cover = (0.5 - shape[box] / edge).clip(0, 1)
        if colour.shape[1:] == shape.shape:
            colour = colour[:, *box]
        image += cover * (colour - image)
        np.copyto(self.parsing_map, np.uint8(label), where=shape < 0)


def bounding_box(inside: Bool[np.ndarray, "H W"]) -> tuple[slice, slice]:
    """Returns the rows and columns that enclose the True pixels, as two empty slices if none is."""
    rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
    if not rows.size:
        return slice(0), slice(0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def ellipse(x: Map, y: Map, radius_x: float, radius_y: float) -> Map:
    """Returns the distance to an ellipse around the origin, to first order at its edge."""
    across, along = x / radius_x, y / radius_y
    level = np.sqrt(across * across + along * along) + 1e-6
    across, along = across / radius_x, along / radius_y
    return (level - 1) * level / np.sqrt(across * across + along * along + 1e-6)


def circle(x: Map, y: Map, radius: float) -> Map:
    """Returns the distance to a circle around the origin."""
    return np.sqrt(x * x + y * y) - radius


def lens(x: Map, y: Map, half_width: float, up: float, down: float) -> Map:
    """Returns the distance along y to the region of two parabolas that meet at x = +-half_width."""
    bulge = 1 - np.square(x / half_width)
    return np.maximum(-up * bulge - y, y - down * bulge)


def pixel_centres(size: int) -> Vector:
    """Returns the centres of a row of pixels, in widths of the image."""
    return (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)


def value_noise(noise: Table, cells: float, size: int) -> Map:
    """Stretches the corner of a grid of random values to an image, with `cells` values across."""
    part, before = np.modf(pixel_centres(size) * cells)
    before = before.astype(int)
    rows = noise[before] + part[:, None] * (noise[before + 1] - noise[before])
    return rows[:, before] + part * (rows[:, before + 1] - rows[:, before])


def blank_canvas(face: FaceParameters, size: int) -> Canvas:
    """Returns an empty picture with the coordinates of a head in its pose.

    The skin is a cylinder about either axis: turning the head moves its features and narrows those
    on the far side.
    """
    pose, width = face.pose, face.head.width
    right = ((pixel_centres(size) - pose.centre_x) / pose.size)[None, :]
    down = ((pixel_centres(size) - pose.centre_y) / pose.size)[:, None]
    cosine, sine = math.cos(pose.roll), math.sin(pose.roll)
    x, y = cosine * right + sine * down, cosine * down - sine * right
    depth_x = np.sqrt(np.maximum(width * width - x * x, 0))
    depth_y = np.sqrt(np.maximum(1 - y * y, 0))
    face_x = x * math.cos(pose.yaw) - depth_x * math.sin(pose.yaw)
    face_y = y * math.cos(pose.pitch) - depth_y * math.sin(pose.pitch)
    image, parsing_map = np.zeros((3, size, size), np.float32), np.zeros((size, size), np.uint8)
    skin = skin_colour(face, x, y, face_x, face_y)
    return Canvas(image, parsing_map, x, y, face_x, face_y, skin, 1 / (size * pose.size))


def skin_colour(face: FaceParameters, x: Map, y: Map, face_x: Map, face_y: Map) -> Layer:
    """Returns tone, blush, beard and pores in light from one side."""
    head, scene = face.head, face.scene
    across = x / head.width
    towards_light = math.cos(scene.light_angle) * across + math.sin(scene.light_angle) * y
    edge = np.minimum(across * across + y * y, 1.5)
    pores = value_noise(scene.noise, 30.0, len(y))
    shade = 1 + scene.light * (towards_light - 0.5 * edge) + head.mottle * pores
    colour = tone(SKIN_TONES, head.tone) * (1 + rgb(head.tint)) * shade
    cheek_x, cheek_y = abs(face_x) - 0.42, face_y - 0.3
    cheeks = np.maximum(1 - 9 * (cheek_x * cheek_x + cheek_y * cheek_y), 0)
    colour[1:] *= 1 - 2 * head.blush * cheeks
    if head.beard > 0:
        jaw = np.clip(4 * (face_y + 0.45 * face_x * face_x - 0.35), 0, 1)
        stubble = head.beard * jaw * (1 + 0.4 * pores)
        colour += stubble * (0.6 * tone(HAIR_TONES, face.hair.tone) - colour)
    return colour


def paint_background(canvas: Canvas, scene: Scene) -> None:
    """Paints a gradient, two soft blobs, two bars, and noise over all of them."""
    size = len(canvas.parsing_map)
    u = pixel_centres(size)[None, :] - np.float32(0.5)
    v = u.T
    cosine, sine = math.cos(scene.direction), math.sin(scene.direction)
    along, across = cosine * u + sine * v, cosine * v - sine * u
    first, second, _, *others = scene.muted_colours()
    canvas.image[:] = first + (second - first) * (along + 0.5)
    for index, (p, q, radius, aspect, softness) in enumerate(scene.shapes.tolist()):
        x, y = along - 1.2 * (p - 0.5), across - 1.2 * (q - 0.5)
        radius = 0.04 + 0.2 * radius
        if index % 2:
            shape = np.maximum(abs(x) - radius * aspect, abs(y) - 3 * radius)
            softness = 0.05 * softness
        else:
            shape = ellipse(x, y, radius, radius * (0.5 + aspect))
        softness = 1 + 0.5 * size * softness
        canvas.paint(shape * (canvas.pixel * size), others[index], BACKGROUND, softness=softness)
    canvas.image[:] += scene.contrast * value_noise(scene.noise, scene.cells, size)


def hair_shapes(canvas: Canvas, face: FaceParameters) -> tuple[Map, Map]:
    """Returns the hair behind the head, and the part in front of it, above the hairline."""
    hair, style = face.hair, HAIR_STYLES[int(face.hair.style)]
    x, y, volume = canvas.x, canvas.y, style.volume + hair.volume
    # Below the temples hair hangs straight down, so the ellipse continues as a strip.
    outline = ellipse(x, np.minimum(y + 0.05, 0), volume * face.head.width, volume)
    outline = np.maximum(outline, y - style.length)
    bun = circle(x - hair.parting, y + 1.15, style.bun)
    far = np.square((canvas.face_x - hair.parting) / (face.head.width + abs(hair.parting)))
    drop = np.minimum(far + style.boxiness * far * (far - 1), 1.3)
    hairline = style.hairline + hair.lift
    hairline = hairline + (style.temples - hairline) * drop
    hairline += hair.fringe * np.sin(hair.strands * canvas.face_x)
    return np.minimum(outline, bun), np.maximum(outline, canvas.face_y - hairline)


def hair_colour(canvas: Canvas, face: FaceParameters) -> Layer:
    """Returns the hair's colour, with strands and shine."""
    hair, x, y = face.hair, canvas.x, canvas.y
    flow = x * (1.5 - 0.3 * y) + 0.05 * np.sin(hair.wave * (y + 0.5 * x))
    strands = np.sin(hair.strands * flow) * np.sin(0.37 * hair.strands * flow + 1)
    shine = np.maximum(1 - 8 * np.square(y + 0.75 - 0.2 * x), 0)
    shade = 1 + hair.contrast * (strands + shine) - 0.25 * face.scene.light * y
    return (tone(HAIR_TONES, hair.tone) + rgb(hair.tint)) * shade


def paint_body(canvas: Canvas, face: FaceParameters) -> None:
    """Paints neck, shoulders and ears."""
    x, y, ear = canvas.x, canvas.y, face.head.ear
    shadow = np.clip(0.25 + 0.5 * y, 0.35, 0.85)
    canvas.paint(np.maximum(abs(x) - face.head.neck, -y), canvas.skin * shadow, BACKGROUND)
    clothes = face.scene.muted_colours()[2]
    canvas.paint(ellipse(x, y - 2.15, 1.6, 0.85), clothes, BACKGROUND)
    ears = ellipse(abs(x) - face.head.width, y - 0.08, 0.6 * ear, ear)
    canvas.paint(ears, 0.8 * canvas.skin, BACKGROUND)


def head_outline(canvas: Canvas, face: FaceParameters) -> Map:
    """Returns an ellipse with a narrower or wider jaw and filled corners."""
    head = face.head
    across = np.square(canvas.x / (head.width * (1 + head.jaw * canvas.y)))
    along = np.square(canvas.y)
    corner = head.squareness * np.minimum(across, 1) * np.minimum(along, 1)
    return (np.sqrt(across + along - corner) - 1) * head.width


def paint_eyes(canvas: Canvas, face: FaceParameters) -> None:
    """Paints lids, eyes and brows of both sides at once; `outward` points away from the nose."""
    eyes, brows = face.eyes, face.brows
    is_left = (canvas.face_x > 0).astype(np.uint8)
    side = 2 * np.float32(is_left) - 1
    outward = abs(canvas.face_x) - eyes.spacing * face.head.width
    y = canvas.face_y - eyes.y + eyes.slant * outward
    lid = lens(outward, y, 1.25 * eyes.width, 1.7 * eyes.height, 0.9 * eyes.height)
    canvas.paint(lid, canvas.skin * rgb(eyes.shadow), SKIN)

    up, label = eyes.height * eyes.lids, RIGHT_EYE + is_left
    eye = lens(outward, y, eyes.width, up, 0.5 * eyes.height)
    gaze_x, gaze_y = eyes.width * float(eyes.gaze[0]), eyes.height * float(eyes.gaze[1])
    iris = circle(outward - side * gaze_x, y - gaze_y, eyes.iris)
    glint = circle(side * outward - gaze_x + 0.03, y - gaze_y + 0.03, 0.025)
    lashes = lens(outward, y, eyes.width, up, 0.25 * eyes.height - up)
    white = 0.3 + 0.6 * tone(SKIN_TONES, 0.2 * face.head.tone)
    canvas.paint(eye, white, label)
    canvas.paint(np.maximum(iris, eye), tone(IRIS_TONES, eyes.tone), label)
    canvas.paint(np.maximum(iris + 0.55 * eyes.iris, eye), tone(HAIR_TONES, 0.0), label)
    canvas.paint(np.maximum(glint, eye), tone(HAIR_TONES, 1.0), label)
    canvas.paint(np.maximum(lashes, eye), 0.3 * canvas.skin, label)

    right_raised, left_raised = brows.raised.tolist()
    raised = right_raised + (left_raised - right_raised) * is_left.astype(np.float32)
    arch = brows.arch * (1 - np.square(outward / brows.width))
    y = canvas.face_y - eyes.y + brows.gap + raised + arch + brows.tilt * outward
    brow = lens(outward, y, brows.width, brows.thickness, 0.6 * brows.thickness)
    hair = 0.8 * tone(HAIR_TONES, face.hair.tone)
    colour = canvas.skin + brows.strength * (hair - canvas.skin)
    canvas.paint(brow, colour, RIGHT_BROW + is_left)


def paint_nose(canvas: Canvas, face: FaceParameters) -> None:
    """Paints an egg from between the eyes to the tip, with wings, nostrils and a lit side."""
    nose = face.nose
    # The nose stands out of the face, so turning the head moves it further than the rest.
    x = canvas.face_x - 0.15 * math.sin(face.pose.yaw)
    y = canvas.face_y - nose.tip
    middle = y + 0.5 * nose.length
    narrowed = x / np.clip(1 + nose.taper * middle * (2 / nose.length), 0.2, 2)
    bridge = ellipse(narrowed, middle, 0.72 * nose.width, 0.5 * nose.length)
    wings = ellipse(abs(x) - 0.6 * nose.width, y + 0.06, 0.4 * nose.width, 0.075)
    outline = np.minimum(bridge, wings)
    lit = np.clip(math.cos(face.scene.light_angle) * x / nose.width, -1, 1)
    rim = np.clip(1 + outline / 0.06, 0, 1)
    colour = canvas.skin * (1 + nose.relief * (lit + 0.4 - rim))
    colour[1:] *= 1 - nose.redness
    canvas.paint(outline, colour, NOSE)
    nostrils = ellipse(abs(x) - 0.42 * nose.width, y + 0.02, 0.2 * nose.width, 0.03)
    canvas.paint(np.maximum(nostrils, outline), canvas.skin * (1 - nose.nostrils), NOSE)


def paint_mouth(canvas: Canvas, face: FaceParameters) -> None:
    """Paints lips along a parabola, closed, or open with or without teeth."""
    mouth = face.mouth
    x = canvas.face_x - 0.04 * math.sin(face.pose.yaw)
    across = np.square(x / mouth.width)
    y = canvas.face_y - mouth.y + mouth.smile * (across - 0.5)
    opening = max(mouth.opening, 0.0)
    lip = canvas.skin * rgb(np.float32([0.95, 0.75, 0.75]) - mouth.tint)
    lower = lens(x, y, mouth.width, 0.0, opening + mouth.lower)
    rise = mouth.upper + 0.4 * opening
    dip = 0.5 * mouth.upper * np.maximum(1 - 16 * across, 0)
    upper = np.maximum(lens(x, y, mouth.width, rise, 0.01), dip - rise - y)
    canvas.paint(lower, 1.05 * lip, LOWER_LIP)
    canvas.paint(upper, 0.9 * lip, UPPER_LIP)
    if mouth.opening <= 0:
        canvas.paint(lens(x, y, mouth.width, 0.02, 0.01), 0.45 * lip, UPPER_LIP)
        return
    inner = lens(x, y, 0.94 * mouth.width, 0.4 * opening, opening)
    canvas.paint(inner, lip * rgb(np.float32([0.35, 0.18, 0.18])), INNER_MOUTH)
    teeth = np.maximum(inner, y + opening * (0.4 - mouth.teeth))
    canvas.paint(teeth, tone(HAIR_TONES, 1.0), INNER_MOUTH)


def expose(image: Layer, scene: Scene, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Adds the effects of a camera: uneven light, colour cast, vignette, blur and grain."""
    u = 2 * pixel_centres(image.shape[-1])[None, :] - 1
    v = u.T
    slope = math.cos(scene.light_angle) * u + math.sin(scene.light_angle) * v
    light = 1 + 0.5 * scene.light * slope - 0.25 * scene.vignette * (u * u + v * v)
    image = image * (scene.exposure * rgb(scene.cast) * light)
    for rows in (image, image.swapaxes(1, 2)):
        spread = scene.blur * (rows[:, 1:] - rows[:, :-1])
        rows[:, :-1] += spread
        rows[:, 1:] -= spread
    image += scene.grain * (rng.random(image.shape, np.float32) - np.float32(0.5))
    return np.ascontiguousarray(np.uint8(255 * np.clip(image, 0, 1) + 0.5).transpose(1, 2, 0))


def render_face(
    index: int, *, image_size: int, seed: int = 0
) -> tuple[UInt8[np.ndarray, "S S 3"], UInt8[np.ndarray, "S S"]]:
    """Renders the face of an index as an RGB image and its parsing map.

    Both depend only on the arguments. Another size shows the same face, and its map samples the
    same shapes at other points.

    Args:
        index: Number of the face, from 0.
        image_size: Side of the square image in pixels.
        seed: Selects an endless series of faces, from 0.

    Returns:
        The image, and the LaPa classes 0 to 10 of its pixels.
    """
    rng = np.random.default_rng([seed, index])
    face = draw(FaceParameters, rng)
    canvas = blank_canvas(face, image_size)
    paint_background(canvas, face.scene)
    hair, (hair_behind, hair_in_front) = hair_colour(canvas, face), hair_shapes(canvas, face)
    canvas.paint(hair_behind, hair, HAIR)
    paint_body(canvas, face)
    outline = head_outline(canvas, face)
    canvas.paint(outline, canvas.skin, SKIN)
    features = canvas.crop(outline)
    paint_eyes(features, face)
    paint_nose(features, face)
    paint_mouth(features, face)
    canvas.paint(hair_in_front, hair, HAIR)
    return expose(canvas.image, face.scene, rng), canvas.parsing_map
