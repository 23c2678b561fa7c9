"""Tests that faces are found and cropped as in FaceForensics++, with a line for every picture."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_files import need
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare import detect as detecting
from fsvfm_jax.prepare import files
from fsvfm_jax.prepare.detect import (
    Box,
    Found,
    HogDetector,
    Options,
    WholeImage,
    crop,
    detect,
    faces_of_source,
    square_box,
)
from fsvfm_jax.prepare.files import find_sources
from fsvfm_jax.prepare.manifest import Manifest, read_lines

CROPPED = Options(detector="none", size=32)


def scene(*faces: tuple[int, int, int], height: int = 200, width: int = 420) -> np.ndarray:
    """Returns a grey picture with rendered faces at (number, left, top)."""
    picture = np.full((height, width, 3), 128, np.uint8)
    for index, left, top in faces:
        picture[top : top + 128, left : left + 128] = render_face(index, image_size=128)[0]
    return picture


TWO_FACES = scene((5, 40, 36), (2, 250, 40))


def save(file: Path, picture: np.ndarray, **settings: Any) -> None:
    """Writes an image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file, **settings)


class Fixed:
    """Returns the detections that it was constructed with."""

    box_scale = 1.0

    def __init__(self, *boxes: Box):
        self._boxes = boxes

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> list[Found]:
        return [Found(box, 1.0 / number) for number, box in enumerate(self._boxes, 1)]


def lines_of(file: Path, detector: Any, **options: Any) -> list[dict[str, Any]]:
    """Returns the lines of one photograph."""
    (source,) = find_sources(str(file))[0]
    return [line for line, _ in faces_of_source(source, detector, Options(**options))]


def test_dlib_finds_faces_surest_first() -> None:
    need("dlib", "prepare")
    found = HogDetector(1)(TWO_FACES)
    assert len(found) == 2
    assert found[0].score >= found[1].score > 0.5
    assert sorted(box.left // 100 for box, _ in found) == [0, 2]
    assert HogDetector(1)(scene()) == []
    for shape in ((1, 1, 3), (1, 500, 3), (500, 1, 3)):
        assert HogDetector(1)(np.zeros(shape, np.uint8)) == []


def test_a_large_photograph_is_searched_at_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    need("dlib", "prepare")
    expected = HogDetector(1)(scene((5, 40, 36)))[0].box
    monkeypatch.setattr("fsvfm_jax.prepare.detect.MAX_SEARCHED_PIXELS", 4 * 200 * 420)
    large = scene((5, 40, 36)).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(HogDetector(1)(large)[0].box, 2 * np.array(expected))


def test_the_square_is_that_of_faceforensics() -> None:
    def square(*box: int, scale: float = 1.3) -> Box:
        return square_box(Box(*box), scale=scale, height=100, width=200)

    assert square(60, 30, 90, 60) == (56, 26, 95, 65)  # the square has 39 pixels around (75, 45)
    assert square(60, 30, 90, 40) == (56, 16, 95, 55)  # the longer side counts
    assert square(-5, 0, 35, 40) == (0, 0, 52, 52)  # moved inside
    assert square(150, 50, 190, 95) == (141, 43, 198, 100)  # made smaller
    assert square(0, 0, 400, 400) == (0, 0, 100, 100)
    assert square(10, 10, 20, 20, scale=1.0) == (10, 10, 20, 20)


@given(st.lists(st.integers(-200, 400), min_size=4, max_size=4), st.integers(1, 300))
def test_a_square_is_square_and_inside(corners: list[int], size: int) -> None:
    left, right, top, bottom = *sorted(corners[:2]), *sorted(corners[2:])
    box = square_box(Box(left, top, right, bottom), scale=1.3, height=size, width=200)
    assert box.right - box.left == box.bottom - box.top
    if box.right > box.left:
        assert box.left >= 0 and box.top >= 0 and box.right <= 200 and box.bottom <= size


def test_a_crop_is_what_the_box_holds() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    np.testing.assert_array_equal(
        crop(picture, Box(10, 20, 42, 52), size=32), picture[20:52, 10:42]
    )
    bicubic = Image.fromarray(picture[20:52, 10:42]).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(crop(picture, Box(10, 20, 42, 52), size=16), np.asarray(bicubic))


def test_cropped_images_are_taken_as_they_are(tmp_path: Path) -> None:
    face = render_face(0, image_size=32)[0]
    save(tmp_path / "a.png", face)
    (source,) = find_sources(str(tmp_path))[0]
    ((line, png),) = faces_of_source(source, WholeImage(), CROPPED)
    assert png is not None
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), face)
    assert line["box"] == [0, 0, 32, 32] and line["score"] is None
    assert WholeImage()(np.zeros((50, 31, 3), np.uint8)) == [Found(Box(0, 9, 31, 40), None)]


