"""Tests that files, labels and videos of every layout are found, and that the rest is named."""

import inspect
import re
from pathlib import Path

import pytest
from labelled_trees import contents, read, refused, write_json, write_pictures

from fsvfm_jax.data.labelled import layouts
from fsvfm_jax.data.labelled.layouts import FF_METHODS, LAYOUTS
from fsvfm_jax.data.labelled.protocols import read_set
from fsvfm_jax.data.labelled.set_root import Excluded, SetRoot, walk_pictures
from fsvfm_jax.errors import ConfigError, DataError


@pytest.mark.parametrize("split", ["test", ""])
def test_folder(tmp_path, split):
    write_pictures(
        tmp_path / split,
        "real/a/v_frame_10.png real/a/v_frame_2.jpg real/v_frame_1.jpeg real/single.webp"
        " fake/a/v_frame_1.PNG fake/w_frame_x.png fake/z_frame_7_1.png",
    )
    (tmp_path / split / "real" / "notes.txt").write_text("no picture")
    (tmp_path / split / ".cache").mkdir()
    assert read(tmp_path / split, "folder", "") == [
        ("fake/a/v_frame_1.PNG", "fake", "fake/a/v"),
        ("fake/w_frame_x.png", "fake", "fake/w_frame_x"),
        ("fake/z_frame_7_1.png", "fake", "fake/z"),
        ("real/a/v_frame_2.jpg", "real", "real/a/v"),
        ("real/a/v_frame_10.png", "real", "real/a/v"),
        ("real/single.webp", "real", "real/single"),
        ("real/v_frame_1.jpeg", "real", "real/v"),
    ]
    whole = read_set("folder", str(tmp_path), split=split)
    below = read_set("folder", str(tmp_path / split), split="")
    assert [list(x) for x in whole[1:4]] == [list(x) for x in below[1:4]]


@pytest.mark.parametrize("frame", ["{}/{:05d}.png", "{}/frame{}.png", "{}_{:02d}.jpg"])
def test_frames_of_a_video_are_found_by_folder_and_by_name(tmp_path, frame, caplog):
    counts = {"real/a": 12, "real/b": 3, "fake/a": 1, "fake/c": 4}
    names = {video: [frame.format(video, i) for i in range(n)] for video, n in counts.items()}
    write_pictures(tmp_path / "test", [name for of_video in names.values() for name in of_video])
    faces = read_set("folder", str(tmp_path), split="test")
    rows = [(file, video) for file, _, video in contents(tmp_path / "test", faces)]
    assert rows == [(name, video) for video in sorted(names) for name in names[video]]
    by = "by name" if "_" in frame else "by folder"
    expected = f"4 videos (4 {by}) of 1, 3.5, 12 frames (minimum, median, maximum)"
    assert faces.grouping == expected
    assert not caplog.records
    rows = read(tmp_path, "folder", frames=2, videos="picture")
    assert len(rows) == 20


@pytest.mark.parametrize(
    "classes", ["Real FAKE", "live spoof", "bonafide attack", "0_fake 1_real", "1_fake 0_real"]
)
def test_class_folders_may_be_called_otherwise_but_never_count_by_order(tmp_path, classes):
    for name in classes.split():
        is_real = re.search("real|live|bona", name.lower())
        write_pictures(tmp_path, [f"{name}/{'r' if is_real else 'f'}.png"])
    found = {Path(file).stem: label for file, label, _ in read(tmp_path, "folder", "")}
    assert found == {"r": "real", "f": "fake"}


def test_several_folders_may_hold_one_class(tmp_path):
    write_pictures(tmp_path, "Celeb-real/a.png YouTube-real/a.png Celeb-synthesis/a.png")
    assert [row[1:] for row in read(tmp_path, "folder", "")] == [
        ("real", "Celeb-real/a"),
        ("fake", "Celeb-synthesis/a"),
        ("real", "YouTube-real/a"),
    ]


