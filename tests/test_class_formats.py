"""Tests the warning of sets whose classes differ in the format of their files."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image
from scored_sets import BY_HAND, scored

from fsvfm_jax.data.labelled.faces import LabelledFaces
from fsvfm_jax.data.labelled.file_formats import FileFormat
from fsvfm_jax.data.labelled.protocols import read_set
from fsvfm_jax.report.class_formats import MAX_FILES, check_formats, check_set, compare_formats
from fsvfm_jax.report.results import set_row, write_results

JPEG, PNG = FileFormat("JPEG", (9, 9), b"t", 95), FileFormat("PNG", (9, 9))


def check(real, fake, *, per_video=1):
    """Compares formats; so many files in a row are of one video."""
    is_fake = np.repeat([False, True], [len(real), len(fake)])
    videos = np.array([f"v{i // per_video}-{y}" for i, y in enumerate(is_fake)])
    return compare_formats([*real, *fake], is_fake, videos)


def sized(sides):
    return [FileFormat("PNG", (int(side), int(side))) for side in sides]


def test_classes_in_two_formats_differ_and_the_sentence_has_the_figures():
    found = check([JPEG] * 30, [PNG] * 20)
    assert (found.rule, found.accuracy, found.differ()) == ("format", 1.0, True)
    said = found.sentence()
    assert "the format of a file alone tells real from fake in 100 % (guessing: 50 %)" in said
    assert "of 30 real files 100 % JPEG of quality about 95, 100 % 9 x 9 pixels" in said
    assert "of 20 fake files 100 % PNG" in said


@pytest.mark.parametrize(
    ("real", "fake", "rule"),
    [
        ([JPEG] * 30, [JPEG._replace(tables=b"u")] * 30, "JPEG tables"),
        (sized([224] * 30), sized([256] * 30), "size"),
        # All sizes differ, but one class has more pixels.
        (sized(range(100, 140)), sized(range(300, 340)), "number of pixels"),
        (
            [JPEG._replace(tables=bytes([i]), quality=i) for i in range(66, 74)] * 5,
            [JPEG._replace(tables=bytes([i]), quality=i) for i in range(86, 94)] * 5,
            "JPEG quality",
        ),
        ([JPEG] * 30, [FileFormat("unknown")] * 30, "format"),
    ],
)
def test_what_tells_the_classes_apart_is_named(real, fake, rule):
    found = check(real, fake)
    assert found.differ() and found.rule == rule and found.accuracy > 0.95


def test_equal_classes_do_not_differ_whatever_their_numbers():
    found = check([JPEG, PNG] * 40, [JPEG, PNG] * 5)
    assert found.accuracy == pytest.approx(0.5, abs=0.15) and not found.differ()
    assert check([JPEG] * 300, [JPEG] * 4).accuracy == 0.5  # The majority class gets no more.


def test_the_size_of_a_video_says_nothing_about_other_videos():
    rng = np.random.default_rng(0)
    real, fake = (sized(np.repeat(rng.integers(200, 230, 40), 8)) for _ in range(2))
    assert not check(real, fake, per_video=8).differ()


def test_few_videos_need_more_than_a_chance():
    assert check([JPEG], [PNG] * 9) is None
    assert check([JPEG] * 4, [PNG] * 4) is None
    assert check([JPEG] * 5, [PNG] * 5).differ()


def test_chance_alone_warns_rarely():
    rng = np.random.default_rng(0)
    kinds = [JPEG, PNG, *sized([10, 300])]
    warned = 0
    for _ in range(200):
        count = int(rng.integers(5, 40))
        real, fake = ([kinds[i] for i in rng.integers(0, 4, count)] for _ in range(2))
        warned += check(real, fake).differ()
    assert warned <= 4


def write(root, *, real=".png", fake=".png", videos=8, frames=2):
    for label, suffix in (("real", real), ("fake", fake)):
        for video in range(videos):
            for frame in range(frames):
                file = root / label / f"v{video}_frame_{frame}{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (12, 12), (video, 0, 0)).save(file)
    return LabelledFaces(read_set("folder", str(root), split="", name="mine"))


def test_files_are_read_by_their_content_and_the_log_warns(tmp_path, caplog):
    faces = write(tmp_path / "x", real=".jpg")
    for file in (tmp_path / "x/real").iterdir():
        file.rename(file.with_suffix(".png"))
    faces = LabelledFaces(read_set("folder", str(tmp_path / "x"), split="", name="mine"))
    found = check_formats({"mine": faces})
    assert found["mine"].accuracy == 1.0
    assert "mine: classes differ in format: the format of a file" in caplog.text
    assert not check_set(write(tmp_path / "y")).differ()


def test_only_so_many_headers_are_read(tmp_path, monkeypatch):
    faces, read = write(tmp_path, frames=1, videos=12), []

    def look(file):
        read.append(file)
        return PNG

    monkeypatch.setattr("fsvfm_jax.report.class_formats.read_format", look)
    monkeypatch.setattr("fsvfm_jax.report.class_formats.MAX_FILES", 5)
    check_set(faces)
    assert len(read) == 10 and len(set(read)) == 10 < 24 < MAX_FILES


def test_the_table_says_it(tmp_path, few_draws):
    checks = check_formats({"mine": write(tmp_path / "x", real=".jpg")})
    scores = scored("mine", BY_HAND)
    options = {"selection": "given", "step": None, "seed": None, "candidates": 1, "model": None}
    row = set_row("detection", scores, thresholds={}, of_run={}, alone=True, **options)
    options = {"report": "detection", "protocol": ["mine."], "groups": None, "drawn": 1}
    write_results(epath.Path(tmp_path), [row], [scores], formats=checks, **options)
    stored = json.loads((tmp_path / "table.json").read_text())
    assert stored["rows"][0]["classes_differ_in_format"] == "yes"
    assert stored["rows"][0]["format_accuracy"] == 1.0
    assert "mine: classes differ in format" in (tmp_path / "table.md").read_text()
    assert "mine: classes differ in format" in stored["caption"]
