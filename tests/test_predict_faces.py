"""Tests that the faces to score are the crops of `prepare detect`, viewed as in an evaluation."""

import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ROOT
from golden_files import need
from hostile_files import write_hostile_files
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.data.elements import evaluation_element
from fsvfm_jax.data.images import decode_image, read_file
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.predict import faces as finding
from fsvfm_jax.predict.faces import (
    CROP_SIZE,
    CROPPED,
    FaceOptions,
    FileFaces,
    faces_of_file,
    find_faces,
)
from fsvfm_jax.predict.inputs import Input, find_inputs
from fsvfm_jax.prepare import detect, video
from fsvfm_jax.prepare.crops import Box, FaceDetector, Found, HogDetector, WholeImage, make_detector
from fsvfm_jax.prepare.files import MediaFile, find_sources
from fsvfm_jax.prepare.workers import DIED

OPTIONS = FaceOptions("dlib", 0.15, "largest", 32, CROP_SIZE, "resize")
VIEWS = ("resize", "resize256_crop224")


def photograph() -> UInt8[np.ndarray, "200 420 3"]:
    """Returns a picture with two rendered faces on noise."""
    picture = np.random.default_rng(0).integers(0, 256, (200, 420, 3), np.uint8)
    for number, left in ((5, 40), (2, 250)):
        picture[36:164, left : left + 128] = render_face(number, image_size=128)[0]
    return picture


class Fixed:
    """Returns the detections that it was constructed with."""

    box_scale = 1.3

    def __init__(self, *boxes: Box):
        self._boxes = boxes

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]:
        return [Found(box, 1.0 / number) for number, box in enumerate(self._boxes, 1)]


def detector_of(options: FaceOptions) -> FaceDetector | None:
    """Returns the detector that a worker makes for the options."""
    return (
        None
        if options.detector == CROPPED
        else make_detector(options.detector, upsample=1, margin=options.crop_margin)
    )


TWO = Fixed(Box(60, 40, 140, 120), Box(260, 40, 370, 150))


def media(file: Path) -> MediaFile:
    (source,) = find_sources(str(file))[0]
    return source


def detected(file: Path, detector: FaceDetector, **options: Any) -> list[tuple[dict, bytes]]:
    """Returns lines and PNGs of `prepare detect`."""
    return list(detect.faces_of_source(media(file), detector, detect.Options(**options)))


def check_same(found: FileFaces, crops: list[tuple[dict, bytes]], options: FaceOptions) -> None:
    """Checks that the faces are what an evaluation makes of the crops."""
    assert found.error is None and len(found.faces) == len(crops) > 0
    for face, (line, png) in zip(found.faces, crops, strict=True):
        stored = {"image": decode_image(png), "readable": True}
        size, view = options.image_size, options.view
        expected = evaluation_element(stored, (0, 0), size=size, view=view)["image"]
        np.testing.assert_array_equal(face.pixels, expected)
        assert (list(face.box), face.score) == (line["box"], line["score"])
        assert face.frame == line["frame"]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("which", ["largest", "all"])
def test_the_crops_are_those_of_detect(tmp_path: Path, which: str, view: str) -> None:
    file = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(photograph()).save(file, exif=exif)
    for size in (64, CROP_SIZE):
        options = OPTIONS._replace(faces=which, view=view, image_size=size)
        found = faces_of_file(media(file), detector=TWO, options=options)
        check_same(found, detected(file, TWO, faces=which), options)
        assert (found.frames, found.most, found.outside) == (1, 2, 0)
        assert [face.track for face in found.faces] == [0, 1][: len(found.faces)]


@pytest.mark.e2e
def test_dlib_finds_the_same_faces_as_detect(tmp_path: Path) -> None:
    need("dlib", "prepare")
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    options = OPTIONS._replace(faces="all")
    found = faces_of_file(media(tmp_path / "a.png"), detector=detector_of(options), options=options)
    crops = detected(tmp_path / "a.png", HogDetector(1), faces="all")
    assert len(crops) == 2
    check_same(found, crops, options)
    wide = options._replace(crop_margin=0.5)
    boxes = [
        faces_of_file(media(tmp_path / "a.png"), detector=detector_of(one), options=one)
        .faces[0]
        .box
        for one in (options, wide)
    ]
    assert boxes[1].right - boxes[1].left > 1.4 * (boxes[0].right - boxes[0].left)