@pytest.mark.parametrize(
    ("pictures", "folders", "said"),
    [
        ("test/real/a.png", "", "ROOT/test has 'real'; a set has a folder for each class"),
        ("test/a.png", "", "ROOT/test has nothing; a set has a folder for each class"),
        ("test/real/a.png", "test/fake", "folder ROOT/test/fake, one of 'fake', 'real', has no"),
        ("test/real/a.png test/reel/a.png", "", "'reel', which is neither real nor fake"),
        ("test/0/a.png test/1/a.png", "", "'0', which is neither real nor fake by its name"),
        ("train/real/a.png val/real/a.png", "", "in ROOT there is 'train', 'val'"),
    ],
)
def test_folders_that_do_not_tell_both_classes_are_refused(tmp_path, pictures, folders, said):
    write_pictures(tmp_path, pictures)
    for folder in folders.split():
        (tmp_path / folder).mkdir()
    assert said in refused(tmp_path, "folder")


def test_links_are_followed_but_not_in_circles(tmp_path, caplog):
    write_pictures(tmp_path, "elsewhere/v_frame_1.png set/real/v_frame_1.png set/fake/a.png")
    (tmp_path / "set/real/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/fake/b.png").symlink_to(tmp_path / "elsewhere/v_frame_1.png")
    (tmp_path / "set/fake/broken.png").symlink_to("nowhere.png")
    assert read(tmp_path / "set", "folder", "") == [
        ("fake/a.png", "fake", "fake/a"),
        ("fake/b.png", "fake", "fake/b"),
        ("real/more/v_frame_1.png", "real", "real/more/v"),
        ("real/v_frame_1.png", "real", "real/v"),
    ]
    before = read(tmp_path / "set", "folder", "")
    (tmp_path / "set/real/circle").symlink_to(tmp_path / "set/real")
    assert read(tmp_path / "set", "folder", "") == before
    assert "set: 1 left out (1 folders that a link leads to again): real/circle" in caplog.text
    (tmp_path / "set/real/other").symlink_to(tmp_path / "set/fake")
    said = refused(tmp_path / "set", "folder", "")
    assert "ROOT/fake and ROOT/real/other are the same folder by a link" in said


def write_ffpp(root: Path, *, compression: str = "c23", frames_folder: str = "frames") -> None:
    """Writes two pairs, with a frame of every video, and videos that no list names."""
    write_json(root / "test.json", [["000", "003"], ["1", "2"]])
    below = f"{compression}/{frames_folder}"
    for one in ("000", "003", "1", "2", "777"):
        write_pictures(root, [f"original_sequences/youtube/{below}/{one}/0001.png"])
    for method in FF_METHODS:
        for one in ("000_003", "003_000", "1_2", "2_1", "777_000"):
            folder = f"manipulated_sequences/{method}/{below}"
            write_pictures(root, [f"{folder}/{one}/0001.png"])


@pytest.mark.parametrize("options", [{}, {"compression": "raw", "frames_folder": "faces"}])
def test_ffpp(tmp_path, options):
    write_ffpp(tmp_path, **options)
    below = f"{options.get('compression', 'c23')}/{options.get('frames_folder', 'frames')}"
    videos = [
        (f"manipulated_sequences/{method}/{below}/{one}", "fake")
        for method in FF_METHODS
        for one in ("000_003", "003_000", "1_2", "2_1")
    ]
    youtube = f"original_sequences/youtube/{below}"
    videos += [(f"{youtube}/{one}", "real") for one in ("000", "003", "1", "2")]
    expected = [(f"{video}/0001.png", label, video) for video, label in videos]
    assert read(tmp_path, "ffpp", **options) == expected
    some = [row for row in expected if "Sw" in row[0] or row[1] == "real"]
    assert read(tmp_path, "ffpp", methods=("FaceSwap",), **options) == some


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"compression": "c40"}, "youtube/c40 does not exist; in ROOT/original_sequences/youtube"),
        ({"compression": "c40"}, "there is 'c23'"),
        ({"frames_folder": "faces"}, "c23/faces does not exist"),
        ({"methods": ("DeepFakes",)}, "there is 'Deepfakes', 'Face2Face', 'FaceSwap'"),
        ({"split": "val"}, "the list ROOT/val.json cannot be read"),
    ],
)
def test_parts_of_ffpp_that_are_not_there_are_named_with_those_that_are(tmp_path, options, said):
    write_ffpp(tmp_path)
    assert said in refused(tmp_path, "ffpp", **options)


