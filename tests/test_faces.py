"""Tests labelled faces: labels from names, thinning with both ends, and reports of bad faces."""

import hashlib
import logging
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fsvfm_jax.data.labelled.faces import (
    FAKE,
    LABELS,
    REAL,
    FaceList,
    LabelledFaces,
    label_of,
    overlap,
    thin,
    warn_of_overlap,
)
from fsvfm_jax.errors import DataError


def face_list(
    rows: Sequence[tuple[str, int, str]], *, name: str = "set", folder: str = "set"
) -> FaceList:
    """Returns faces from a list of (file, label, video)."""
    files, labels, videos = zip(*rows, strict=True)
    return FaceList(
        name=name,
        files=np.array([os.fsencode(file) for file in files]),
        labels=np.array(labels, np.int8),
        videos=np.array([os.fsencode(video) for video in videos]),
        skipped=0,
        folders=(folder,),
    )


def write_faces(root: Path, names: Sequence[str]) -> FaceList:
    """Writes pictures with their number as grey level, in folders by class, each its own video."""
    rows = []
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4 + number, 3), (number,) * 3).save(file)
        rows.append((str(file), LABELS.index(name.split("/")[0]), name.removesuffix(".png")))
    return face_list(rows, name=root.name)


def test_the_logits_order_is_fake_then_real():
    assert LABELS == ("fake", "real")
    assert (FAKE, REAL) == (0, 1)


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (REAL, "real Real REAL live bonafide bona_fide 0_real 1_real FF-real CelebDFv2_real"),
        (REAL, "DFDC_Real YouTube-real Celeb-real DF_real"),
        (FAKE, "fake Fake spoof ATTACK 1_fake 0_fake CelebDFv2_fake DFDC_Fake DFDCP_FakeA"),
        (FAKE, "FF-DF FF-F2F FF-FS FF-NT FF-SH FF-FH Deepfakes NeuralTextures Celeb-synthesis"),
        (None, "0 1 reel unreal surreal fakery real_fake live-attack train 真 _ DF FS"),
    ],
)
def test_a_class_is_known_by_its_name_alone(label, names):
    assert {name: label_of(name) for name in names.split()} == dict.fromkeys(names.split(), label)


def test_faces_are_in_the_lists_order_and_pixels_are_as_stored(tmp_path):
    source = LabelledFaces(write_faces(tmp_path, ["real/0.png", "fake/1.png", "real/2.png"]))
    assert (len(source), source.skipped) == (3, source.faces.skipped)
    read = source.read([2, 1, 0])
    assert [face["label"] for face in read] == [REAL, FAKE, REAL]
    assert [face["image"].shape for face in read] == [(3, n, 3) for n in (6, 5, 4)]
    assert [int(face["image"].max()) for face in read] == [2, 1, 0]
    assert type(read[0]["label"]) is int
    assert source.name(1) == str(tmp_path / "fake/1.png")
    assert (source.label(2), source.video(2)) == (REAL, "real/2")
    assert source.stats() is None
    with pytest.raises(IndexError):
        source[3]


def test_workers_get_a_small_copy_that_reads_the_same(tmp_path):
    rows = [
        (f"/data/a/real/video_{i:06d}_frame_1.png", 1, f"real/video_{i:06d}") for i in range(10000)
    ]
    big = LabelledFaces(face_list(rows))
    assert len(pickle.dumps(big)) < 70 * len(big)
    source = LabelledFaces(write_faces(tmp_path, ["real/0.png", "fake/ä \udcff.png"]))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint() == source.fingerprint()
    for index in range(2):
        np.testing.assert_array_equal(copy[index]["image"], source[index]["image"])


