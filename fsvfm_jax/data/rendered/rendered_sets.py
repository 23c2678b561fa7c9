"""Labelled sets of rendered faces, real and forged, that differ as real data sets do.

Every set has its own forgeries and its own camera. Real and fake faces go through the same camera,
crop and compression, so that only the forgery distinguishes them. `fsvfm_jax.benchmark.artefacts`
measures how well global statistics separate them nevertheless. Data workers import this module,
which needs NumPy, Pillow and simplejpeg only.
"""

import hashlib
import zlib
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import Bool, UInt8
from PIL import Image

from fsvfm_jax.data.labelled.faces import LABELS, LabelledFace
from fsvfm_jax.data.rendered.forgeries import (
    Forgery,
    Subject,
    blended_swap,
    local_texture,
    print_attack,
    region_warp,
    replay_attack,
    upsampling_pattern,
)
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.errors import ConfigError

BICUBIC = Image.Resampling.BICUBIC
SPLITS = ("train", "val", "test")
# The number of faces reserved for each split, so that no two splits share a face. The faces of
# `sources.SyntheticFaces` come before the first split.
FACES_OF_A_SPLIT = 2**32
# CROP is the side of the visible part, as a share of the picture's side; MOTION is the largest move
# of a frame, as a share of the part that is not visible.
CROP = (0.84, 0.94)
MOTION = 0.2
# It changes when the same numbers give other pictures, so that a run on them is not continued.
VERSION = 3
# With a strength of 1, a tiny network that is trained for 250 steps detects forgeries with some
# seeds only.
DEEPFAKE_STRENGTH = 1.3
LEAST_CHANGE = 3  # of any colour of a forged pixel, in levels of 0 to 255


class Camera(NamedTuple):
    """The camera and the compression of a set's pictures.

    Attributes:
        scale: Side of the stored picture, as a share of the requested side.
        tint: Gain of red, green and blue.
        contrast: Gain around the middle of the range.
        grain: Standard deviation of the noise, in levels of 0 to 255.
        quality: Lowest and highest JPEG quality.
    """

    scale: float
    tint: tuple[float, float, float]
    contrast: float
    grain: float
    quality: tuple[int, int]


class Truth(NamedTuple):
    """What is known of a rendered image.

    Attributes:
        parsing_map: LaPa class of each pixel of the face, before a forgery moved any of them.
        forged: Whether the forgery changed the pixel by LEAST_CHANGE levels or more.
    """

    parsing_map: UInt8[np.ndarray, "S S"]
    forged: Bool[np.ndarray, "S S"]


class RenderedSet(NamedTuple):
    """The forgeries of a set with their strengths, used in turn, and its camera."""

    forgeries: tuple[tuple[Forgery, float], ...]
    camera: Camera


DEEPFAKES = {
    "swap-a": RenderedSet(
        ((blended_swap, DEEPFAKE_STRENGTH), (region_warp, DEEPFAKE_STRENGTH)),
        Camera(1.0, (1.0, 1.0, 1.0), 1.0, 2.0, (86, 94)),
    ),
    "swap-b": RenderedSet(
        ((blended_swap, DEEPFAKE_STRENGTH),), Camera(0.9, (1.06, 1.0, 0.9), 0.85, 3.0, (66, 76))
    ),
    "warp-c": RenderedSet(
        ((region_warp, DEEPFAKE_STRENGTH),), Camera(1.1, (0.94, 1.0, 1.06), 1.1, 1.5, (76, 86))
    ),
    "texture-d": RenderedSet(
        ((local_texture, DEEPFAKE_STRENGTH),), Camera(1.0, (1.0, 0.96, 0.94), 0.95, 2.5, (80, 90))
    ),
    "upsample-e": RenderedSet(
        ((upsampling_pattern, DEEPFAKE_STRENGTH),),
        Camera(0.85, (0.96, 1.0, 1.0), 1.05, 2.0, (80, 92)),
    ),
}
SPOOFS = {
    "cam-m": RenderedSet(
        ((print_attack, 1.0), (replay_attack, 1.0)),
        Camera(0.8, (1.05, 1.0, 0.92), 0.9, 4.0, (70, 80)),
    ),
    "cam-c": RenderedSet(
        ((print_attack, 1.0), (replay_attack, 1.0)),
        Camera(1.0, (0.95, 1.0, 1.05), 1.05, 2.0, (85, 92)),
    ),
    "cam-i": RenderedSet(
        ((print_attack, 1.0), (replay_attack, 1.0)),
        Camera(0.7, (1.0, 0.97, 0.95), 0.8, 5.0, (60, 72)),
    ),
    "cam-o": RenderedSet(
        ((print_attack, 1.0), (replay_attack, 1.0)),
        Camera(1.2, (1.0, 1.02, 1.0), 1.1, 1.5, (88, 95)),
    ),
}
RENDERED_SETS = DEEPFAKES | SPOOFS