def test_the_middle_square_is_that_of_detect(tmp_path: Path) -> None:
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    options = OPTIONS._replace(detector="none")
    found = faces_of_file(media(tmp_path / "a.png"), detector=detector_of(options), options=options)
    check_same(found, detected(tmp_path / "a.png", WholeImage()), options)
    assert found.faces[0].box == (110, 0, 310, 200)


@pytest.mark.parametrize("view", VIEWS)
def test_cropped_pictures_are_read_as_in_an_evaluation(tmp_path: Path, view: str) -> None:
    file, exif = tmp_path / "a.png", Image.Exif()
    exif[0x0112] = 6  # An evaluation takes pixels as they are stored.
    Image.fromarray(photograph()).save(file, exif=exif)
    options = OPTIONS._replace(detector=CROPPED, view=view, image_size=64)
    (face,) = faces_of_file(media(file), detector=detector_of(options), options=options).faces
    stored = {"image": decode_image(read_file(str(file))), "readable": True}
    expected = evaluation_element(stored, (0, 0), size=64, view=view)["image"]
    np.testing.assert_array_equal(face.pixels, expected)
    assert face.box == (0, 0, 420, 200) and face.score is None and face.frame is None


def write_video(file: Path, count: int, *, height: int = 96, width: int = 160) -> None:
    """Writes a video in which two rendered faces move towards each other."""
    av = need("av", "prepare")
    looks = [render_face(number, image_size=40)[0] for number in (5, 2)]
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(count):
            picture = np.full((height, width, 3), 128, np.uint8)
            for look, left in zip(looks, (index, width - 40 - index), strict=True):
                picture[20:60, left : left + 40] = look
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def test_frames_of_a_video_are_those_of_detect_and_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.mp4", 50)
    options = OPTIONS._replace(detector="none", frames=7)
    crops = detected(tmp_path / "v.mp4", WholeImage(), frames=7)
    decoded = []
    frames = video._frames

    def count(*opened: Any) -> Any:
        for frame in frames(*opened):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video, "_frames", count)
    found = faces_of_file(media(tmp_path / "v.mp4"), detector=detector_of(options), options=options)
    check_same(found, crops, options)
    assert len(decoded) == 50 and found.frames == 7
    assert [face.seconds for face in found.faces] == pytest.approx(
        [face.frame / 25 for face in found.faces]
    )


