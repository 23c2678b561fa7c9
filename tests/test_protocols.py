"""Tests that sets have one order everywhere, and that nothing is guessed or silently lost."""

import logging
import os
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelled_trees import read, write_json, write_pictures

from fsvfm_jax.data.labelled.faces import LabelledFaces, overlap
from fsvfm_jax.data.labelled.protocols import read_set
from fsvfm_jax.errors import ConfigError, DataError


def test_a_list_is_ready_to_read_from(tmp_path):
    write_pictures(tmp_path / "Set/test", "real/a.png fake/a.png")
    faces = read_set("folder", str(tmp_path / "Set"), split="test")
    assert (faces.name, faces.skipped) == ("Set", 0)
    assert faces.files.dtype.kind == faces.videos.dtype.kind == "S"
    assert faces.labels.dtype == np.int8
    source = LabelledFaces(faces)
    assert [face["label"] for face in source] == [0, 1]
    assert read_set("folder", str(tmp_path / "Set"), split="test", name="S2").name == "S2"


def test_the_order_is_the_same_whatever_the_file_system_says(tmp_path, monkeypatch):
    names = [
        f"{label}/{video}_frame_{i}.png"
        for label in ("real", "fake")
        for video in "bca"
        for i in (1, 2, 10)
    ]
    write_pictures(tmp_path, names)
    rows = read(tmp_path, "folder", "")
    numbers = [int(file.split("_")[-1][:-4]) for file, _, _ in rows]
    assert numbers == [1, 2, 10] * 6
    walk = os.walk

    def shuffled(*args, **options):
        for parent, folders, files in walk(*args, **options):
            random.Random(0).shuffle(files)
            yield parent, folders, files

    monkeypatch.setattr(os, "walk", shuffled)
    assert read(tmp_path, "folder", "") == rows


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(
    lines=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12)), min_size=1, max_size=30)
)
def test_a_list_in_any_order_with_repetitions_is_one_set(tmp_path, lines):
    frames = sorted(set(lines))
    write_pictures(tmp_path, [f"{video}_frame_{i}.png" for video, i in frames])
    label = {"a": "real", "b": "fake"}
    text = [f"{video}_frame_{i}.png {label[video]}\n" for video, i in lines]
    (tmp_path / "test.txt").write_text("".join(text))
    assert read(tmp_path, "list") == [(f"{v}_frame_{i}.png", label[v], v) for v, i in frames]


def test_the_same_names_in_different_classes_do_not_merge(tmp_path):
    names = [f"{label}/v_frame_{i}.png" for label in ("real", "fake") for i in range(4)]
    write_pictures(tmp_path, names)
    assert read(tmp_path, "folder", "", frames=2) == [
        (f"{label}/v_frame_{i}.png", label, f"{label}/v")
        for label in ("fake", "real")
        for i in (0, 3)
    ]
    (tmp_path / "test.txt").write_text("".join(f"{x} {x.split('/')[0]}\n" for x in names))
    assert {row[1:] for row in read(tmp_path, "list")} == {("fake", "fake/v"), ("real", "real/v")}


def test_real_videos_may_keep_another_number_of_frames(tmp_path):
    names = [f"{label}/v_frame_{i}.png" for label in ("real", "fake") for i in range(10)]
    write_pictures(tmp_path, names)
    kept = read(tmp_path, "folder", "", frames=2, real_frames=4)
    assert [row[0] for row in kept] == [f"fake/v_frame_{i}.png" for i in (0, 9)] + [
        f"real/v_frame_{i}.png" for i in (0, 3, 6, 9)
    ]
    assert len(read(tmp_path, "folder", "", frames=2, real_frames=0)) == 12


def bench_list(root, by_label):
    """Writes a DeepfakeBench list of frames by video by label."""
    content = {
        label: {"test": {key: {"label": label, "frames": names} for key, names in videos.items()}}
        for label, videos in by_label.items()
    }
    return write_json(root / "x.json", {"FF": content})


