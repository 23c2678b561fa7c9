"""Tests that frames are grouped by the video they come from, in any layout."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsvfm_jax.data.images import IMAGE_SUFFIXES
from fsvfm_jax.data.labelled.videos import (
    FOLDER,
    NAME,
    PATTERN,
    PICTURE,
    SINGLE,
    UNMATCHED,
    Picture,
    are_numbered,
    describe,
    group_pictures,
    is_image,
    owners,
)
from fsvfm_jax.data.listing import suffix_of
from fsvfm_jax.errors import ConfigError

# The names that people give to frame i of a video, relative to the folder of its class.
CONVENTIONS = {
    "{video}/{i}.png": FOLDER,
    "{video}/{i:05d}.png": FOLDER,
    "{video}/frame{i}.png": FOLDER,
    "{video}/frame_{i:04d}.jpg": FOLDER,
    "{video}/faces/img-{i}.png": FOLDER,
    "{video}/{video}_{i:03d}.png": FOLDER,
    "part 1/{video}/{i:03d}_0.png": FOLDER,
    "{video}_frame_{i}.png": NAME,
    "{video}_frame{i}.png": NAME,
    "{video}_frame_{i}_0.png": NAME,
    "{video}/a_frame_{i}.png": NAME,
    "{video}-Frame-{i}.JPG": NAME,
    "{video}_{i:02d}.jpg": NAME,
    "part_1/{video}_{i:02d}.jpg": NAME,
    "{video}.{i}.webp": NAME,
}
# Names of videos in public sets.
VIDEOS = st.sampled_from(
    ["000_003", "id0_0000", "id0_id1_0000", "id12", "v", "aabbc", "real 2", "071", "x.mp4"]
)


def grouped(paths, videos="", class_folders=("real", "fake")):
    """Returns the rule that was used, and the paths of each video."""
    pictures = [Picture(path, path.split("/")[0], path, "here") for path in paths]
    found = list(group_pictures(pictures, videos, class_folders=class_folders))
    assert [video.frames for video in found] == [[path] for path in paths]
    by_name = {}
    for video in found:
        by_name.setdefault(video.name, set()).update(video.frames)
    return {video.by for video in found}, by_name


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=20)
@given(
    counts=st.dictionaries(VIDEOS, st.integers(2, 12), min_size=2, max_size=5),
    seed=st.integers(0, 9),
)
def test_the_videos_found_are_the_videos_built(convention, counts, seed):
    built = [
        {f"{label}/" + convention.format(video=video, i=i) for i in range(count)}
        for label in ("real", "fake")
        for video, count in counts.items()
    ]
    paths = sorted(itertools.chain(*built))
    random.Random(seed).shuffle(paths)  # a file system may list them in any order
    ways, found = grouped(paths)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, built))
    assert ways == {CONVENTIONS[convention]}


@pytest.mark.parametrize(
    "names",
    [
        "0001.png 0002.png 0010.png",
        "face_000.png face_001.png",
        "000_003.png 003_000.png 1_2.png",
        "anna.png bob.png people/anna.png people/bob.png people/carl.png",
        "people/anna1.png people/bob.png people/carl.png",
        "a1b2.png c3d4.png more/e5f6.png more/0a9b8.png",
    ],
)
def test_single_pictures_stay_single(names):
    paths = [f"{label}/{name}" for label in ("real", "fake") for name in names.split()]
    ways, found = grouped(paths)
    assert ways == {SINGLE}
    assert all(len(of_video) == 1 for of_video in found.values())


def test_folders_that_are_called_like_a_class_are_no_video():
    paths = [f"fake/{x}/{i}.png" for x in ("Deepfakes", "Celeb-synthesis") for i in range(3)]
    assert grouped(paths)[0] == {SINGLE}
    assert grouped([f"fake/fake_clip{i}/{j}.png" for i in (1, 2) for j in (1, 2)])[0] == {FOLDER}


def test_other_pictures_of_a_videos_folder_are_frames_too():
    paths = [f"real/v/{i}.png" for i in range(3)] + ["real/v/cover.png"]
    assert grouped(paths) == ({FOLDER}, {"real/v": set(paths)})


def test_conventions_may_differ_between_classes():
    paths = ["real/v/1.png", "real/v/2.png", "fake/v_frame_1.png", "fake/v_frame_2.png"]
    assert grouped(paths) == (
        {FOLDER, NAME},
        {"real/v": set(paths[:2]), "fake/v": set(paths[2:])},
    )


@pytest.mark.parametrize(
    ("videos", "by", "names"),
    [
        ("folder", FOLDER, ["real/a/b", "real/a/b", "real/a/b", "real"]),
        ("name", NAME, ["real/a/b/v", "real/a/b/v", "real/a/b/w", "real"]),
        ("picture", PICTURE, ["real/a/b/v_1", "real/a/b/v_2", "real/a/b/w_1", "real/7"]),
        ("{video}_*", PATTERN, ["real/a/b/v", "real/a/b/v", "real/a/b/w", "real/7"]),
        ("*_{video}", PATTERN, ["real/a/b/1", "real/a/b/2", "real/a/b/1", "real/7"]),
        ("{video}/*/*", PATTERN, ["real/a", "real/a", "real/a", "real/7"]),
        ("a/{video}/v_*", PATTERN, ["real/a/b", "real/a/b", "real/a/b/w_1", "real/7"]),
    ],
)
def test_the_option_decides(videos, by, names):
    paths = ["real/a/b/v_1.png", "real/a/b/v_2.png", "real/a/b/w_1.png", "real/7.png"]
    pictures = [Picture(path, "real", path, "") for path in paths]
    found = list(group_pictures(pictures, videos, class_folders=["real"]))
    assert [video.name for video in found] == names
    assert {video.by for video in found} <= {by, UNMATCHED}
    assert found[0].by == by


@pytest.mark.parametrize(
    "pattern",
    ["folders", "", "{video}{video}", "(.*)", "/{video}", "***{video}", "{video}" + "/*" * 8, "*"],
)
def test_what_is_no_pattern_is_refused(pattern):
    if pattern:
        with pytest.raises(ConfigError, match="is neither 'folder', 'name', 'picture', nor a patt"):
            grouped(["real/1.png"], pattern)


def test_a_pattern_that_matches_nothing_is_refused_with_an_example():
    with pytest.raises(ConfigError, match=r"matches no picture, such as 'real/1': the pattern"):
        grouped(["real/1.png"], "{video}_x")


@settings(max_examples=50)
@given(st.text("ab*{}/_.\\()[]+^$", max_size=12).map(lambda x: x + "{video}"), st.text("ab_./"))
def test_a_pattern_is_refused_or_matches_in_no_time(pattern, path):
    try:
        ways, _ = grouped([f"real/{path}.png"], pattern)
    except ConfigError:
        return
    assert ways == {PATTERN}


def test_the_worst_pattern_for_the_longest_name_is_fast():
    name = "a" * 251
    _, found = grouped([f"real/{i}/{name}.png" for i in range(20)] + ["real/ab.png"], "*{video}*b")
    assert len(found) == 21


@settings(max_examples=50)
@given(st.text("a1_./\\- ", max_size=20))
def test_any_name_has_a_video(path):
    for videos in ("", "folder", "name", "picture"):
        _, found = grouped([f"real/{path}.png", f"fake/{path}1.png"], videos)
        assert sum(map(len, found.values())) in (1, 2)
    assert list(owners(path))
    are_numbered([path])


def test_numbered_names_are_told_from_others():
    assert are_numbered(["a/1.png", "a/2.png"])
    assert are_numbered(["a/v_frame_1.png", "a/v_frame_2.png"])
    assert not are_numbered(["a/1.png", "b/2.png", "a/x.png", "a/y3.png"])


def test_a_description_counts_videos_that_have_frames():
    by_video = {"a": FOLDER, "b": FOLDER, "c": NAME, "d": NAME}
    frames = {"a": 1, "b": 2, "c": 30, "d": 0}
    assert describe(by_video, frames) == (
        "3 videos (2 by folder, 1 by name) of 1, 2, 30 frames (minimum, median, maximum)"
    )


@pytest.mark.parametrize("folder", ["", "a/", "a.png/"])
@pytest.mark.parametrize("name", [".png", "x.png", "x.PNG", "..png", "x.gif", "png", ".x.png", ""])
def test_images_are_those_that_a_search_finds(folder: str, name: str) -> None:
    """Tests a file called `.png`, which has no suffix for Python and for file managers."""
    assert is_image(folder + name) == (suffix_of(folder + name) in IMAGE_SUFFIXES)
    assert is_image(folder + name) == (name.lower() in ("x.png", ".x.png"))