def test_of_a_video_that_is_decoded_twice_only_the_second_pass_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pass has larger frames, and more faces in a frame that is not scored."""
    passes = [(0, 2400, 6), (7, 2400, 3)], [(0, 600, 0), (3, 600, 1), (6, 600, 2)]

    class Listed:
        box_scale = 1.0

        def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]:
            return [Found(Box(9 * x, 0, 9 * x + 8, 8), 1.0) for x in range(image[0, 0, 0])]

    def twice(file: str, wanted: int, work: Any) -> list:
        for frames in passes:
            done = [work(x, None, np.full((side, side, 3), n, np.uint8)) for x, side, n in frames]
        return done

    need("av", "prepare")
    monkeypatch.setattr(video, "map_spaced_frames", twice)
    monkeypatch.setattr(finding, "MAX_PIXEL_BYTES", 9 * 3 * 16**2)
    options = OPTIONS._replace(faces="all", show=True, image_size=16)
    trimmed = MediaFile("v.mp4", str(tmp_path / "v.mp4"))
    found = faces_of_file(trimmed, detector=Listed(), options=options)
    assert (found.error, found.frames, found.most, found.searched_at) == (None, 3, 2, 1.0)
    assert [face.frame for face in found.faces] == [3, 6, 6]
    assert found.shown.frame == 6 and found.shown.pixels.shape == (600, 600, 3)


def test_a_picture_of_a_video_is_kept_only_without_a_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.mp4", 3)
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    monkeypatch.setattr(finding, "start_limits", lambda: None)
    for detector, shows_video in ((WholeImage(), False), (Fixed(), True)):
        monkeypatch.setattr(finding, "detector_of", lambda options, made=detector: made)
        work = finding.make_worker(OPTIONS._replace(show=True))
        assert (work((0, media(tmp_path / "v.mp4"))).shown is not None) == shows_video
        assert work((1, media(tmp_path / "a.png"))).shown is not None


def test_two_people_of_a_video_are_followed_apart(tmp_path: Path) -> None:
    class Moving:
        """Finds the two faces of `write_video` by the frame that it is called for."""

        box_scale = 1.0
        frames = iter(range(0, 100, 4))

        def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]:
            index = next(self.frames)
            boxes = Box(index, 20, index + 40, 60), Box(120 - index, 20, 160 - index, 60)
            return [Found(box, 1.0) for box in (boxes if index < 80 else boxes[:1])]

    write_video(tmp_path / "v.mp4", 97)
    options = OPTIONS._replace(faces="all", frames=25)
    found = faces_of_file(media(tmp_path / "v.mp4"), detector=Moving(), options=options)
    assert found.frames == 25 and found.most == 2
    for track, frames in ((0, 25), (1, 20)):
        own = [face for face in found.faces if face.track == track]
        assert [face.frame for face in own] == list(range(0, 4 * frames, 4))
        lefts = [face.box.left for face in own]
        assert lefts == sorted(lefts, reverse=track == 1)


def test_no_face_and_a_face_outside(tmp_path: Path) -> None:
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    found = faces_of_file(media(tmp_path / "a.png"), detector=Fixed(), options=OPTIONS)
    assert found == FileFaces([], 1, 0, 0, None, found.work_seconds, searched_at=1.0)
    outside = Fixed(Box(500, 60, 510, 70), Box(60, 40, 140, 120))
    found = faces_of_file(
        media(tmp_path / "a.png"), detector=outside, options=OPTIONS._replace(faces="all")
    )
    assert len(found.faces) == 1 and (found.most, found.outside) == (2, 1)


def test_too_many_faces_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "v.mp4", 10)
    monkeypatch.setattr(finding, "MAX_PIXEL_BYTES", 9 * 3 * CROP_SIZE**2 + 1)
    found = faces_of_file(media(tmp_path / "v.mp4"), detector=WholeImage(), options=OPTIONS)
    assert "over 9 faces, which take too much memory" in found.error and not found.faces


def test_processes_are_fewer_if_their_faces_take_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def record(items: Sequence, make: Any, arguments: Sequence, **idle: Any) -> Iterator:
        started.append(len(arguments))
        yield from ((item, None) for item in items)

    monkeypatch.setattr(finding, "spread", record)
    inputs = [Input("a.png", MediaFile("a.png", "a.png"), None)] * 100
    for options in (OPTIONS, OPTIONS._replace(faces="all")):
        found = list(find_faces(inputs, options, processes=64))
        assert [place for place, _ in found] == list(range(100))
        assert all(faces.error == DIED for _, faces in found)
    assert started == [64, 40]


@pytest.mark.e2e
def test_hostile_files_are_read_or_refused(tmp_path: Path) -> None:
    need("av", "prepare")
    harmless = write_hostile_files(tmp_path / "src")
    options = OPTIONS._replace(detector="none")
    readable = set()
    inputs = list(find_inputs([str(tmp_path / "src")]).each)
    assert len(inputs) > 80
    for one in inputs:
        if one.media is None:
            assert one.error
            continue
        found = faces_of_file(one.media, detector=detector_of(options), options=options)
        assert (found.error is None) == bool(found.faces) == (found.frames > 0)
        assert found.error is None or "\n" not in found.error
        if found.error is None:
            readable.add(one.path.removeprefix(f"{tmp_path}/src/"))
    assert readable == set(harmless)


def test_a_crop_is_stored_without_loss() -> None:
    """Checks what the tests above rely on."""
    pixels = photograph()
    assert np.array_equal(decode_image(detect._png(pixels)), pixels)
    assert Image.open(io.BytesIO(detect._png(pixels))).mode == "RGB"


@pytest.mark.e2e
def test_worker_processes_import_no_jax() -> None:
    program = "import sys, fsvfm_jax.predict.faces; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "it needs too much memory"),
        (TypeError("odd\nthing"), "TypeError: odd thing"),
        (ValueError("it is odd"), "it is odd"),
        (ValueError(), "ValueError"),
    ],
)
def test_any_error_of_a_file_is_its_own(tmp_path: Path, error: Exception, message: str) -> None:
    class Failing:
        box_scale = 1.0

        def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]:
            raise error

    Image.fromarray(photograph()).save(tmp_path / "a.png")
    assert (
        faces_of_file(media(tmp_path / "a.png"), detector=Failing(), options=OPTIONS).error
        == message
    )
