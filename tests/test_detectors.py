"""Tests that weights become a detector only if their classes and the statistics are known."""

from pathlib import Path

import numpy as np
import pytest
from random_weights import STATS, TINY, detector_params, encoder_params

from fsvfm_jax.convert.measures import measures
from fsvfm_jax.convert.weights import LoadedWeights
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.detectors import stats_of, to_detector
from fsvfm_jax.errors import ConfigError, DataError

PATH = Path("weights")
FIELDS = {"stats": "the flag of stats", "labels": "the flag of labels"}
OTHER = Stats((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def source(params=None, **facts):
    params = detector_params(TINY) if params is None else params
    return LoadedWeights(params, measures(params, num_heads=TINY["num_heads"]), facts)


def made(source, *, stats=None, labels=()):
    return to_detector(source, PATH, stats=stats, labels=labels, dtype="float32", fields=FIELDS)


@pytest.mark.parametrize("options", [{}, {"fas": True}, {"adapter_reduction": 4}])
def test_the_logits_come_into_the_order_of_the_labels(options):
    params = detector_params(TINY | options)
    same = made(source(params, stats=STATS, label_names=LABELS))
    other = made(source(params, stats=STATS), labels=LABELS[::-1])
    last = "classifier" if "fas" in options else "head"
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(same.params[last][name], params[last][name])
        np.testing.assert_array_equal(other.params[last][name], params[last][name][..., ::-1])
    assert other.params["cls_token"] is params["cls_token"]


def test_the_given_statistics_come_before_those_of_the_weights():
    assert made(source(stats=STATS, label_names=LABELS)).stats == STATS
    assert made(source(stats=STATS, label_names=LABELS), stats=OTHER).stats == OTHER
    assert stats_of(source(), PATH, given=OTHER, field="x") == OTHER


@pytest.mark.parametrize(
    ("weights", "kind", "said"),
    [
        (source(encoder_params(TINY)), DataError, "weights is no detector"),
        (source(detector_params(TINY | {"num_classes": 3})), DataError, "has 3 classes, not two"),
        (source(label_names=LABELS), ConfigError, "give the flag of stats"),
        (source(stats=STATS), ConfigError, "give the flag of labels"),
        (source(stats=STATS, label_names=("cat", "dog")), ConfigError, "give the flag of labels"),
    ],
)
def test_what_is_missing_is_named(weights, kind, said):
    with pytest.raises(kind, match=said):
        made(weights)
