"""Tests the text that the model card and `about` share."""

import re
from pathlib import Path

import pytest
from random_weights import STATS, TINY

from fsvfm_jax.convert import facts

DETECTOR = {"label_names": ("fake", "real")}


def test_the_docs_have_the_same_text() -> None:
    page = (Path(__file__).parent.parent / "docs" / "using.md").read_text()
    bullets = [" ".join(x.split()) for x in re.findall(r"^\* (.*(?:\n  .*)*)", page, re.M)]
    assert set(facts.MEANING + facts.FAILURES) <= set(bullets)


@pytest.mark.parametrize(
    ("known", "rule"),
    [
        ({}, "It is not known how the faces of the training were found. It is resized to 64 x 64"),
        ({"face_detector": "none"}, "The middle square of every picture"),
        ({"face_detector": "dlib"}, "found by dlib. The margin around the face's box is not known"),
        ({"face_detector": "dlib", "crop_margin": 0.15}, "1.3 times as long as the longer side"),
        ({"crop_pct": 0.875}, "shorter side is resized to 73 pixels, and the middle 64 x 64"),
        ({"face_detector": "<b>|"}, r"found by \<b>\|."),
    ],
)
def test_the_crop_rule_is_reported(known: dict, rule: str) -> None:
    assert rule in facts.score_parts(DETECTOR | known, TINY)[-1]


def test_an_encoder_has_no_score_and_no_labels() -> None:
    assert facts.score_parts({}, TINY) == facts.label_parts(()) == []


def test_what_is_unknown_is_said() -> None:
    table = facts.fact_parts({}, TINY, stats=STATS, hashes={"SHA-256 of x": "ab"})[1]
    assert "| face detector | not known |" in table and "| SHA-256 of x | ab |" in table
    assert "| pooling | not known |" in table
    assert "Not known: ask those" in facts.license_parts(None)[1]
    assert facts.license_parts("apache-2.0")[1] == "Under apache-2.0."