def test_the_fingerprint_hangs_on_names_and_labels_but_not_on_where_the_root_lies(tmp_path):
    def fingerprint(root: str, rows: Sequence[tuple[str, int, str]]) -> str:
        rows = [(f"{root}/{file}", label, video) for file, label, video in rows]
        return LabelledFaces(face_list(rows)).fingerprint()

    rows = [("v_frame_1.png", 1, "v"), ("v_frame_2.png", 1, "v"), ("w_frame_1.png", 0, "w")]
    expected = fingerprint("/data", rows)
    assert expected == fingerprint("elsewhere", rows)
    others = [
        rows[:2],
        rows[::-1],
        [("v_frame_1.png", 0, "v"), *rows[1:]],
        [("v_frame_3.png", 1, "v"), *rows[1:]],
        [("v_frame_1.png", 1, "x"), *rows[1:]],
    ]
    prints = {fingerprint("/data", other) for other in others}
    assert len(prints | {expected}) == len(others) + 1
    assert len(expected) == len(hashlib.sha256().hexdigest())


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    faces = write_faces(tmp_path, ["real/0.png"])
    file = tmp_path / "real/0.png"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=rf"^image {file} cannot be read \(.*\); replace it"):
        LabelledFaces(faces)[0]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(0, 45),
    st.none() | st.integers(0, 45),
)
def test_thinning_keeps_evenly_spaced_frames_from_the_first_to_the_last(counts, most, most_real):
    rows = [
        (f"v{video}_frame_{frame}.png", video % 2, f"v{video}")
        for video, count in enumerate(counts)
        for frame in range(count)
    ]
    thinned = thin(face_list(rows), most, per_real_video=most_real)
    kept = [file.decode() for file in thinned.files]
    assert kept == [row[0] for row in rows if row[0] in kept]
    for video, count in enumerate(counts):
        wanted = most_real if video % 2 and most_real is not None else most
        rows_of = thinned.videos == f"v{video}".encode()
        frames = [int(x.decode().split("_")[2][:-4]) for x in thinned.files[rows_of]]
        assert len(frames) == min(count, wanted or count)
        assert frames[0] == 0
        assert len(frames) == 1 or frames[-1] == count - 1
        gaps = np.diff(frames)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1
        assert set(thinned.labels[rows_of]) == {video % 2}


def test_thinning_tells_apart_what_lies_mixed():
    rows = [(f"{'ab'[i % 2]}{i}.png", 0, "ab"[i % 2]) for i in range(10)]
    assert [x.decode() for x in thin(face_list(rows), 2).files] == [
        "a0.png",
        "b1.png",
        "a8.png",
        "b9.png",
    ]


def test_sets_overlap_in_what_is_called_alike_or_is_the_same_file(tmp_path, caplog):
    train = write_faces(tmp_path / "train", ["real/0.png", "real/1.png", "fake/0.png"])
    test = write_faces(tmp_path / "test", ["fake/5.png", "fake/1.png", "fake/2.png", "real/0.png"])
    assert overlap(train, test) == ["real/0"]
    linked = tmp_path / "test/fake/1.png"
    linked.unlink()
    linked.symlink_to("../../train/real/1.png")
    assert overlap(train, test) == ["fake/1", "real/0"]
    with caplog.at_level(logging.WARNING):
        warn_of_overlap(train, test)
    assert "2 videos of test seem to be in train too" in caplog.text
    assert "fake/1, real/0" in caplog.text


def test_one_name_in_two_sets_is_no_overlap():
    rows = [("a/real/0.png", REAL, "real/0"), ("a/fake/0.png", FAKE, "fake/0")]
    elsewhere = [(f"b/{file}", label, video) for file, label, video in rows]
    assert overlap(face_list(rows), face_list(elsewhere)) == ["fake/0", "real/0"]
    assert overlap(face_list(rows), face_list(elsewhere, folder="other")) == []


def test_a_linked_folder_is_the_same_set_and_other_sets_raise_no_alarm(tmp_path, caplog):
    train = write_faces(tmp_path / "train", ["real/0.png", "fake/1.png"])
    (tmp_path / "linked").symlink_to("train")
    rows = [(f"{tmp_path}/linked/real/0.png", REAL, "x/real/0")]
    assert overlap(train, face_list(rows)) == ["x/real/0"]
    other = write_faces(tmp_path / "other", ["real/7.png"])
    with caplog.at_level(logging.WARNING):
        warn_of_overlap(train, other)
    assert not caplog.records
