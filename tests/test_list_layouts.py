"""Lists give files, labels and videos exactly; what is wrong in one is named with its place."""

from pathlib import Path
from typing import Any

import pytest
from labelled_trees import read, refused, write_json, write_pictures


def test_list(tmp_path):
    write_pictures(
        tmp_path, ["a b/v_frame_2.png", "a b/v_frame_10.png", "c,d.png", "e.png", "f.png"]
    )
    (tmp_path / "test.txt").write_bytes(
        b"\xef\xbb\xbfa b/v_frame_10.png fake\r\n\n# a comment\n  a b/v_frame_2.png\tFake \n"
        b"c,d.png, real\n./e.png,live\n" + str(tmp_path / "f.png").encode() + b" bonafide\n"
    )
    expected = [
        ("a b/v_frame_2.png", "fake", "a b/v"),
        ("a b/v_frame_10.png", "fake", "a b/v"),
        ("c,d.png", "real", "c,d"),
        ("e.png", "real", "e"),
        ("f.png", "real", "f"),
    ]
    assert read(tmp_path, "list") == expected
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    list_file = (tmp_path / "test.txt").rename(elsewhere / "x.lst")
    assert read(tmp_path, "list", list_file=str(list_file)) == expected


def test_what_numbers_mean_in_a_list_has_to_be_said(tmp_path):
    write_pictures(tmp_path, "a.png b.png")
    (tmp_path / "test.txt").write_text("a.png 0\nb.png 1\n")
    assert "ROOT/test.txt line 1 has the class '0'" in refused(tmp_path, "list")
    for labels in ({"0": "fake", "1": "real"}, {"0": "real", "1": "fake"}):
        assert [row[1] for row in read(tmp_path, "list", labels=labels)] == [*labels.values()]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("b.png", "ROOT/test.txt line 2 has no label: 'b.png'"),
        ("my b.png", "ROOT/test.txt line 2 has the class 'b.png', which is neither"),
        ("b.png maybe", "ROOT/test.txt line 2 has the class 'maybe', which is neither"),
        ("../b.png real", "ROOT/test.txt line 2 names '../b.png'; a path may hold neither"),
        ("x/../../b.png real", "ROOT/test.txt line 2 names 'x/../../b.png'"),
        ("/x/../etc/b.png real", "ROOT/test.txt line 2 names '/x/../etc/b.png'"),
        ("b\0.png real", "ROOT/test.txt line 2 names 'b\\x00.png'"),
        ("a.png fake", "ROOT/test.txt line 2 has a as 'fake', which is 'real' in ROOT/test.txt"),
    ],
)
def test_lines_that_say_no_label_or_lead_out_are_named(tmp_path, line, said):
    write_pictures(tmp_path, "a.png")
    (tmp_path / "test.txt").write_text(f"a.png real\n{line}\n")
    assert said in refused(tmp_path, "list")


def test_a_list_that_is_not_there_is_named(tmp_path):
    assert "the list ROOT/val.txt cannot be read (No such file" in refused(tmp_path, "list", "val")


def test_deepfakebench_with_compressions(tmp_path):
    real = "FaceForensics++/original_sequences/youtube/c23/frames/000"
    fake = "FaceForensics++/manipulated_sequences/{}/c23/frames/000_003"
    folders = {"FF-real": real, "FF-DF": fake.format("Deepfakes"), "FF-FS": fake.format("FaceSwap")}
    content = {}
    for label, folder in folders.items():
        write_pictures(tmp_path, [f"{folder}/{frame}.png" for frame in ("000", "2", "10")])
        names = [rf"{folder}/{frame}.png".replace("/", "\\") for frame in ("10", "2", "000")]
        by_split = {"c23": {Path(folder).name: {"label": label, "frames": names}}, "c40": {}}
        content[label] = {"train": {}, "test": by_split}
    list_file = write_json(tmp_path / "ff.json", {"FaceForensics++": content})
    expected = [
        (f"{folders[label]}/{frame}.png", "real" if label == "FF-real" else "fake", folders[label])
        for label in ("FF-DF", "FF-FS", "FF-real")
        for frame in ("000", "2", "10")
    ]
    assert read(tmp_path, "deepfakebench", list_file=list_file) == expected
    said = refused(tmp_path, "deepfakebench", list_file=list_file, compression="raw")
    assert "FF-real/test has no 'raw'; it has 'c23', 'c40'" in said
    said = refused(tmp_path, "deepfakebench", "val", list_file=list_file)
    assert "FF-real has no 'val'; it has 'train', 'test'" in said
    said = refused(tmp_path, "deepfakebench", "train", list_file=list_file)
    assert "no image" in said


