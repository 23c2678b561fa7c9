"""Tests that faces are found and cropped as in FaceForensics++, with a line for every picture."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_files import need
from jaxtyping import UInt8
from PIL import Image
from scenes import TWO_FACES, scene

from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare import detect as detecting
from fsvfm_jax.prepare import files
from fsvfm_jax.prepare.crops import Box, Found, HogDetector, WholeImage
from fsvfm_jax.prepare.detect import Options, detect, faces_of_source
from fsvfm_jax.prepare.files import find_sources
from fsvfm_jax.prepare.manifest import Manifest, read_lines

CROPPED = Options(detector="none", size=32)


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


@pytest.mark.e2e
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


@pytest.mark.e2e
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