@pytest.mark.parametrize(
    "pairs",
    [
        {},
        [["1"]],
        [["1", "2", "3"]],
        [[1, 2]],
        [["..", "1"]],
        [["a/b", "1"]],
        [["\ud800", "1"]],
        "12",
        ["12"],
    ],
)
def test_ids_that_are_no_pairs_are_refused(tmp_path, pairs):
    write_ffpp(tmp_path)
    write_json(tmp_path / "test.json", pairs)
    assert "ROOT/test.json is no list of pairs of ids" in refused(tmp_path, "ffpp")


def count_looks(monkeypatch) -> list[str]:
    """Counts the folders that are searched for pictures."""
    searched: list[str] = []

    def counted(root, path, folder, *, label):
        searched.append(f"{path}/{folder}")
        return walk_pictures(root, path, folder, label=label)

    monkeypatch.setattr(layouts, "walk_pictures", counted)
    return searched


def test_a_pair_of_ids_that_is_repeated_is_looked_for_once(tmp_path, monkeypatch):
    write_ffpp(tmp_path)
    write_json(tmp_path / "test.json", [["000", "003"]])
    once = read(tmp_path, "ffpp")
    write_json(tmp_path / "test.json", [["000", "003"], ["003", "000"]] * 100)
    searched = count_looks(monkeypatch)
    assert read(tmp_path, "ffpp") == once
    assert sorted(searched) == sorted(set(searched)) and len(searched) == 2 + 2 * 4


def write_fas(root: Path) -> None:
    """Writes two videos of each class in each folder, with two frames each."""
    for folder in ("train", "test"):
        for label in ("real", "fake"):
            names = [f"{video}_frame{i}.png" for video in (f"{folder}_1", "2.x") for i in (0, 1)]
            write_pictures(root / f"frame/casia/{folder}/{label}", names)


def fas_rows(*videos: str) -> list[tuple[str, str, str]]:
    """Returns the rows of both frames of every video."""
    return [
        (f"frame/{video}_frame{i}.png", video.split("/")[2], video)
        for video in videos
        for i in (0, 1)
    ]


def test_fas_without_lists(tmp_path):
    write_fas(tmp_path)
    train = [
        f"casia/train/{label}/{video}" for label in ("fake", "real") for video in ("2.x", "train_1")
    ]
    test = [
        f"casia/test/{label}/{video}" for label in ("fake", "real") for video in ("2.x", "test_1")
    ]
    assert read(tmp_path, "fas", "train", subset="casia") == fas_rows(*train)
    assert read(tmp_path, "fas", "test", subset="casia") == fas_rows(*test)
    assert read(tmp_path, "fas", "", subset="casia") == fas_rows(*test, *train)
    first = [row for row in fas_rows(*test, *train) if "frame0" in row[0]]
    assert read(tmp_path, "fas", "", subset="casia", frames=1) == first
    said = refused(tmp_path, "fas", subset="msu")
    assert said == "ROOT/frame/msu does not exist; in ROOT/frame there is 'casia'"


@pytest.mark.parametrize(
    "line",
    [
        "2.x",
        "2.x.avi",
        "real/2.x",
        "test/real/2.x_frame0.png",
        "casia/test/real/2.x_frame1",
        "/data/MCIO/frame/casia/test/real/2.x.mp4",
        "frame\\casia\\test\\real\\2.x_frame0.png",
    ],
)
def test_fas_with_lists_of_videos_or_frames_from_any_folder_on(tmp_path, line):
    write_fas(tmp_path)
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt/casia_real_test.txt").write_text(f"{line}\n\n{line}\n")
    (tmp_path / "txt/casia_fake_test.txt").write_text("test_1\nmissing\n")
    rows = read(tmp_path, "fas", "test", subset="casia")
    assert rows == fas_rows("casia/test/fake/test_1", "casia/test/real/2.x")
    assert read_set("fas", str(tmp_path), split="test", subset="casia").skipped == 1


