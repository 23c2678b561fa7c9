"""Tests which pictures are shown, and that only pixels of PNG files reach the page."""

import base64
import io

import numpy as np
import pytest
from etils import epath
from hostile_files import png
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from run_workdirs import write_picture, write_run

from fsvfm_jax.visualize.run_folder import read_folder
from fsvfm_jax.visualize.run_pictures import (
    MAX_HEIGHT,
    MAX_PICTURES,
    MAX_PICTURES_OF_PAGE,
    MAX_WIDTH,
    evenly,
    most_of_run,
    read_pictures,
)


def read(workdir, runs: int = 1):
    notes = []
    return read_pictures(read_folder(epath.Path(workdir)), runs=runs, notes=notes), notes


def decoded(url: str) -> np.ndarray:
    head, _, content = url.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.array(image)


def test_pictures_are_in_order_and_look_as_they_did(tmp_path):
    pictures, notes = read(write_run(tmp_path / "run", pictures=(100, 20, 3)))
    assert [picture.step for picture in pictures] == [3, 20, 100] and notes == []
    for picture in pictures:
        pixels = decoded(picture.url)
        assert pixels.shape == (24, 16, 3) == (picture.height, picture.width, 3)
        assert abs(pixels.astype(int) - picture.step).max() <= 3


def test_many_pictures_are_thinned_evenly_and_it_is_said(tmp_path):
    workdir = write_run(tmp_path / "run", pictures=range(10, 1010, 10))
    pictures, notes = read(workdir)
    steps = [picture.step for picture in pictures]
    assert len(steps) == MAX_PICTURES and steps[0] == 10 and steps[-1] == 1000
    gaps = np.diff(steps)
    assert gaps.max() - gaps.min() <= 10
    assert notes == [
        f"images/: {MAX_PICTURES} of 100 pictures are shown, evenly spaced, with the first and the"
        " last"
    ]


@given(st.lists(st.integers(0, 10**6), max_size=50, unique=True), st.integers(2, 30))
def test_evenly_keeps_both_ends(steps, most):
    steps.sort()
    chosen = evenly(steps, most)
    assert len(chosen) == min(len(steps), most) == len(set(chosen)) and set(chosen) <= set(steps)
    assert chosen[:1] == steps[:1] and chosen[-1:] == steps[-1:]


@pytest.mark.parametrize("runs", [1, 2, 5, 21])
def test_the_pictures_of_all_runs_are_limited(runs):
    assert 2 <= most_of_run(runs) <= MAX_PICTURES
    assert runs * most_of_run(runs) <= MAX_PICTURES_OF_PAGE


def test_a_large_picture_becomes_smaller_without_being_stretched(tmp_path):
    workdir = write_run(tmp_path / "run")
    write_picture(workdir, 1, size=(3000, 2000))
    write_picture(workdir, 2, size=(9000, 100))
    first, second = read(workdir)[0]
    assert (first.width, first.height) == (MAX_WIDTH, 1500)
    assert (second.height, second.width) == (MAX_HEIGHT, 44)


def test_odd_files_are_named_and_the_others_shown(tmp_path):
    workdir = write_run(tmp_path / "run", pictures=(5,))
    images = workdir / "images"
    good = (images / "reconstruction_0000005.png").read_bytes()
    (images / "reconstruction_0000010.png").write_bytes(good[:-20])
    (images / "reconstruction_0000011.png").write_bytes(png(60000, 60000, bytes(10)))
    (images / "reconstruction_0000012.png").write_bytes(b"<svg onload=alert(1)>")
    (images / "reconstruction_0000013.png").symlink_to("reconstruction_0000005.png")
    (images / "reconstruction_0000014.png").mkdir()
    (images / "reconstruction_0000015.png").write_bytes(b"\xff\xd8\xff")
    (images / "<script>.png").write_bytes(good)
    (images / "x_1.png\n").write_bytes(good)
    pictures, notes = read(workdir)
    assert [picture.step for picture in pictures] == [5]
    assert (
        notes[0] == "images/: 2 entries are no picture of a step, or a second one"
        and len(notes) == 7
    )


def test_nothing_of_a_file_but_its_pixels_is_shown(tmp_path):
    workdir = write_run(tmp_path / "run", pictures=(5,))
    file = workdir / "images" / "reconstruction_0000005.png"
    file.write_bytes(file.read_bytes() + b"SECRET</script>")
    [picture], _ = read(workdir)
    assert b"SECRET" not in base64.b64decode(picture.url.partition(",")[2])


def test_a_folder_of_pictures_that_is_a_link_is_not_read(tmp_path):
    other = write_run(tmp_path / "other", pictures=(5,))
    workdir = write_run(tmp_path / "run")
    (workdir / "images").rmdir()
    (workdir / "images").symlink_to(other / "images")
    assert read(workdir) == ([], ["images/ is left out: it is a link or no folder"])