def test_a_picture_of_two_labels_is_refused_with_both_videos(tmp_path):
    write_pictures(tmp_path, "a/0.png a/1.png")
    by_label = {"FF-real": {"v": ["a/1.png", "a/0.png"]}, "FF-DF": {"w": ["a/0.png"]}}
    list_file = bench_list(tmp_path, by_label)
    with pytest.raises(DataError) as error:
        read(tmp_path, "deepfakebench", list_file=list_file)
    assert str(error.value) == (
        f"{list_file}: FF/FF-DF/test/w has {tmp_path}/a/0.png in the video 'a/w': it would be a"
        " face of the fake video 'a/w' and of the real video 'a/v'; correct one of them"
    )


def test_pictures_in_two_videos_of_a_label_are_counted_once(tmp_path, caplog):
    write_pictures(tmp_path, "a/0.png a/1.png a/2.png")
    videos = {"v": ["a/1.png", "a/0.png"], "w": ["a/0.png", "a/1.png", "a/2.png"]}
    list_file = bench_list(tmp_path, {"FF-real": videos, "FF-DF": {}})
    assert len(read(tmp_path, "deepfakebench", list_file=list_file)) == 5
    assert caplog.messages == [
        f"{tmp_path.name}: 2 pictures are in several videos, and count in each:"
        f" '{tmp_path}/a/0.png', '{tmp_path}/a/1.png'"
    ]


def test_what_is_named_but_not_there_is_counted_and_told_once(tmp_path, caplog):
    write_pictures(tmp_path, "v/2.png v/5.png")
    frames = [f"v/{i}.png" for i in range(6)]
    videos = {"v": {"label": "FF-real", "frames": frames}, "w": {"label": "x", "frames": []}}
    list_file = write_json(tmp_path / "x.json", {"FF": {"FF-real": {"test": videos}}})
    with caplog.at_level(logging.INFO):
        faces = read_set(
            "deepfakebench", str(tmp_path), split="test", name="FF", list_file=list_file
        )
    assert [os.path.basename(file) for file in faces.files] == [b"2.png", b"5.png"]
    assert faces.skipped == 5
    assert caplog.messages == [
        f"FF: frames that are named but not there: 4, first '{tmp_path}/v/0.png'",
        "FF: videos without a frame: 1, first 'FF-real/w'",
    ]