def test_a_video_that_a_fas_list_repeats_is_given_once(tmp_path):
    write_fas(tmp_path)
    (tmp_path / "txt").mkdir()
    real = ["2.x", "2.x.avi", "2.x_frame0.png", "missing"] * 50
    (tmp_path / "txt/casia_real_test.txt").write_text("\n".join(real))
    root = SetRoot(str(tmp_path), (), Excluded(()), "")
    found = LAYOUTS["fas"](root, split="test", subset="casia")
    of_real = [video.name for video in found if video.label == "real"]
    assert of_real == ["casia/test/real/2.x"] * 2 + ["real/missing"]  # two frames


def test_fas_few_shots_lie_in_the_other_folders_and_need_their_lists(tmp_path):
    write_fas(tmp_path)
    assert "txt/casia_fake_shot.txt cannot be read" in refused(
        tmp_path, "fas", "shot", subset="casia"
    )
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt/casia_real_shot.txt").write_text("test/real/2.x\ntrain_1\n")
    (tmp_path / "txt/casia_fake_shot.txt").write_text("2.x\n")
    rows = fas_rows("casia/test/real/2.x", "casia/train/fake/2.x", "casia/train/real/train_1")
    assert read(tmp_path, "fas", "shot", subset="casia") == rows


def write_wcs(root: Path) -> list[str]:
    """Writes ten frames of every video with WCS's names; returns the videos."""
    videos = [
        f"surf/{folder}/{label}/{video}"
        for folder in ("test", "train")
        for label in ("fake", "real")
        for video in (f"CLKJ_AS{folder}", "x_1_2")
    ]
    names = [f"frame/{video}_{i:02d}.jpg" for video in videos for i in range(10)]
    write_pictures(root, names)
    return videos


def test_frames_of_wcs_are_videos(tmp_path):
    videos = write_wcs(tmp_path)
    rows = read(tmp_path, "fas", "", subset="surf")
    assert rows == [
        (f"frame/{video}_{i:02d}.jpg", video.split("/")[2], video)
        for video in videos
        for i in range(10)
    ]
    first = read(tmp_path, "fas", "", subset="surf", frames=1)
    assert [row[0] for row in first] == [f"frame/{video}_00.jpg" for video in videos]
    singles = read(tmp_path, "fas", "", subset="surf", videos="picture")
    assert len({row[2] for row in singles}) == 80


@pytest.mark.parametrize(
    "line",
    ["x_1_2", "x_1_2.avi", "real/x_1_2_03.jpg", "surf\\test\\real\\x_1_2_03", "x_1_2_00.jpg"],
)
def test_lists_of_wcs_name_videos_or_frames(tmp_path, line):
    write_wcs(tmp_path)
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt/surf_real_test.txt").write_text(f"{line}\n")
    (tmp_path / "txt/surf_fake_test.txt").write_text("CLKJ_AStest\n")
    videos = {row[2] for row in read(tmp_path, "fas", "test", subset="surf")}
    assert videos == {"surf/test/real/x_1_2", "surf/test/fake/CLKJ_AStest"}


