"""Tests the papers' results, and the part of each set that the papers use."""

from importlib import import_module
from math import isclose

import pytest

from fsvfm_jax.report.published import (
    PUBLISHED,
    Expected,
    expected,
    find,
    find_average,
    papers_name,
)


def test_a_figure_is_found_by_any_name_of_the_set():
    for name in ("CDFv2", "Celeb-DF-v2", "celeb_df_v2", "CELEB DF V2"):
        assert find("FS-VFM ViT-L", name, "video_auc").percent == 95.17
    assert papers_name("DeepFakeDetection") == "DFD"
    assert papers_name("dfdc") == "DFDC" and papers_name("dfdcp") == "DFDCP"


def test_what_is_not_known_is_none():
    assert find("FS-VFM ViT-L", "CDFv2", "frame_auc") is None
    assert find("FS-VFM ViT-S", "CDFv2", "video_auc") is None
    assert find(None, "CDFv2", "video_auc") is None
    assert find("FS-VFM ViT-L", "mine", "video_auc") is None
    assert expected("mine") == Expected(None, None) and papers_name("mine") == "mine"


def test_the_letters_of_protocols_are_no_names():
    # C is CASIA in one protocol and CeFA in the other.
    assert all(papers_name(letter) == letter for letter in "MCIOWS")


def test_no_figure_stands_twice():
    keys = [figure[:3] for figure in PUBLISHED]
    assert len(set(keys)) == len(keys) == 30


def test_the_spoof_sets_average_to_what_the_paper_prints():
    sets = ("msu-mfsd", "casia", "Idiap", "OULU-NPU")
    percents = [find("FSFM ViT-B", name, "hter@test").percent for name in sets]
    assert isclose(sum(percents) / 4, 4.81, abs_tol=0.005)


@pytest.mark.parametrize(
    ("name", "images", "videos"),
    [
        ("Celeb-DF-v2", 14_268, None),
        ("DFDC", 143_941, 5_000),
        ("T2I", 43_582, None),
        ("casia", None, 580),
        ("oulu", None, 3_580),
    ],
)
def test_expected_counts(name, images, videos):
    assert expected(name) == (images, videos)


def test_averages_are_said_to_be_read_off_a_figure():
    average = find("FS-Adapter ViT-B", "DiFF average", "frame_auc")
    assert average.percent == 75.3 and "read off a figure" in average.source
    assert all("figure" in x.source for x in PUBLISHED if "average" in x.dataset)


def test_an_average_is_of_just_its_sets():
    diff = ("T2I", "DiFF I2I", "FS", "FE")
    assert find_average("FS-VFM ViT-B", diff) == find("FS-VFM ViT-B", "DiFF average", "frame_auc")
    deepfakes = ("Celeb-DF-v2", "DFD", "DFDC", "DFDCP", "WildDeepfake", "CDFpp", "FFIW")
    assert find_average("FS-VFM ViT-L", deepfakes).percent == 91.8
    assert find_average("FS-VFM ViT-L", deepfakes[1:]) is None
    assert find_average("FS-VFM ViT-L", (*deepfakes, "mine")) is None
    assert find_average(None, diff) is None


@pytest.mark.parametrize("name", ["dfd", "diff"])
def test_a_config_tests_the_sets_of_an_average(name):
    tested = import_module(f"configs.eval.{name}").get_config().data.test
    assert find_average("FS-VFM ViT-B", tested)
