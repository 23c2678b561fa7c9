"""Tests the files, labels and videos of lists, and errors with the place in the list."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelled_trees import read, refused, write_json, write_pictures

from fsvfm_jax.data.labelled.protocols import read_set
from fsvfm_jax.errors import ConfigError, DataError


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


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("\ud800", "which has half of a surrogate pair and can be no file's name; correct it"),
        ("v\0", "a path may hold neither '..' nor NUL"),
        ("../../b", "a path may hold neither '..' nor NUL"),
        ("..\\b", "a path may hold neither '..' nor NUL"),
        ("/etc", "a video's name is no absolute path"),
        ("v" * 4097, "names a path of 4,097 characters"),
    ],
)
def test_what_can_be_no_video_s_name_is_refused(tmp_path, key, said):
    write_pictures(tmp_path, "a/0.png b/0.png")
    videos = {"FF-real": {key: ["a/0.png"], "v": ["b/0.png"]}}
    by_label = {
        label: {"test": {one: {"label": label, "frames": names} for one, names in by_key.items()}}
        for label, by_key in videos.items()
    }
    write_json(tmp_path / "x.json", {"FF": by_label})
    assert said in refused(tmp_path, "deepfakebench", list_file="x.json")
    named = {"v.mp4": {"label": "REAL"}, f"{key}/v.mp4": {"label": "FAKE"}}
    write_json(tmp_path / "metadata.json", named)
    said = said if key != "/etc" else "names '/etc/v.mp4', which is not below ROOT"
    said = said if len(key) < 4097 else "names a path of 4,103 characters"
    assert said in refused(tmp_path, "dfdc", "")


def test_a_video_that_occurs_twice_in_metadata_is_refused(tmp_path):
    write_pictures(tmp_path, "a/0.png")
    content = '{"a.mp4": {"label": "REAL"}, "a.mp4": {"label": "FAKE"}}'
    (tmp_path / "metadata.json").write_text(content)
    said = refused(tmp_path, "dfdc", "")
    assert "metadata.json is no JSON that can be read (the key 'a.mp4' occurs twice" in said


def test_bytes_that_are_no_utf8_may_be_in_a_video_s_name(tmp_path):
    write_pictures(tmp_path, ["a/0.png", os.fsdecode(b"\xff/0.png")])
    frames = {"v": ["a/0.png"], "\udcff": ["\udcff/0.png"]}
    videos = {key: {"label": "FF-real", "frames": names} for key, names in frames.items()}
    write_json(tmp_path / "x.json", {"FF": {"FF-real": {"test": videos}}})
    faces = read_set("deepfakebench", str(tmp_path), split="test", list_file="x.json")
    assert sorted(faces.videos) == [b"a/v", b"\xff"]


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
    """Returns a set of one label with one video."""
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
        ({"set": {"a\n\x1b[2J": "no object"}}, r"x.json: set/a\n\x1b[2J is str, not an object"),
        (bench("FF-real", ["\ud800.png"]), r"v names '\ud800.png', which has half of a surrogate"),
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


def test_lists_are_read_as_spreadsheets_write_them(tmp_path):
    write_pictures(tmp_path, ["a b/1.png", "a b/2.png", "c,d.png", "e.png", "f.png"])
    (tmp_path / "test.txt").write_bytes(
        b'\xef\xbb\xbffilename,label\r\n"a b/1.png","fake"\r\n"a b\\2.png"\tfake\r\n'
        b'"c,d.png",real\r\nlive e.png\r\n1;f.png\r\n'
    )
    rows = read(tmp_path, "list", labels={"1": "real"})
    assert [row[:2] for row in rows] == [
        ("a b/1.png", "fake"),
        ("a b/2.png", "fake"),
        ("c,d.png", "real"),
        ("e.png", "real"),
        ("f.png", "real"),
    ]


def test_a_header_says_that_the_label_comes_first(tmp_path):
    write_pictures(tmp_path, "a.png b.png")
    (tmp_path / "test.txt").write_text("label,path\n1,a.png\nspoofed,b.png\n")
    labels = {"1": "real", "spoofed": "fake"}
    assert [row[:2] for row in read(tmp_path, "list", labels=labels)] == [
        ("a.png", "real"),
        ("b.png", "fake"),
    ]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("label,class", "line 1 names the columns 'label', 'class'; keep two, a path and a label"),
        ("path label split", "line 1 names the columns 'path', 'label', 'split'; keep two"),
    ],
)
def test_other_columns_are_named(tmp_path, header, said):
    (tmp_path / "test.txt").write_text(f"{header}\na.png real\n")
    assert said in refused(tmp_path, "list")


def test_frames_in_folders_that_a_list_names_are_videos(tmp_path):
    frames = [f"{x}/{i}.png" for x in ("v", "sub/w", "u", "t") for i in (1, 2, 10)]
    write_pictures(tmp_path, [*frames, "real/1.png", "real/2.png", "mixed/1.png", "mixed/2.png"])
    label = {"v": "real", "sub/w": "fake", "u": "real", "t": "fake"}
    lines = [f"{x.replace('/', chr(92))} {label[os.path.dirname(x)]}" for x in reversed(frames)]
    lines += ["real/1.png real", "real/2.png real", "mixed/1.png real", "mixed/2.png fake"]
    (tmp_path / "test.txt").write_text("\n".join(lines))
    rows = read(tmp_path, "list")
    assert [row for row in rows if row[0] in frames] == [
        (f"{x}/{i}.png", label[x], x) for x in sorted(label) for i in (1, 2, 10)
    ]
    singles = [(file, video) for file, _, video in rows if file not in frames]
    assert singles == [(f"{x}/{i}.png", f"{x}/{i}") for x in ("mixed", "real") for i in (1, 2)]


def test_a_list_may_name_videos(tmp_path):
    write_pictures(tmp_path, "a/v/1.png a/v/2.png a/w_frame_1.png b/x.mp4/7.png b/y.png b/vv.png")
    (tmp_path / "test.txt").write_text("a/v.mp4 real\na/w.avi fake\nb/x.mp4 fake\nb/z.mov real\n")
    assert read(tmp_path, "list") == [
        ("a/v/1.png", "real", "a/v.mp4"),
        ("a/v/2.png", "real", "a/v.mp4"),
        ("a/w_frame_1.png", "fake", "a/w.avi"),
        ("b/x.mp4/7.png", "fake", "b/x.mp4"),
    ]
    assert read_set("list", str(tmp_path), split="test").skipped == 1


def test_excluded_lines_are_not_looked_at(tmp_path):
    write_pictures(tmp_path, "a/v.png b/w.png")
    (tmp_path / "test.txt").write_text(
        "a/v.png real\nb/w.png fake\nYouTube-real/../x.png real\nYouTube-real\\x.png\n"
        "D:\\YouTube-real\\x.png real\nc/x.png weird\n"
    )
    rows = read(tmp_path, "list", exclude=("YouTube-real", "weird"))
    assert [row[0] for row in rows] == ["a/v.png", "b/w.png"]


PREFIXES = ["./", "../", "../../sets/rgb/", "D:\\sets\\", "/home/somebody/sets/", "datasets/rgb/"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_deepfakebench_paths_of_another_machine(tmp_path, prefix):
    names = ["FF/real/v/1.png", "FF/real/v/2.png", "FF/fake/w/1.png"]
    write_pictures(tmp_path, names)
    written = [(prefix + name).replace("/", "\\") for name in names]
    content = {"FF": {"FF-real": {"test": {"v": {"label": "FF-real", "frames": written[:2]}}}}}
    content["FF"]["FF-DF"] = {"test": {"w": {"label": "FF-DF", "frames": written[2:]}}}
    options = {"list_file": write_json(tmp_path / "x.json", content), "field": "config.data.test.A"}
    if prefix != "./":
        said = refused(tmp_path, "deepfakebench", **options)
        prefix = re.search(r"give --config\.data\.test\.A\.strip_prefix=(\S+)$", said)[1]
        options["strip_prefix"] = prefix
    rows = read(tmp_path, "deepfakebench", **options)
    assert [row[::2] for row in rows] == [
        ("FF/fake/w/1.png", "FF/fake/w"),
        ("FF/real/v/1.png", "FF/real/v"),
        ("FF/real/v/2.png", "FF/real/v"),
    ]


@pytest.mark.parametrize(
    "broken", [None, 7, [], {}, {"train": {}}, {"test": None}, {"test": {"v": {"frames": None}}}]
)
def test_what_is_excluded_of_json_may_be_broken(tmp_path, broken):
    write_pictures(tmp_path, "a/v/1.png")
    content = bench("FF-real", ["a/v/1.png"])
    content["Set"]["FF-XX"] = broken
    content["Other"] = broken
    content["Set"]["FF-DF"] = {"test": {"w": {"label": "FF-DF", "frames": ["../YouTube/w/1.png"]}}}
    list_file = write_json(tmp_path / "x.json", content)
    exclude = ("FF-XX", "Other", "YouTube")
    rows = read(tmp_path, "deepfakebench", list_file=list_file, exclude=exclude)
    assert [row[0] for row in rows] == ["a/v/1.png"]


CELEB = "1 YouTube-real/00170.mp4\n1 Celeb-real/id1_0007.mp4\n0 Celeb-synthesis/id1_id0_0007.mp4\n"


@pytest.mark.parametrize(
    ("frame", "options"),
    [
        ("{folder}/{video}/{i:03d}.png", {}),
        ("{folder}/{video}_frame_{i}.png", {}),
        ("{folder}/{video}_{i:03d}.png", {}),
        ("{folder}/{video}.mp4/{i}.png", {}),
        ("{folder}/frames/{video}/{i}.png", {"frames_folder": "frames"}),
    ],
)
def test_celebdf(tmp_path, frame, options):
    videos = ["Celeb-real/id1_0007", "Celeb-synthesis/id1_id0_0007", "YouTube-real/00170"]
    # The list does not contain the training split.
    for video in [*videos, "Celeb-real/id1_0000", "YouTube-real/0017"]:
        folder, name = video.split("/")
        names = [frame.format(folder=folder, video=name, i=i) for i in (1, 2, 10)]
        write_pictures(tmp_path, names)
    (tmp_path / "List_of_testing_videos.txt").write_text(CELEB)
    rows = read(tmp_path, "celebdf", **options)
    assert [(label, video) for _, label, video in rows] == [
        (label, f"{video}.mp4")
        for video, label in zip(videos, ("real", "fake", "real"), strict=True)
        for _ in range(3)
    ]
    numbers = [int(re.findall("[0-9]+", file)[-1]) for file, _, _ in rows]
    assert numbers == [1, 2, 10] * 3
    rows = read(tmp_path, "celebdf", exclude=("YouTube-real",), **options)
    assert {row[2] for row in rows} == {f"{video}.mp4" for video in videos[:2]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 Celeb-real/x.mp4", "line 1 has the label 0, which is fake, for a video in Celeb-real"),
        ("Celeb-real/x.mp4 1", "not a label and a video such as '1 YouTube-real/00170.mp4'"),
        ("2 Celeb-real/x.mp4", "not a label and a video such as"),
        ("1 x.mp4", "not a label and a video such as"),
        ("1 ../Celeb-real/x.mp4", "names '../Celeb-real/x.mp4'"),
        ("1 Celeb-real/x.mp4", "0 frames are not there and 1 videos have none, first Celeb-real/x"),
    ],
)
def test_lines_that_are_not_celebdfs_are_named(tmp_path, line, said):
    (tmp_path / "List_of_testing_videos.txt").write_text(line)
    assert said in refused(tmp_path, "celebdf")


def test_celebdf_has_a_list_of_the_test_split_alone(tmp_path):
    with pytest.raises(ConfigError, match="split is 'train', and the list of the layout 'celebdf'"):
        read_set("celebdf", str(tmp_path), split="train")


DFDC = {
    "abc.mp4": {"label": "FAKE", "split": "train", "original": "def.mp4"},
    "def.mp4": {"label": "REAL", "split": "train", "original": None},
    "ghi.mp4": {"label": "REAL", "split": "test"},
}


@pytest.mark.parametrize("frame", ["{}/1.png", "{}_frame_1.png", "{}.mp4/1.png", "faces/{}/1.png"])
@pytest.mark.parametrize("parts", [[""], ["dfdc_train_part_0/", "dfdc_train_part_1/"]])
def test_dfdc(tmp_path, frame, parts):
    options = {"frames_folder": "faces"} if frame.startswith("faces") else {}
    for part in parts:
        write_pictures(tmp_path, [part + frame.format(x) for x in ("abc", "def", "ghi", "other")])
        write_json(tmp_path / part / "metadata.json", DFDC)
    (tmp_path / "notes").mkdir()
    rows = read(tmp_path, "dfdc", "train", **options)
    assert rows == [
        (part + frame.format(name), label, f"{part}{name}.mp4")
        for part in parts
        for name, label in (("abc", "fake"), ("def", "real"))
    ]
    assert len(read(tmp_path, "dfdc", "", **options)) == 3 * len(parts)
    rows = read(tmp_path, "dfdc", "", exclude=("FAKE",), **options)
    assert {row[1] for row in rows} == {"real"}
    said = refused(tmp_path, "dfdc", "val", **options)
    assert "no video of the split 'val' in metadata.json; it has 'test', 'train'" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "metadata.json is NoneType, not an object"),
        ([], "metadata.json is list, not an object"),
        ({"a.mp4": None}, "metadata.json: a.mp4 is NoneType, not an object"),
        ({"a.mp4": {}}, "metadata.json: a.mp4 has no 'label'"),
        ({"a.mp4": {"label": 1}}, "metadata.json: a.mp4: label and split are no texts"),
        ({"a.mp4": {"label": "FAKE", "split": None}}, "a.mp4: label and split are no texts"),
        ({"../a.mp4": {"label": "FAKE"}}, "../a.mp4 names '../a.mp4'"),
        ({"/etc/a.mp4": {"label": "FAKE"}}, "/etc/a.mp4 names '/etc/a.mp4', which is not below"),
        ({"a.mp4": {"label": "MAYBE"}}, "has the class 'MAYBE', which is neither"),
    ],
)
def test_metadata_of_another_shape_is_named_with_its_place(tmp_path, content, said):
    write_json(tmp_path / "metadata.json", content)
    assert said in refused(tmp_path, "dfdc")


NAMES = st.sampled_from(
    ["a.mp4", "FF-real", "FF-DF", "test", "c23", "label", "split", "frames", "../x", "\\", "\0", ""]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
LIST_OF = {"deepfakebench": "x.json", "dfdc": "metadata.json", "ffpp": "test.json"}


@pytest.mark.parametrize("layout", LIST_OF)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(content=JSON, depth=st.integers(0, 4))
def test_any_json_is_read_or_refused_in_one_sentence(tmp_path, layout, content, depth):
    for name in ("test", "FF-real", "Set", "Other")[:depth]:
        content = {name: content}
    write_json(tmp_path / LIST_OF[layout], content)
    options = {"list_file": "x.json"} if layout == "deepfakebench" else {}
    assert refused(tmp_path, layout, **options)


PARTS = [
    b"a.png",
    b"v.mp4",
    b"real",
    b"fake",
    b"0",
    b"1",
    b" ",
    b",",
    b"\t",
    b"\n",
    b"\r",
    b'"',
    b"#",
]
PARTS += [b"..", b"/", b"\\", b"\0", b"\xff", b"\xfe", b"C:", b";", b"x/", b"label"]


@pytest.mark.parametrize("layout", ["list", "celebdf", "fas"])
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(content=st.lists(st.sampled_from(PARTS), max_size=16).map(b"".join))
def test_any_text_is_read_or_refused_in_one_sentence(tmp_path, layout, content):
    if not (tmp_path / "txt").exists():
        write_pictures(tmp_path, "a.png v/1.png frame/s/test/real/a.png frame/s/test/fake/v_1.png")
        (tmp_path / "txt").mkdir()
    for name in ("test.txt", "List_of_testing_videos.txt", "txt/s_real_test.txt"):
        (tmp_path / name).write_bytes(content)
    try:
        faces = read_set(layout, str(tmp_path), split="test", subset="s" if layout == "fas" else "")
    except DataError as error:
        assert str(tmp_path) in str(error) or "no image of" in str(error)
        return
    for file in faces.files:
        assert os.path.realpath(os.fsdecode(file)).startswith(f"{os.path.realpath(tmp_path)}/")