def test_what_is_excluded_is_not_looked_at(tmp_path):
    write_pictures(tmp_path, "real/v/1.png fake/w/1.png weird/1.png fake/broken/1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "fake/broken/loop").symlink_to(".")
    (tmp_path / "weird/loop").symlink_to(".")
    exclude = ("weird", "empty", "broken")
    rows = read(tmp_path, "folder", "", exclude=exclude)
    assert [row[0] for row in rows] == ["fake/w/1.png", "real/v/1.png"]
    write_ffpp(tmp_path)
    (tmp_path / "manipulated_sequences/FaceSwap").rename(tmp_path / "gone")
    rows = read(tmp_path, "ffpp", exclude=("FaceSwap",))
    assert len(rows) == 4 + 3 * 4
    write_pictures(tmp_path, "frame/msu/test/real/v_frame0.png")
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt/msu_fake_test.txt").mkdir()
    rows = read(tmp_path, "fas", "test", subset="msu", exclude=("fake",))
    assert [row[2] for row in rows] == ["msu/test/real/v"]


def test_single_pictures_of_diff_stay_single(tmp_path, caplog):
    root = tmp_path / "test_subsets/FE/test"
    write_pictures(root, [f"{x}/part/{i:04d}.png" for x in ("real", "fake") for i in range(5)])
    assert len({row[2] for row in read(tmp_path, "diff", subset="FE")}) == 10
    assert not caplog.records
    assert len({row[2] for row in read(tmp_path, "diff", subset="FE", videos="folder")}) == 2


def test_diff(tmp_path):
    for split in ("val", "test"):
        for subset in ("T2I", "FS"):
            names = [f"{label}/sub/{subset}.png" for label in ("real", "fake")]
            write_pictures(tmp_path / f"{split}_subsets/{subset}/{split}", names)
    root = tmp_path / "test_subsets/T2I/test"
    faces = read_set("diff", str(tmp_path), split="test", subset="T2I")
    assert faces.name == "T2I"
    assert [x.decode() for x in faces.files] == [
        f"{root}/fake/sub/T2I.png",
        f"{root}/real/sub/T2I.png",
    ]
    assert [x.decode() for x in faces.videos] == ["fake/sub/T2I", "real/sub/T2I"]
    assert faces.labels.tolist() == [0, 1]
    said = refused(tmp_path, "diff", subset="I2I")
    assert "in ROOT/test_subsets there is 'FS', 'T2I'" in said
    assert "in ROOT there is 'test_subsets', 'val_subsets'" in refused(
        tmp_path, "diff", "train", subset="T2I"
    )


def test_these_are_the_layouts():
    assert set(LAYOUTS) == {
        *("folder", "folders", "list", "lists", "deepfakebench", "ffpp", "celebdf", "dfdc"),
        *("fas", "diff"),
    }


def test_the_documented_layouts_have_the_documented_options():
    text = (Path(__file__).parent.parent / "docs/transfer.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", text, re.MULTILINE))
    for layout, read_layout in LAYOUTS.items():
        options = list(inspect.signature(read_layout).parameters)[2:]
        assert sorted(re.findall(r"`(\w+)`", rows[layout])) == sorted(options), layout
    assert set(rows) >= {*LAYOUTS, "rendered"}


FFIW = ("source/test/v0/1.png source/test/v0/2.png source/train/v9/1.png target/test/v0/1.png"
        " target/test/v1/7.png target/train/v8/1.png")  # fmt: skip
OF_FFIW = {"real": ("source/{split}",), "fake": ("target/{split}",)}


def test_folders_of_classes_may_lie_anywhere(tmp_path):
    write_pictures(tmp_path, FFIW)
    assert read(tmp_path, "folders", **OF_FFIW) == [
        ("source/test/v0/1.png", "real", "source/test/v0"),
        ("source/test/v0/2.png", "real", "source/test/v0"),
        ("target/test/v0/1.png", "fake", "target/test/v0"),
        ("target/test/v1/7.png", "fake", "target/test/v1"),
    ]
    train = {label for _, label, _ in read(tmp_path, "folders", "train", **OF_FFIW)}
    assert train == {"real", "fake"}
    # A folder is a generator, and a name leaves one out.
    both = {"real": ("source",), "fake": ("target/test", "target/train/")}
    found = read(tmp_path, "folders", "", exclude=("train",), **both)
    assert {file for file, label, _ in found if label == "fake"} == {
        "target/test/v0/1.png",
        "target/test/v1/7.png",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"fake": ("target/{split}", "no")},
            "ROOT/no does not exist; in ROOT there is 'empty', 'source'",
        ),
        ({"fake": ("source/test",)}, "'source/test' is a folder of 'real' already"),
        ({"fake": ("../x",)}, "fake = '../x' is not below ROOT"),
        ({"fake": ("/etc",)}, "fake = '/etc' is not below ROOT"),
        ({"fake": ("empty",)}, "the folder ROOT/empty of fake faces has no image"),
    ],
)
def test_folders_that_are_not_there_are_named(tmp_path, changes, said):
    write_pictures(tmp_path, FFIW)
    (tmp_path / "empty").mkdir()
    with pytest.raises((DataError, ConfigError)) as error:
        read_set("folders", str(tmp_path), split="test", **OF_FFIW | changes)
    assert said in str(error.value).replace(str(tmp_path), "ROOT")


def test_folders_need_both_classes(tmp_path):
    with pytest.raises(ConfigError, match="the layout 'folders' needs fake: set it"):
        read_set("folders", str(tmp_path), split="test", real=("real",))