def test_a_set_of_which_nothing_is_there_is_refused_with_the_first_name(tmp_path):
    (tmp_path / "test.txt").write_text("a.png real\nb.png fake\n")
    said = f"2 frames are not there and 0 videos have none, first {tmp_path}/a.png; see whether"
    with pytest.raises(DataError, match=said):
        read(tmp_path, "list")
    (tmp_path / "test.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="0 frames are not there and 0 videos have none; see"):
        read(tmp_path, "list")


def test_classes_and_folders_are_left_out_by_name(tmp_path):
    write_pictures(tmp_path, "Celeb-real/a/1.png YouTube-real/b/1.png Celeb-synthesis/c/1.png")
    content = {
        "CelebDFv2_real": {"a": ["Celeb-real/a/1.png"], "b": ["YouTube-real/b/1.png"]},
        "CelebDFv2_fake": {"c": ["Celeb-synthesis/c/1.png"]},
    }
    by_label = {
        label: {"test": {key: {"label": label, "frames": names} for key, names in videos.items()}}
        for label, videos in content.items()
    }
    list_file = write_json(tmp_path / "x.json", {"Celeb-DF-v2": by_label})

    def videos(exclude):
        rows = read(tmp_path, "deepfakebench", list_file=list_file, exclude=exclude)
        return [video for _, _, video in rows]

    assert videos(()) == ["Celeb-real/a", "Celeb-synthesis/c", "YouTube-real/b"]
    assert videos(("YouTube-real",)) == ["Celeb-real/a", "Celeb-synthesis/c"]
    assert videos(("YouTube-real", "CelebDFv2_fake")) == ["Celeb-real/a"]
    known = "'Celeb-real', 'Celeb-synthesis', 'CelebDFv2_fake', 'CelebDFv2_real', 'YouTube-real'"
    with pytest.raises(DataError, match=rf"called 'Youtube-real', .* there is {known}$"):
        videos(("Youtube-real",))
    names = read(tmp_path, "folder", "", exclude=("YouTube-real",))
    assert [row[0] for row in names] == ["Celeb-real/a/1.png", "Celeb-synthesis/c/1.png"]


def test_an_unknown_class_is_mended_by_saying_what_it_is_or_by_leaving_it_out(tmp_path):
    write_pictures(tmp_path, "real/a.png print/a.png replay/a.png fake/a.png")
    with pytest.raises(
        DataError, match=r"'print', which is .* of 'fake', 'print', 'real', 'replay'"
    ):
        read(tmp_path, "folder", "")
    mended = read(tmp_path, "folder", "", labels={"print": "fake"}, exclude=("replay",))
    assert [row[1:] for row in mended] == [
        ("fake", "fake/a"),
        ("fake", "print/a"),
        ("real", "real/a"),
    ]
    with pytest.raises(ConfigError, match="labels says that 'print' is 'spoof'; it can be"):
        read(tmp_path, "folder", "", labels={"print": "spoof"})


def test_what_is_said_of_a_name_goes_before_what_it_says_itself(tmp_path):
    write_pictures(tmp_path, "live/a.png replay_live/a.png")
    rows = read(tmp_path, "folder", "", labels={"replay_live": "fake"})
    assert [row[1] for row in rows] == ["real", "fake"]


@pytest.mark.parametrize(
    ("layout", "options", "said"),
    [
        ("foldr", {}, "there is no layout 'foldr'; did you mean 'folder'?"),
        (
            "folder",
            {"compression": "c23"},
            "compression = 'c23' is no option of the layout 'folder', but of 'deepfakebench' and"
            " 'ffpp': its options are videos; leave it empty, or set layout",
        ),
        (
            "ffpp",
            {"comp": "c23"},
            "comp = 'c23' is no option of the layout 'ffpp': its options are compression,"
            " frames_folder, methods",
        ),
        (
            "dfdc",
            {"subset": "x", "field": "config.data.test.A"},
            "config.data.test.A.subset = 'x' is no option of the layout 'dfdc', but of 'fas' and"
            " 'diff': its options are list_file, frames_folder; leave it empty, or set"
            " config.data.test.A.layout",
        ),
        ("folder", {"frames": -1}, "frames is -1 and real_frames None; give 0 (all frames) or"),
        ("folder", {"real_frames": -1}, "frames is 0 and real_frames -1; give 0 (all frames) or"),
        ("fas", {}, "needs subset: set it; its options are subset, videos"),
        ("deepfakebench", {}, "needs list_file: set it; its options are list_file, compression"),
        ("fas", {"field": "config.data.val.X"}, "'fas' needs config.data.val.X.subset: set it"),
        ("list", {"split": ""}, "name a split or a list_file"),
    ],
)
def test_layouts_and_options_that_do_not_exist_or_make_no_sense_are_named(
    tmp_path, layout, options, said
):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, layout, **options)
    assert said in str(error.value)


def test_empty_options_are_not_given(tmp_path):
    write_pictures(tmp_path, "real/a.png fake/a.png")
    # A config has tuples, and a run's JSON has lists.
    for nothing in ((), []):
        empty = {"list_file": "", "videos": "", "methods": nothing, "exclude": nothing}
        assert len(read(tmp_path, "folder", "", **empty)) == 2


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=f"^{tmp_path}/none does not exist"):
        read(tmp_path / "none", "folder")


def test_frames_that_are_taken_for_videos_are_reported(tmp_path, caplog):
    write_pictures(tmp_path, "real/000.png real/001.png fake/000.png")
    for frames in (32, 0):
        caplog.clear()
        read_set("folder", str(tmp_path), split="", frames=frames)
        assert "each of its 3 videos has one frame, although names are numbered" in caplog.text
    caplog.clear()
    read_set("folder", str(tmp_path), split="", frames=32, videos="picture")
    write_pictures(tmp_path, "real/u_frame_0.png real/u_frame_1.png")
    read_set("folder", str(tmp_path), split="", frames=32)
    read_set("folder", str(tmp_path), split="", frames=1)
    assert not caplog.records


def test_splits_that_share_a_video_overlap(tmp_path):
    write_pictures(tmp_path / "train", "real/v_frame_1.png fake/w_frame_1.png")
    write_pictures(tmp_path / "val", "real/v_frame_9.png fake/x_frame_1.png")
    train, val = (read_set("folder", str(tmp_path), split=split) for split in ("train", "val"))
    assert overlap(train, val) == ["real/v"]
