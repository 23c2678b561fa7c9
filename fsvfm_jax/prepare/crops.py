"""Finds faces in an image and cuts them out.

dlib comes with the extra `prepare`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# A larger photograph is searched at a fraction of its size. The limit holds after upsampling, since
# dlib's detector then needs about 20 bytes of memory and some time for every pixel.
MAX_SEARCHED_PIXELS = 16_000_000
MARGIN = 0.15  # on each side of a face's box, as a fraction of the box


FACE_DETECTORS = ("dlib", "none")  # the names that `make_detector` takes


class Box(NamedTuple):
    """The edges of a box in pixels from the image's upper left corner."""

    left: int
    top: int
    right: int
    bottom: int


class Found(NamedTuple):
    """A face's box, which may reach beyond the image, and the score of the detector."""

    box: Box
    score: float | None


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces, sorted by descending score.

    Attributes:
        box_scale: Side of the crop, divided by that of the face's box.
    """

    box_scale: float

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]: ...


class CroppedFace(NamedTuple):
    """A face of an image, cut out.

    Attributes:
        number: Number of the face in the order of the detector, from 0.
        found: Number of faces that the detector found in the image.
        box: The square that was cut out.
        score: The score of the detector.
        pixels: The pixels of the square, resized; None if the square is outside the image.
    """

    number: int
    found: int
    box: Box
    score: float | None
    pixels: UInt8[np.ndarray, "size size 3"] | None


class HogDetector:
    """dlib's frontal face detector by histograms of oriented gradients, which needs no weights.

    Without upsampling it finds faces from 80 pixels on; every upsampling halves that size.

    Args:
        upsample: How often to double the image's size before the search.
        margin: Margin of a crop on each side of a face's box, as a fraction of the box. By default
            a crop is 1.3 times as large as the box, as in FaceForensics++.
    """

    def __init__(self, upsample: int, *, margin: float | int = MARGIN):
        import dlib  # It is an extra, and therefore imported only here.

        self.box_scale = 1 + 2 * margin
        self._detector = dlib.get_frontal_face_detector()
        self._upsample = upsample

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]:
        """Returns the faces by descending score."""
        height, width, _ = image.shape
        factor = search_factor(height, width, upsample=self._upsample)
        if factor > 1:
            image = np.asarray(Image.fromarray(image).reduce(factor))
        boxes, scores, _ = self._detector.run(image, self._upsample, 0.0)
        return [
            Found(Box(*(factor * x for x in (b.left(), b.top(), b.right(), b.bottom()))), score)
            for b, score in zip(boxes, scores, strict=True)
        ]


def search_factor(height: int, width: int, *, upsample: int) -> int:
    """Returns by how much `HogDetector` makes the sides of an image smaller before it upsamples.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        upsample: As for `HogDetector`.
    """
    return math.ceil(math.sqrt(height * width * 4**upsample / MAX_SEARCHED_PIXELS))


class WholeImage:
    """Returns the largest square in the middle, for images that are cropped already."""

    box_scale = 1.0

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]:
        """Returns the box of the square, without a score."""
        height, width, _ = image.shape
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        return [Found(Box(left, top, left + side, top + side), None)]


def square_box(box: Box, *, scale: float, height: int, width: int) -> Box:
    """Returns the square around a box, `scale` times as large, within the image.

    This is the rule of FaceForensics++: the square's side follows the longer side of the box. A
    square that reaches beyond the upper or left edge is moved into the image. If the square then
    reaches beyond another edge, it becomes smaller.

    Args:
        box: The face's box.
        scale: Side of the square, divided by the longer side of the box.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """
    side = int(max(box.right - box.left, box.bottom - box.top) * scale)
    left = max((box.left + box.right) // 2 - side // 2, 0)
    top = max((box.top + box.bottom) // 2 - side // 2, 0)
    side = min(side, width - left, height - top)
    return Box(left, top, left + side, top + side)


def crop(
    image: UInt8[np.ndarray, "H W 3"], box: Box, *, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Returns the pixels of a box within the image, resized bicubically.

    Args:
        image: The image.
        box: A box that does not reach beyond the image.
        size: Side of the result in pixels.
    """
    face = Image.fromarray(np.ascontiguousarray(image[box.top : box.bottom, box.left : box.right]))
    return np.array(face.resize((size, size), Image.Resampling.BICUBIC))


def make_detector(name: str, *, upsample: int, margin: float | int = MARGIN) -> FaceDetector:
    """Returns a detector by its name.

    Args:
        name: "dlib", or "none" for the middle square of each picture.
        upsample: As for `HogDetector`.
        margin: As for `HogDetector`.
    """
    return WholeImage() if name == "none" else HogDetector(upsample, margin=margin)


def crop_faces(
    image: UInt8[np.ndarray, "H W 3"], detector: FaceDetector, *, faces: str, size: int
) -> Iterator[CroppedFace]:
    """Yields the faces of an image by descending score, or only the largest.

    Args:
        image: The image.
        detector: The detector that finds the faces.
        faces: "largest" or "all".
        size: Side of the pixels of a face.
    """
    found = detector(image)
    chosen = list(enumerate(found))
    if faces == "largest":
        chosen = [max(chosen, key=lambda one: _area(one[1]))] if chosen else []
    height, width, _ = image.shape
    for number, (box, score) in chosen:
        around = square_box(box, scale=detector.box_scale, height=height, width=width)
        inside = around.right > around.left
        pixels = crop(image, around, size=size) if inside else None
        yield CroppedFace(number, len(found), around, score, pixels)


def _area(found: Found) -> int:
    return (found.box.right - found.box.left) * (found.box.bottom - found.box.top)
