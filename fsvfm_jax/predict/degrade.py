"""Degrades faces as storage, transport and cameras do, seeded, uint8 in and uint8 out.

Every face is degraded alone, before it is resized for the network, and both classes alike. Data
workers import this module, which needs NumPy, Pillow and simplejpeg; H.264 needs PyAV (extra
`prepare`).

H.264 codes each face as a video of one frame, so that a face's score depends on no other face. The
frames of a set are seconds apart, and to predict one from another is unlike the coding of any
video. A single frame is coded as the key frames of a video at the same CRF; the frames between key
frames are slightly worse.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from fsvfm_jax.data.elements import random_of
from fsvfm_jax.data.sources import FaceSet

BICUBIC = Image.Resampling.BICUBIC
Picture = UInt8[np.ndarray, "H W 3"]
# A function of a picture, a strength and a generator.
Degrade = Callable[[Picture, float | int, np.random.Generator], Picture]


class Kind(NamedTuple):
    """A kind of degradation.

    Attributes:
        title: What it is, with the unit of its strength.
        strengths: Strengths, from the weakest effect to the strongest.
        degrade: Degrades a picture.
    """

    title: str
    strengths: tuple[float | int, ...]
    degrade: Degrade


def jpeg(image: Picture, quality: float | int, rng: np.random.Generator) -> Picture:
    """Codes the picture as JPEG with halved colour resolution, quality 1 to 100."""
    del rng
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), int(quality), "RGB", "420")
    return simplejpeg.decode_jpeg(data)


def h264(image: Picture, crf: float | int, rng: np.random.Generator) -> Picture:
    """Codes the picture as a video of one frame with x264 at a CRF of 0 to 51.

    A side of odd length is continued by one row or column, which is cut off afterwards.
    """
    del rng
    import av  # of the extra `prepare`, which other degradations do not need

    height, width = image.shape[:2]
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = even.shape[1], even.shape[0]
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    encoder.thread_count = 1  # The pixels must not depend on the number of cores.
    encoder.options = {"crf": str(int(crf)), "preset": "medium"}
    frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(format="yuv420p")
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    frames = [shown for packet in packets for shown in decoder.decode(packet)]
    (shown,) = [*frames, *decoder.decode(None)]
    return np.ascontiguousarray(shown.to_ndarray(format="rgb24")[:height, :width])


def resize(image: Picture, share: float | int, rng: np.random.Generator) -> Picture:
    """Shrinks the picture to a share of its sides, and enlarges it again, both bicubic."""
    del rng
    picture = Image.fromarray(image)
    small = [max(1, round(side * share)) for side in picture.size]
    return np.array(picture.resize(small, BICUBIC).resize(picture.size, BICUBIC))


def blur(image: Picture, percent: float | int, rng: np.random.Generator) -> Picture:
    """Blurs by a Gaussian with a standard deviation in percent of the shorter side."""
    del rng
    radius = percent / 100 * min(image.shape[:2])
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def noise(image: Picture, deviation: float | int, rng: np.random.Generator) -> Picture:
    """Adds Gaussian noise to every channel, with a standard deviation in levels of 0 to 255."""
    noisy = image + np.float32(deviation) * rng.standard_normal(image.shape, np.float32)
    return np.uint8(noisy.clip(0, 255).round())


def gamma(image: Picture, exponent: float | int, rng: np.random.Generator) -> Picture:
    """Raises the values, as 0 to 1, to a power: above 1 is darker, below 1 is lighter."""
    del rng
    table = 255 * (np.arange(256) / 255) ** exponent
    return np.uint8(table.round())[image]


def crop(
    image: Picture, factor: float | int, rng: np.random.Generator, *, stored: float | int
) -> Picture:
    """Cuts a smaller crop out of a stored one, and enlarges it to the size before.

    Args:
        image: The stored crop.
        factor: Side of the smaller crop, as a multiple of the side of the face's box.
        rng: Not used.
        stored: Side of the stored crop, in the same unit; at least `factor`.
    """
    del rng
    picture, share = Image.fromarray(image), factor / stored
    width, height = picture.size
    left, top = width * (1 - share) / 2, height * (1 - share) / 2
    box = (left, top, width - left, height - top)
    return np.array(picture.resize(picture.size, BICUBIC, box))


KINDS: Mapping[str, Kind] = {
    "jpeg": Kind("JPEG, quality", (95, 75, 50, 30, 10), jpeg),
    "h264": Kind("H.264, CRF", (18, 23, 28, 34, 40), h264),
    "resize": Kind("resized down and up, share of the side", (0.75, 0.5, 0.25, 0.125), resize),
    "blur": Kind("blur, deviation in % of the side", (0.5, 1, 2, 4), blur),
    "noise": Kind("noise, deviation in levels of 255", (4, 8, 16, 32), noise),
    "lighter": Kind("lighter, gamma", (0.8, 0.6, 0.4), gamma),
    "darker": Kind("darker, gamma", (1.25, 1.7, 2.5), gamma),
}
CROP = "crop"
CROP_FACTORS = (1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0)


def crop_kind(stored: float | int) -> Kind:
    """Returns the kind that cuts smaller crops out of the stored ones (`crop`)."""
    strengths = tuple(factor for factor in CROP_FACTORS if factor < stored)
    return Kind("crop, multiple of the face's box", strengths, partial(crop, stored=stored))


class DegradedFaces:
    """The faces of a set without a change, and then all faces with each degradation.

    Face `i` with degradation number `k`, from 0, is at (k + 1) * N + i. Its random numbers depend
    on the seed and on i alone.

    Args:
        source: A set of N faces.
        steps: The degradations: their functions and strengths.
        seed: Seed of the noise.
    """

    def __init__(
        self, source: FaceSet, steps: Sequence[tuple[Degrade, float | int]], *, seed: int = 0
    ):
        self._source, self._steps, self._seed = source, steps, seed

    def __len__(self) -> int:
        return len(self._source) * (1 + len(self._steps))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        """Returns the faces, each with its image degraded."""
        places = [divmod(index, len(self._source)) for index in indices]
        faces = self._source.read([place for _, place in places])
        return [
            {**face, "image": self._degraded(face["image"], number, place)}
            for face, (number, place) in zip(faces, places, strict=True)
        ]

    def name(self, index: int) -> str:
        """Returns the name that the face has in the source."""
        return self._source.name(index % len(self._source))

    def _degraded(self, image: Picture, number: int, place: int) -> Picture:
        if number == 0:
            return image
        degrade, strength = self._steps[number - 1]
        return degrade(image, strength, random_of((self._seed, place)))
