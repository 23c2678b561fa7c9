"""Tests that CSV files of scores are read back exactly, and that other files are refused."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_sets import HOSTILE, same, scored

from fsvfm_jax.errors import DataError
from fsvfm_jax.report.scores import Scores, image_csv, read_scores, video_csv
from fsvfm_jax.report.write import read_rows


def test_scores_of_hostile_names_are_read_back_exactly(tmp_path):
    p_fake = np.random.default_rng(0).random(len(HOSTILE))
    names = np.array(HOSTILE, np.str_)
    scores = Scores("x", names, names[::-1], p_fake > 0.5, p_fake, 2)
    (tmp_path / "x.csv").write_bytes(image_csv(scores))
    assert same(read_scores(tmp_path / "x.csv", dataset="x", skipped=2), scores)


def test_names_are_kept_byte_by_byte():
    scores = scored("x", {"f": (0.1,)})._replace(files=np.array([os.fsdecode(b"=\xe9.png")]))
    expected = b'"file","video","label","p_fake"\n"=\xe9.png","f","fake",0.1\n'
    assert image_csv(scores) == expected


@given(p_fake=st.lists(st.floats(0, 1), max_size=20), data=st.data())
def test_scores_keep_all_their_digits(tmp_path_factory, p_fake, data):
    # No path has a NUL, and the only surrogates in a path are those of `os.fsdecode`.
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
    size = len(p_fake)
    names, videos = (data.draw(st.lists(text, min_size=size, max_size=size)) for _ in range(2))
    fake = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    scores = Scores(
        "x",
        np.array(names, np.str_),
        np.array(videos, np.str_),
        np.array(fake, np.bool_),
        np.array(p_fake, np.float64),
        0,
    )
    path = tmp_path_factory.mktemp("scores") / "x.csv"
    path.write_bytes(image_csv(scores))
    back = read_scores(path, dataset="x")
    assert same(back._replace(files=0, videos=0), scores._replace(files=0, videos=0))
    assert back.files.tolist() == names and back.videos.tolist() == videos


def test_scores_of_videos_are_means():
    text = video_csv(scored("x", {"r,0": (0.25, 0.5), "f1": (1.0,)})).decode()
    expected = '"video","label","frames","p_fake"\n"f1","fake",1,1.0\n"r,0","real",2,0.375\n'
    assert text == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        '"path","label"\n"a",1\n',
        '"file","video","label","p_fake"\n"a","v","maybe",0.5\n',
        '"file","video","label","p_fake"\n"a","v","fake"\n',
        '"file","video","label","p_fake"\n"a","v","fake","much"\n',
        '"file","video","label","p_fake"\na,v,fake,0.5\n',
        '"file","video","label","p_fake"\n"a","v",0.5,0.5\n',
    ],
)
def test_what_is_not_a_file_of_scores_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(
        DataError, match=r"x\.csv cannot be read as scores .* the labels fake, real"
    ):
        read_scores(tmp_path / "x.csv", dataset="x")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv cannot be read as scores"):
        read_scores(tmp_path / "none.csv", dataset="x")


@pytest.mark.parametrize("kind", ["pipe", "folder", "sparse"])
def test_scores_that_are_no_plain_file_are_refused_at_once(tmp_path, kind):
    path = tmp_path / "x.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 50 * 10**9)
    for read in (lambda: read_scores(path, dataset="x"), lambda: read_rows(path)):
        with pytest.raises(DataError, match=r"x\.csv (cannot be read as scores|is no table)"):
            read()
