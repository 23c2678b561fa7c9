"""Tests that the sets that authors publish are found in the folders that they publish."""

from collections import Counter

import pytest
from labelled_trees import write_json, write_pictures

from configs import sets
from configs.eval import df40, dfd
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.labelled.detection_sets import open_sets
from fsvfm_jax.data.labelled.faces import LABELS

FRAMES = ("000.png", "001.png")
# The folders of frames of each set, by what its authors call them.
TREES = {
    "CDFv2": (
        "Celeb-DF-v2",
        ("Celeb-real/id0_0000", "Celeb-synthesis/id0_id1_0000", "YouTube-real/00170"),
    ),
    "DFD": (
        "FaceForensics++",
        (
            "original_sequences/actors/c23/frames/01__exit_phone_room",
            "manipulated_sequences/DeepFakeDetection/c23/frames/01_02__exit_phone_room__YVGY8LOK",
        ),
    ),
    "DFDC": ("DFDC/test", ("aaa", "bbb")),
    "DFDCP": (
        "DFDCP",
        ("original_videos/643049/643049_A_001", "method_A/643049/643049_A/643049_1027336_A_001"),
    ),
    "WDF": ("deepfake_in_the_wild", ("real_test/0/real/1", "fake_test/7/fake/2")),
    "CDFpp": (
        "Celeb-DF++",
        (
            "Celeb-real/id0_0000",
            "YouTube-real/00170",
            "Celeb-synthesis/FaceSwap/BlendFace/id0_id1_0000",
            "Celeb-synthesis/TalkingFace/FLOAT/id0_id1_0000",
        ),
    ),
    "FFIW": ("FFIW10K-v1-release-test", ("source/00001", "target/00001")),
}
FAKE = {"CDFpp": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public")
    for path, videos in TREES.values():
        write_pictures(folder / path, [f"{video}/{frame}" for video in videos for frame in FRAMES])
    for name in ("CDFv2", "CDFpp"):
        path, videos = TREES[name]
        lines = [f"{int('real' in video)} {video}.mp4" for video in videos]
        (folder / path / "List_of_testing_videos.txt").write_text("\n".join(lines))
    (folder / "DFDC/test/labels.csv").write_text("filename,label\naaa.mp4,0\nbbb.mp4,1\n")
    real, fake = TREES["DFDCP"][1]
    write_json(
        folder / "DFDCP/dataset.json",
        {
            f"{real}.mp4": {"label": "real", "set": "test", "augmentations": []},
            f"{fake}.mp4": {"label": "fake", "set": "test", "swapped_id": "1"},
            "method_A/1/1_A/2.mp4": {"label": "fake", "set": "train"},
        },
    )
    return folder


def test_every_set_is_found_as_its_authors_publish_it(root):
    config = dfd.get_config("public")
    config.data.paths, config.init.params = (str(root),), "RUN"
    data = resolve(config).data
    found = open_sets(data.test, data.paths, image_size=32)
    assert found.keys() == sets.DEEPFAKES.keys() == TREES.keys()
    for name, faces in found.items():
        videos = {faces.video(index): LABELS[faces.label(index)] for index in range(len(faces))}
        assert Counter(videos.values()) == {"real": 1, "fake": FAKE.get(name, 1)}, name
        assert len(faces) == 2 * len(videos) and faces.skipped == 0, name
        assert not any("YouTube" in video for video in videos)


def test_df40_has_a_set_for_each_method_and_the_words_of_its_kinds():
    assert len(df40.get_config().data.test) == 31
    assert {*df40.get_config("unknown").data.test} == {*sets.DF40["unknown"]}
    chosen = df40.get_config("simswap,efs,cdf").data.test
    assert chosen.simswap.list_file == "simswap_cdf.json" and len(chosen) == 11
    assert df40.get_config("heygen,cdf").data.test.heygen.list_file == "heygen.json"
    assert chosen.sd21.list_file == "sd2.1_cdf.json"