class RenderedFaces:
    """Faces of one split of a rendered set, in which half of the videos are fake.

    Real and fake videos alternate. A fake is made from the face of the real video before it, with
    camera settings of its own. The frames of a video show one face, and differ in position,
    brightness and grain. An image depends only on set, split, seed and size, and on its video and
    frame; adding videos does not change it.

    Attributes:
        skipped: Always 0.
    """

    def __init__(
        self, name: str, split: str, *, image_size: int, seed: int, videos: int, frames: int
    ):
        """Describes the faces; each is rendered when it is read.

        Args:
            name: One of RENDERED_SETS.
            split: "train", "val" or "test". No two splits, of any sets, share a face.
            image_size: Side of the square images in pixels.
            seed: Selects a series of faces for all sets, from 0.
            videos: Number of videos, real and fake together.
            frames: Number of frames of each video.

        Raises:
            ConfigError: No set or split has this name, or a number is below 1.
        """
        if name not in RENDERED_SETS:
            raise ConfigError(
                f"no rendered set is called {name!r}; the choices are {', '.join(RENDERED_SETS)}"
            )
        if split not in SPLITS:
            raise ConfigError(f"{name} has no split {split!r}; the choices are {', '.join(SPLITS)}")
        if min(videos, frames) < 1:
            raise ConfigError(
                f"{name} is asked for {videos} videos of {frames} frames; both must be at least 1"
            )
        self._name, self._split = name, split
        self._image_size, self._seed = image_size, seed
        self._frames, self._indices = frames, range(videos * frames)
        self._key = (seed, zlib.crc32(name.encode()), SPLITS.index(split))
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> LabelledFace:
        draw_video, draw_frame, draw_forgery = self._draws(index)
        image = self._in_front(index, draw_forgery)
        camera = RENDERED_SETS[self._name].camera
        image = photograph(image, camera, draw_video, draw_frame)
        return {"image": image, "label": self.label(index)}

    def truth(self, index: int) -> Truth:
        """Returns what is known of an image, in its pixels."""
        draw_video, draw_frame, draw_forgery = self._draws(index)
        face = self._face(2 * (self._locate(index)[0] // 2))
        change = np.abs(np.int16(self._in_front(index, draw_forgery)) - face.image).max(axis=2)
        size = self._image_size
        box = _visible(size, draw_video, draw_frame)

        def seen(pixels: UInt8[np.ndarray, "S S"]) -> np.ndarray:
            nearest = Image.Resampling.NEAREST
            return np.array(Image.fromarray(pixels).resize((size, size), nearest, box))

        forged = seen(np.uint8(change >= LEAST_CHANGE)) > 0
        return Truth(seen(face.parsing_map), forged)

    def read(self, indices: Sequence[int]) -> list[LabelledFace]:
        """Returns the faces, rendered one after another."""
        return [self[index] for index in indices]

    def label(self, index: int) -> int:
        """Returns the index into LABELS; every other video is fake."""
        return LABELS.index("fake" if self._locate(index)[0] % 2 else "real")

    def video(self, index: int) -> str:
        """Returns the name of the video, in the form of a folder of videos."""
        kind = LABELS[self.label(index)]
        return f"{self._name}/{self._split}/{kind}/{self._locate(index)[0]:05d}"

    def name(self, index: int) -> str:
        """Returns the video and the frame."""
        return f"{self.video(index)}_frame_{self._locate(index)[1]}"

    def fingerprint(self) -> str:
        """Returns the SHA-256 of set, split, numbers, size, seed and the version of forgeries."""
        identity = (*self._key, self._image_size, self._frames, len(self))
        return hashlib.sha256(f"rendered {VERSION} {self._name} {identity}".encode()).hexdigest()

    def stats(self) -> None:
        """Returns None: the statistics are not known."""

    def _locate(self, index: int) -> tuple[int, int]:
        """Returns the video and the frame of an index; raises IndexError beyond the last."""
        return divmod(self._indices[index], self._frames)

    def _draws(self, index: int) -> list[np.random.Generator]:
        """Returns the generators of the video, the frame and the forgery."""
        video, frame = self._locate(index)
        return [np.random.default_rng([*self._key, video, x]) for x in (0, frame + 2, 1)]

    def _in_front(
        self, index: int, draw_forgery: np.random.Generator
    ) -> UInt8[np.ndarray, "S S 3"]:
        """Returns the picture in front of the camera: the face, or its forgery."""
        video, forgeries = self._locate(index)[0], RENDERED_SETS[self._name].forgeries
        face = self._face(2 * (video // 2))
        if LABELS[self.label(index)] == "real":
            return face.image
        forge, strength = forgeries[video // 2 % len(forgeries)]
        donor = partial(self._face, 2 * (video // 2) + 1)
        return forge(face, donor, draw_forgery, strength=strength)

    def _face(self, number: int) -> Subject:
        seed, name, split = self._key
        first = (name * len(SPLITS) + split) * FACES_OF_A_SPLIT
        return Subject(*render_face(first + number, image_size=self._image_size, seed=seed))


def photograph(
    image: UInt8[np.ndarray, "S S 3"],
    camera: Camera,
    draw_video: np.random.Generator,
    draw_frame: np.random.Generator,
) -> UInt8[np.ndarray, "S S 3"]:
    """Takes a picture with a set's camera: crop, colours, grain, JPEG, and the original size.

    Args:
        image: The picture in front of the camera.
        camera: The camera of the set.
        draw_video: Draws the crop, the exposure and other properties of the video.
        draw_frame: Draws how this frame differs from the others of the video.
    """
    size = len(image)
    box = _visible(size, draw_video, draw_frame)
    contrast = camera.contrast * draw_video.uniform(0.85, 1.1)
    gain = draw_video.uniform(0.9, 1.1) * draw_video.uniform(0.97, 1.03, 3) * camera.tint
    grain = camera.grain * draw_video.uniform(0.5, 1.5)
    quality = int(draw_video.integers(*camera.quality, endpoint=True))
    gain = np.float32(gain * draw_frame.uniform(0.97, 1.03))
    stored = round(camera.scale * size)
    picture = np.float32(Image.fromarray(image).resize((stored, stored), BICUBIC, box))
    picture = np.float32(contrast) * (picture * gain - 128) + 128
    picture += np.float32(grain) * draw_frame.standard_normal(picture.shape, np.float32)
    taken = np.uint8(picture.clip(0, 255) + np.float32(0.5))
    taken = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(taken, quality, "RGB", "420"))
    return np.array(Image.fromarray(taken).resize((size, size), BICUBIC))


def _visible(
    size: int, draw_video: np.random.Generator, draw_frame: np.random.Generator
) -> tuple[float, float, float, float]:
    """Draws the part of the picture that the camera sees: left, top, right, bottom, in pixels."""
    side = draw_video.uniform(*CROP)
    corner = (1 - side) * (0.5 + draw_video.uniform(-0.25, 0.25, 2))
    corner = corner + (1 - side) * draw_frame.uniform(-MOTION, MOTION, 2)
    left, top = (size * corner).tolist()
    return left, top, left + side * size, top + side * size
