"""Tests sets by name and root, sets joined for training, and errors in sets."""

import logging

import numpy as np
import pytest
from labelled_trees import write_pictures
from ml_collections import ConfigDict

from configs.transfer import face_set, rendered_set
from fsvfm_jax.data.labelled.detection_sets import (
    join_for_training,
    labels_of,
    open_sets,
    warn_of_common_videos,
)
from fsvfm_jax.data.labelled.layouts import LAYOUTS
from fsvfm_jax.data.labelled.set_options import options_of
from fsvfm_jax.data.pipeline import make_iterator
from fsvfm_jax.errors import ConfigError, DataError


def opened(sets, *paths):
    return open_sets(ConfigDict(sets), [str(path) for path in paths], image_size=16)


def test_a_set_is_read_under_every_root_that_has_it(tmp_path, caplog):
    write_pictures(tmp_path / "a/x", "real/v_frame_0.png fake/v_frame_0.png")
    write_pictures(tmp_path / "b/x", "real/v_frame_0.png fake/w_frame_0.png")
    write_pictures(tmp_path / "c", "unused.png")
    with caplog.at_level(logging.INFO, "fsvfm_jax"):
        sets = opened({"x": face_set("folder", "x")}, *(tmp_path / name for name in "abc"))
    faces = sets["x"]
    assert len(faces) == 4 and sorted(labels_of(faces)) == [0, 0, 1, 1]
    assert len({faces.video(index) for index in range(4)}) == 4  # every video `v` is counted apart
    # The places of the roots make no difference.
    (tmp_path / "moved").mkdir()
    for name in "abc":
        (tmp_path / name).rename(tmp_path / "moved" / name)
    moved = opened({"x": face_set("folder", "x")}, *(tmp_path / "moved" / name for name in "abc"))
    assert moved["x"].fingerprint() == faces.fingerprint()
    assert "set x: 4 images of 4 videos, 2 fake, 2 real; 0 skipped" in caplog.text
    each = "2 videos (2 by name) of 1, 1, 1 frames (minimum, median, maximum)"
    assert f"0 skipped; on disk: {each}; {each}" in caplog.text


def test_one_root_names_no_root_in_its_videos(tmp_path):
    write_pictures(tmp_path / "a/x", "real/v_frame_0.png fake/v_frame_0.png")
    faces = opened({"x": face_set("folder", "x")}, tmp_path / "a")["x"]
    assert {faces.video(index) for index in range(2)} == {"real/v", "fake/v"}


def test_a_set_under_no_root_is_named(tmp_path):
    with pytest.raises(DataError, match=r"the set x \(folder\) lies under none of .*: there is no"):
        opened({"x": face_set("folder", "missing")}, tmp_path)


