"""Tests that every face is scored exactly once, with any devices and batch size."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled_trees import write_pictures
from ml_collections import ConfigDict
from PIL import Image

from configs.transfer import face_set
from fsvfm_jax import scoring
from fsvfm_jax.data.labelled.detection_sets import labels_of, open_sets
from fsvfm_jax.data.rand_augment import evaluation_view
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import sharding
from fsvfm_jax.errors import DataError
from fsvfm_jax.models import build_detector
from fsvfm_jax.report import metrics

STATS = Stats((0.5, 0.4, 0.4), (0.2, 0.2, 0.2))
MODEL = build_detector({"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2})
COUNT = 21


@pytest.fixture(scope="module")
def params():
    params = jax.jit(MODEL.init_params)(jax.random.key(0))
    head = jax.random.normal(jax.random.key(1), params["head"]["kernel"].shape)
    return params | {"head": params["head"] | {"kernel": head}}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Returns 21 faces of 11 videos."""
    root, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for number in range(COUNT):
        file = root / ("real" if number % 3 else "fake") / f"v{number // 2}_frame_{number % 2}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(256, size=(20, 16, 3), dtype=np.uint8)).save(file)
    return open_sets(ConfigDict({"x": face_set("folder")}), [str(root)], image_size=16)["x"]


def score(faces, params, *, devices=1, batch_size=8, num_workers=0):
    mesh = sharding.make_mesh({"data": devices, "fsdp": 1}, jax.devices()[:devices])
    predict = scoring.make_predict(MODEL, stats=STATS, mesh=mesh)
    feed = scoring.Feed(16, "resize", batch_size, num_workers, mesh)
    return scoring.score_set(predict, params, faces, feed=feed, name="x")


@pytest.mark.e2e
def test_scores_hang_neither_on_devices_nor_on_the_batch(faces, params):
    def p_fake(**options):
        scores = scoring.to_scores(score(faces, params, **options), faces, dataset="x")
        assert len(scores.files) == COUNT and scores.skipped == 0
        return scores.p_fake

    first = p_fake()
    assert len(np.unique(first)) == COUNT
    for devices, batch_size in ((1, 1), (1, COUNT), (8, 8), (8, 64)):
        again = p_fake(devices=devices, batch_size=batch_size)
        np.testing.assert_allclose(again, first, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(p_fake(num_workers=2), first)


@pytest.mark.e2e
def test_each_score_is_that_of_its_own_face(faces, params):
    margins = score(faces, params)
    for index in (0, 7, COUNT - 1):
        view = evaluation_view(faces[index]["image"], size=16, transform="resize")
        image = (view[None] / 255 - np.asarray(STATS.mean)) / np.asarray(STATS.std)
        logits = MODEL.apply({"params": params}, image.astype(np.float32)).logits[0]
        assert margins[index] == pytest.approx(float(logits[0] - logits[1]), abs=1e-5)


def test_a_face_that_cannot_be_read_is_left_out_and_counted(tmp_path, params, caplog):
    write_pictures(tmp_path, "real/a.png real/b.png fake/a.png fake/b.png")
    (tmp_path / "fake/b.png").write_bytes(b"no picture")
    faces = open_sets(ConfigDict({"x": face_set("folder")}), [str(tmp_path)], image_size=16)["x"]
    with caplog.at_level(logging.WARNING, "fsvfm_jax"):
        margins = score(faces, params, batch_size=2)
    (said,) = [line for line in caplog.messages if "fake/b.png cannot be read" in line]
    assert said.endswith("left out and counted")
    assert caplog.messages[-1] == "x: 1 of 4 faces are left out"
    assert np.isnan(margins).sum() == 1
    scores = scoring.to_scores(margins, faces, dataset="x")
    assert (len(scores.files), scores.skipped) == (3, 1)
    assert str(tmp_path / "fake/b.png") not in scores.files


def test_a_network_that_is_not_finite_is_refused(faces, params):
    broken = params | {"head": jax.tree.map(lambda x: x * jnp.nan, params["head"])}
    with pytest.raises(DataError, match="x: what the network says is not finite"):
        score(faces, broken)


def test_margins_become_probabilities_of_fake(faces):
    margins = np.linspace(-800, 800, COUNT)
    scores = scoring.to_scores(margins, faces, dataset="x")
    assert scores.p_fake[0] < 1e-300 and scores.p_fake[-1] == 1 and scores.p_fake[10] == 0.5
    np.testing.assert_array_equal(scores.fake, labels_of(faces) == 0)
    assert scores.videos[0] == faces.video(0)


def test_validation_is_over_all_sets_together(faces):
    rng = np.random.default_rng(0)
    margins = [rng.normal(size=COUNT), rng.normal(size=COUNT)]
    margins[1][3] = np.nan
    found = scoring.validation_scores(margins, [faces, faces])
    both = np.concatenate(margins)
    read = ~np.isnan(both)
    fake = np.tile(labels_of(faces) == 0, 2)
    p = 1 / (1 + np.exp(-both[read]))
    loss = -np.where(fake[read], np.log(p), np.log(1 - p)).mean()
    assert found["val_loss"] == pytest.approx(loss)
    assert found["val_frame_auc"] == metrics.auc(both[read], fake[read])
    assert found["val_unread"] == 1
    assert 0 <= found["val_video_auc"] <= 1
