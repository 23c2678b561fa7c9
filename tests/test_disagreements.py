"""Tests the list and the picture of the videos on which two detectors disagree."""

import csv
import io
import os

import numpy as np
from PIL import Image
from scored_sets import scored

from fsvfm_jax.report.disagreements import (
    MAX_SHOWN,
    PER_ROW,
    TILE,
    disagreements,
    find_frame,
    list_csv,
    sheet,
)
from fsvfm_jax.report.paired import Pair, verdicts

NAMES = ("ours", "th\neirs")
FIRST = {"f0": (0.9, 0.9, 0.9), "f1": (0.1,), "r0": (0.2,), "r1": (0.3,)}
SECOND = {"f0": (0.2, 0.2, 0.2), "f1": (0.9,), "r0": (0.1,), "r1": (0.6,)}


def listed(first=FIRST, second=SECOND):
    pair = Pair(NAMES, scored("x", first), scored("x", second))
    return disagreements(pair, verdicts(pair))


def test_the_list_has_each_video_that_one_alone_decides_right():
    found = {one.video: one for one in listed()}
    assert found.keys() <= FIRST.keys() and "f0" in found
    assert (found["f0"].right, found["f0"].file) == ("ours", "f0_frame_1.png")
    np.testing.assert_allclose(found["f0"].scores, (0.9, 0.2))
    gaps = [abs(one.scores[0] - one.scores[1]) for one in listed()]
    assert gaps == sorted(gaps, reverse=True)


def test_the_list_is_csv_whatever_the_names():
    rows = list(csv.reader(io.StringIO(list_csv(NAMES, listed()).decode(), newline="")))
    assert rows[0] == ["set", "video", "label", "right", "p_fake of ours", "p_fake of th\neirs",
                       "file"]  # fmt: skip
    assert len(rows) == 1 + len(listed())


def picture_of(found, root):
    return np.array(Image.open(io.BytesIO(sheet(NAMES, found, root=str(root)))))


def test_the_picture_shows_the_faces_and_grey_where_there_is_none(tmp_path):
    Image.new("RGB", (30, 20), (200, 30, 30)).save(tmp_path / "f0_frame_1.png")
    (tmp_path / "r1_frame_0.png").write_text("no picture")
    found = listed()
    drawn = picture_of(found, tmp_path)
    assert drawn.shape[1] == PER_ROW * (TILE + 2) or drawn.shape[1] == PER_ROW * (TILE + 2) - 2
    assert (drawn == (200, 30, 30)).all(-1).sum() == TILE**2
    grey = (drawn == 128).all(-1).sum()  # The edges of letters are grey, too.
    assert 0 <= grey - (len(found) - 1) * TILE**2 < 200


def test_at_most_so_many_are_shown_of_each_kind(tmp_path):
    count = 3 * MAX_SHOWN
    first = {f"{x}{i:03d}": ((0.9, 0.1)["fr".index(x)],) for x in "fr" for i in range(count)}
    second = {name: (1 - scores[0],) for name, scores in first.items()}
    # At its own threshold the second is always wrong or always undecided.
    found = listed(first, second)
    assert len(found) >= count
    kinds = {(one.right, one.fake) for one in found}
    rows = len(kinds) * -(-MAX_SHOWN // PER_ROW)
    assert picture_of(found, tmp_path).shape[0] < rows * (TILE + 60) + 200


def test_a_frame_is_found_by_the_end_of_its_path_and_never_outside(tmp_path):
    file = tmp_path / "root/real/a/1.png"
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "1.png").touch()
    root = str(tmp_path / "root")
    for path in (str(file), "/sets/of/others/real/a/1.png", "real/a/1.png", "./real//a/1.png"):
        assert find_frame(path, root) == str(file)
    for path in ("", "/", "../1.png", "real/../../1.png", "a\0b", "b/1.png", str(tmp_path)):
        assert find_frame(path, root) is None
    assert find_frame("x/" * 1000 + "real/a/1.png", root) is None  # more folders than any path
    os.symlink("/", tmp_path / "root/link")
    assert find_frame("etc/passwd", root) is None