def test_all_faces_or_the_largest(tmp_path: Path) -> None:
    save(tmp_path / "sub" / "a.b.jpg", TWO_FACES)
    boxes = Box(10, 10, 40, 40), Box(60, 60, 100, 100), Box(500, 60, 510, 70)
    lines = lines_of(tmp_path, Fixed(*boxes), faces="all")
    assert [line["image"] for line in lines] == ["sub/a.b_0.png", "sub/a.b_1.png", None]
    assert [line["face"] for line in lines] == [0, 1, 2]
    assert lines[2]["outcome"] == "refused" and "outside" in lines[2]["reason"]
    (line,) = lines_of(tmp_path, Fixed(*boxes))
    assert (line["image"], line["box"]) == ("sub/a.b.png", [60, 60, 100, 100])
    assert (line["score"], line["reason"]) == (0.5, "the largest of 3")
    (line,) = lines_of(tmp_path, Fixed())
    assert (line["outcome"], line["image"]) == ("no_face", None)
    assert line["reason"] == "no face found (dlib, upsample 1)"


def test_an_upright_face_is_cut_from_a_turned_photograph(tmp_path: Path) -> None:
    need("dlib", "prepare")
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: the picture must be rotated by 90 degrees.
    upright = scene((5, 40, 36), width=200)
    save(tmp_path / "a.png", np.rot90(upright), exif=exif)
    save(tmp_path / "b.png", upright)
    crops = []
    for source in find_sources(str(tmp_path))[0]:
        ((_, png),) = faces_of_source(source, HogDetector(1), Options())
        crops.append(png)
    assert crops[0] == crops[1] is not None


def test_a_run_writes_crops_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, tree = tmp_path / "src", tmp_path / "tree"
    save(src / "a.png", render_face(0, image_size=40)[0])
    save(src / "sub" / "b.jpg", render_face(1, image_size=50)[0])
    (src / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (src / "notes.txt").write_text("x")
    counts = detect(str(src), tree, CROPPED, processes=2)
    assert counts == {"face": 2, "refused": 1, "skipped": 1}
    lines = {line["source"]: line for line in read_lines(tree)}
    assert list(lines) == ["a.png", "bad.jpg", "notes.txt", "sub/b.jpg"]
    assert len(lines["bad.jpg"]["sha256"]) == 64
    for name in ("a", "sub/b"):
        assert np.asarray(Image.open(tree / "images" / f"{name}.png")).shape == (32, 32, 3)
    assert "detect: 3/3 (100 %)" in capsys.readouterr().err
    before = {x: x.stat().st_mtime_ns for x in tree.rglob("*.png")}
    assert detect(str(src), tree, CROPPED, processes=2) == counts
    assert before == {x: x.stat().st_mtime_ns for x in tree.rglob("*.png")}
    with pytest.raises(ConfigError, match="size was 32 and is 64"):
        detect(str(src), tree, CROPPED._replace(size=64), processes=2)


def test_a_run_without_a_face_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no face was found .* says why for each"):
        detect(str(tmp_path / "a.jpg"), tmp_path / "tree", CROPPED, processes=1)


@pytest.mark.parametrize(
    ("options", "tree", "message"),
    [
        (CROPPED._replace(size=0), "tree", "--size is 0; it must be at least 1"),
        (CROPPED._replace(frames=0), "tree", "--frames is 0; it must be at least 1"),
        (CROPPED._replace(upsample=-1), "tree", "--upsample is -1; it must be at least 0"),
        (CROPPED, "src/tree", "src/tree is in .*src, where it would be searched"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: Options, tree: str, message: str) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(ConfigError, match=message):
        detect(str(tmp_path / "src"), tmp_path / tree, options, processes=1)


def test_lines_have_the_same_entries(tmp_path: Path) -> None:
    save(tmp_path / "a.png", TWO_FACES)
    for boxes in ((), (Box(0, 0, 9, 9),)):
        (line,) = lines_of(tmp_path, Fixed(*boxes))
        assert list(line) == [
            "source", "frame", "face", "sha256", "outcome", "reason", "box", "score", "image",
        ]  # fmt: skip
        json.dumps(line)


@pytest.mark.parametrize(
    "start", [b"", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"], ids=["zeros", "MP4"]
)
@pytest.mark.parametrize("size", [50 * 10**9, 2**36 + 1])
def test_a_sparse_video_is_refused_before_it_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes, size: int
) -> None:
    """Checks that it is not hashed, which takes a minute."""
    need("av", "prepare")
    save(tmp_path / "src" / "a.png", render_face(0, image_size=40)[0])
    with (tmp_path / "src" / "large.mp4").open("wb") as file:
        file.write(start)
        file.truncate(size)

    def fail() -> None:
        raise AssertionError("it is hashed")

    monkeypatch.setattr(files, "tick", fail)
    monkeypatch.setattr(detecting, "start_limits", lambda: None)
    write = detecting._make_worker((tmp_path / "tree", CROPPED))
    with Manifest(tmp_path / "tree", "detect", key="source", options={}):
        photograph, video = find_sources(str(tmp_path / "src"))[0]
        (line,) = write(photograph)
        assert line["outcome"] == "face" and len(line["sha256"]) == 64
        (line,) = write(video)
    assert line["outcome"] == "refused" and line["sha256"] is None
    wanted = "it has 68,719,476,737 bytes" if size > 2**36 else "no MP4" if not start else "it "
    assert wanted in line["reason"]