def bench(label: str, frames: Any, *, inner: Any = None) -> dict:
    """A set of one label with one video."""
    video = {"label": label if inner is None else inner, "frames": frames}
    return {"Set": {label: {"test": {"v": video}}}}


def test_deepfakebench_without_compressions(tmp_path):
    names = "real/v/1.png real/w_1.png real/w_2.png fake/v/1.png"
    write_pictures(tmp_path, names)
    real = {"v": ["real/v/1.png"], "w": ["real/w_1.png", "real/w_2.png"], "empty": []}
    content = bench("DFDC_Fake", ["fake/v/1.png"])
    videos = {key: {"label": "DFDC_Real", "frames": value} for key, value in real.items()}
    content["Set"]["DFDC_Real"] = {"test": videos}
    list_file = write_json(tmp_path / "x.json", content)
    assert read(tmp_path, "deepfakebench", list_file=list_file) == [
        ("fake/v/1.png", "fake", "fake/v"),
        ("real/v/1.png", "real", "real/v"),
        ("real/w_1.png", "real", "real/w"),
        ("real/w_2.png", "real", "real/w"),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "x.json is list, not an object"),
        ({"Set": 1}, "x.json: Set is int, not an object"),
        ({"Set": {"FF-real": "x"}}, "x.json: Set/FF-real is str, not an object"),
        ({"Set": {"FF-real": {"test": None}}}, "Set/FF-real/test is NoneType, not an object"),
        ({"Set": {"FF-real": {"test": {"v": [1]}}}}, "test has no 'c23'; it has 'v'"),
        ({"Set": {"FF-real": {"test": {"c23": 1}}}}, "FF-real/test/c23 is int, not an object"),
        ({"Set": {"FF-real": {"test": {"c23": {"v": {}}}}}}, "c23/v has no 'frames'"),
        (bench("FF-real", "a.png"), "FF-real/test/v: frames is no list of paths"),
        (bench("FF-real", ["a.png", 1]), "FF-real/test/v: frames is no list of paths"),
        (bench("FF-real", ["../a.png"]), "FF-real/test/v names '../a.png'"),
        (bench("FF-real", [r"x\..\..\a.png"]), "FF-real/test/v names 'x/../../a.png'"),
        (bench("FF-real", ["a\0.png"]), "FF-real/test/v names 'a\\x00.png'"),
        (bench("FF-real", ["\ud800.png"]), "no image of"),
        (bench("FF-real", ["a.png"], inner="FF-DF"), "label 'FF-DF' but stands under 'FF-real'"),
        (bench("FF-XX", ["a.png"]), "test/v has the class 'FF-XX', which is neither"),
        ({}, "no image of"),
    ],
)
def test_json_of_another_shape_is_named_with_its_place(tmp_path, content, said):
    write_pictures(tmp_path, "a.png")
    list_file = write_json(tmp_path / "x.json", content)
    assert said in refused(tmp_path, "deepfakebench", list_file=list_file)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a":' * 100_000, b"[" * 100_000])
@pytest.mark.parametrize("layout", ["deepfakebench", "ffpp"])
def test_what_is_no_json_is_named(tmp_path, layout, content):
    (tmp_path / "test.json").write_bytes(content)
    options = {"list_file": f"{tmp_path}/test.json"} if layout == "deepfakebench" else {}
    assert "ROOT/test.json is no JSON that can be read" in refused(tmp_path, layout, **options)