def test_options_of_another_layout_and_missing_ones_name_the_field_to_set(tmp_path):
    (tmp_path / "x").mkdir()
    sets = {"x": face_set("folder", "x", list_file="x.json")}
    with pytest.raises(ConfigError) as error:
        open_sets(ConfigDict(sets), [str(tmp_path)], image_size=16, field="config.data.test")
    assert str(error.value) == (
        "config.data.test.x.list_file = 'x.json' is no option of the layout 'folder', but of"
        " 'list' and 'lists' and 'deepfakebench' and 'celebdf' and 'dfdc': its options are videos;"
        " leave it empty, or set config.data.test.x.layout"
    )
    sets["x"].update(layout="fas", list_file="")
    with pytest.raises(ConfigError, match=r"'fas' needs config\.data\.test\.x\.subset: set it"):
        open_sets(ConfigDict(sets), [str(tmp_path)], image_size=16, field="config.data.test")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": (("0",),)}, r"^config.data.x.labels = \(\('0',\),\): give pairs of a class's"),
        ({"labels": (0,)}, r"^config.data.x.labels = \(0,\): give pairs"),
        ({"exclude": "fake"}, r"^config.data.x.exclude = 'fake' is no tuple .* give \('fake',\)$"),
    ],
)
def test_labels_and_names_of_another_type_are_named(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        opened({"x": face_set("folder", **options)}, tmp_path)


@pytest.mark.parametrize("layout", ["folder", "list", "fas", "diff"])
@pytest.mark.parametrize("videos", ["{video", "{video}/nowhere/*"])
def test_a_pattern_of_videos_that_is_none_names_the_field(tmp_path, layout, videos):
    classes = [f"{label}/v_{i}.png" for label in ("real", "fake") for i in range(2)]
    folders = ("x", "x/frame/s/test", "x/test_subsets/s/test")
    write_pictures(tmp_path, [f"{folder}/{one}" for folder in folders for one in classes])
    (tmp_path / "x/test.txt").write_text("".join(f"{x} {x[:4]}\n" for x in classes))
    options = {"subset": "s"} if layout in ("fas", "diff") else {}
    split = "frame/s/test" if layout == "folder" else "test"
    with pytest.raises(ConfigError, match=r"^config\.data\.x\.videos = '\{video.* (is|matches) n"):
        opened({"x": face_set(layout, "x", split=split, videos=videos, **options)}, tmp_path)


def test_every_option_of_a_layout_is_a_field_that_a_flag_can_set():
    fields = face_set("folder")
    options = {name for layout in LAYOUTS for name in options_of(layout)}
    assert set(fields) >= options > {"videos", "list_file"}
    assert not any(fields[name] for name in options)


def test_lists_may_name_files_in_every_root_of_the_config(tmp_path):
    write_pictures(tmp_path, "a/x/v.png b/w.png c/w.png")
    for root, is_known in {"b": True, "c": False}.items():
        lines = f"v.png real\n{tmp_path}/{root}/w.png fake\n"
        (tmp_path / "a/x/all.txt").write_text(lines)
        sets = {"x": face_set("list", "x", split="all")}
        if is_known:
            assert len(opened(sets, tmp_path / "a", tmp_path / "b")["x"]) == 2
        else:
            with pytest.raises(DataError, match=r"line 2 names .*/c/w.png', which is not below"):
                opened(sets, tmp_path / "a", tmp_path / "b")


def test_unknown_options_of_a_rendered_set_are_named():
    said = (
        r"^config\.data\.x\.colour = 1 is no option of the layout 'rendered': its options are name,"
        r" seed, videos, frames; remove it$"
    )
    with pytest.raises(ConfigError, match=said):
        opened({"x": rendered_set("swap-a", "train", videos=2).to_dict() | {"colour": 1}})
    with pytest.raises(ConfigError, match="swap-a"):
        opened({"x": rendered_set("swap-z", "train", videos=2)})


def test_a_missing_class_is_named(tmp_path):
    write_pictures(tmp_path / "a", "real/v.png fake/v.png")
    write_pictures(tmp_path / "b", "real/v.png real/w.png")
    (tmp_path / "b/fake").mkdir()
    for name in "ab":
        write_pictures(tmp_path / name, "real/u.png")
    sets = {name: face_set("list", name, split="all") for name in "ab"}
    (tmp_path / "a/all.txt").write_text("real/v.png real\nfake/v.png fake\n")
    (tmp_path / "b/all.txt").write_text("real/v.png real\nreal/w.png real\n")
    both = opened(sets, tmp_path)
    assert len(join_for_training(both, balanced=False)) == 4
    with pytest.raises(DataError, match=r"^b: no fake face, .* of every set"):
        join_for_training(both, balanced=True)
    with pytest.raises(DataError, match=r"^b: no fake face, and training needs both classes:"):
        join_for_training({"b": both["b"]}, balanced=False)


def test_balanced_batches_hold_as_many_of_each_set_and_class():
    sets = opened(
        {
            "m": rendered_set("cam-m", "train", videos=4, frames=1),
            "c": rendered_set("cam-c", "train", videos=10, frames=1),
        }
    )
    source = join_for_training(sets, balanced=True)
    assert len(source.sizes) == 4
    batches = make_iterator(
        source, element=_place, global_batch_size=12, seed=0, weights=(1,) * len(source.sizes)
    )
    for _ in range(3):
        batch = next(batches)
        assert batch["label"].sum() == 6
    batches.close()
    names = [source.name(index) for index in range(len(source))]
    assert len(set(names)) == len(names) == 14


def _place(face, key):
    return {"label": np.int32(face["label"])}


def test_videos_that_are_trained_on_and_tested_are_counted(tmp_path, caplog):
    write_pictures(tmp_path / "train", "real/v.png fake/v.png")
    write_pictures(tmp_path / "test", "real/v.png fake/w.png")
    splits = {"a": "train", "b": "test"}
    sets = opened({name: face_set("folder", split=x) for name, x in splits.items()}, tmp_path)
    with caplog.at_level(logging.WARNING, "fsvfm_jax"):
        warn_of_common_videos([sets["a"]], [sets["b"]], use="is trained on")
    assert "1 videos of b seem to be in a too" in caplog.text
