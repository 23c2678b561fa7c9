"""Tests rendered sets: equal images everywhere, separate splits, one camera for both classes."""

import pickle

import numpy as np
import pytest

from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.rendered import rendered_sets
from fsvfm_jax.data.rendered.rendered_sets import (
    DEEPFAKES,
    RENDERED_SETS,
    SPLITS,
    SPOOFS,
    RenderedFaces,
    RenderedSet,
)
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.errors import ConfigError


def rendered(name="swap-a", split="train", *, image_size=32, seed=0, videos=8, frames=2):
    return RenderedFaces(
        name, split, image_size=image_size, seed=seed, videos=videos, frames=frames
    )


def images(faces):
    return [face["image"] for face in faces.read(range(len(faces)))]


@pytest.mark.parametrize("name", RENDERED_SETS)
def test_a_fake_of_no_strength_is_its_real_face_through_the_same_camera(name, monkeypatch):
    """Shows that the classes differ only by the forgery."""
    powerless = tuple((forgery, 0.0) for forgery, _ in RENDERED_SETS[name].forgeries)
    monkeypatch.setitem(
        rendered_sets.RENDERED_SETS, name, RenderedSet(powerless, RENDERED_SETS[name].camera)
    )
    faces = rendered(name)
    fakes = images(faces)
    monkeypatch.setattr(RenderedFaces, "label", lambda self, index: LABELS.index("real"))
    for fake, real in zip(fakes, images(faces), strict=True):
        np.testing.assert_array_equal(fake, real)


@pytest.mark.parametrize("name", RENDERED_SETS)
def test_half_of_the_videos_are_fake_and_all_frames_of_a_video_alike(name):
    faces = rendered(name, videos=10, frames=3)
    labels = [faces.label(index) for index in range(len(faces))]
    assert labels == [face["label"] for face in faces.read(range(30))]
    assert labels.count(LABELS.index("fake")) == 15
    assert (len(faces), faces.skipped) == (30, 0)
    of_videos = {}
    for index, label in enumerate(labels):
        of_videos.setdefault(faces.video(index), set()).add(label)
        assert faces.name(index).startswith(faces.video(index))
    assert len(of_videos) == 10
    assert all(len(found) == 1 for found in of_videos.values())
    assert len({faces.name(index) for index in range(30)}) == 30


def test_every_forgery_of_a_set_is_used(monkeypatch):
    used = set()

    def noted(forgery):
        def forge(face, donor, rng, *, strength):
            used.add(forgery)
            return forgery(face, donor, rng, strength=strength)

        return forge

    for name, (forgeries, camera) in RENDERED_SETS.items():
        watched = tuple((noted(forgery), strength) for forgery, strength in forgeries)
        monkeypatch.setitem(rendered_sets.RENDERED_SETS, name, RenderedSet(watched, camera))
        used.clear()
        images(rendered(name, frames=1))
        assert used == {forgery for forgery, _ in forgeries}


def test_an_image_hangs_on_set_split_seed_video_and_frame_alone():
    few = images(rendered(videos=4, frames=2))
    np.random.seed(1)
    many = images(rendered(videos=6, frames=2))
    np.testing.assert_array_equal(few, many[:8])
    more_frames = rendered(videos=4, frames=5)
    np.testing.assert_array_equal(few[3], more_frames[6]["image"])
    np.testing.assert_array_equal(few[-1], rendered(videos=4)[-1]["image"])


def test_other_sets_splits_and_seeds_show_other_faces():
    """Compares the faces before the camera: no two splits of any sets share a face."""
    asked = []

    def noted(index, *, image_size, seed):
        asked.append((seed, index))
        return render_face(index, image_size=image_size, seed=seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered_sets, "render_face", noted)
        shown = []
        for name in RENDERED_SETS:
            for split in SPLITS:
                for seed in (0, 1):
                    images(rendered(name, split, seed=seed, videos=4, frames=1, image_size=8))
                    shown.append(set(asked))
                    asked.clear()
    assert len(set.union(*shown)) == sum(map(len, shown))
    # The indices of SyntheticFaces, for pretraining, are below these.
    assert min(index for _, index in set.union(*shown)) > 2**32


def test_frames_of_a_video_show_one_face_and_are_not_the_same():
    faces = np.float32(images(rendered(image_size=64, videos=20, frames=2))).reshape(20, 2, -1)
    near = np.abs(faces[:, 0] - faces[:, 1]).mean(-1)
    far = np.abs(faces[:-2, 0] - faces[2:, 0]).mean(-1)
    assert (near > 0.5).all()
    assert near.max() < far.min()


def test_sets_differ_in_what_they_store():
    cameras = [camera for _, camera in RENDERED_SETS.values()]
    assert len(set(cameras)) == len(RENDERED_SETS)
    assert not set(DEEPFAKES) & set(SPOOFS)
    trained = {forgery for forgery, _ in DEEPFAKES["swap-a"].forgeries}
    unseen = [{forgery for forgery, _ in rest.forgeries} for rest in DEEPFAKES.values()]
    assert sum(not forgeries & trained for forgeries in unseen) >= 2


def test_a_pickled_set_reads_the_same():
    faces = rendered()
    copy = pickle.loads(pickle.dumps(faces))
    assert copy.fingerprint() == faces.fingerprint()
    assert copy.stats() is None
    np.testing.assert_array_equal(copy[3]["image"], faces[3]["image"])


@pytest.mark.parametrize(
    "change",
    [
        {"name": "swap-b"},
        {"split": "val"},
        {"image_size": 40},
        {"seed": 1},
        {"videos": 10},
        {"videos": 4, "frames": 4},
    ],
)
def test_the_fingerprint_tells_what_images_there_are(change):
    assert rendered(**change).fingerprint() != rendered().fingerprint()
    assert rendered().fingerprint() == rendered().fingerprint()


def test_unknown_sets_splits_and_empty_ones_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"'swap-z'.*swap-a, swap-b.*cam-o"):
        rendered("swap-z")
    with pytest.raises(ConfigError, match=r"'dev'.*train, val, test"):
        rendered(split="dev")
    with pytest.raises(ConfigError, match="0 videos of 2 frames"):
        rendered(videos=0)
    with pytest.raises(IndexError):
        rendered()[16]


@pytest.mark.parametrize("name", DEEPFAKES)
def test_the_truth_of_an_image_is_where_it_differs_from_its_real_face(name, monkeypatch):
    """Uses a camera that changes nothing but the crop, with the same draws for both."""
    still = rendered_sets.Camera(1.0, (1.0, 1.0, 1.0), 1.0, 0.0, (100, 100))
    forgeries = RENDERED_SETS[name].forgeries
    monkeypatch.setitem(rendered_sets.RENDERED_SETS, name, RenderedSet(forgeries, still))
    faces = rendered(name, image_size=64, videos=4, frames=1)
    for index in (1, 3):
        fake, truth = faces[index]["image"], faces.truth(index)
        with monkeypatch.context() as patch:
            patch.setattr(RenderedFaces, "label", lambda self, index: LABELS.index("real"))
            real, of_real = faces[index]["image"], faces.truth(index)
        assert not of_real.forged.any() and truth.forged.any()
        np.testing.assert_array_equal(truth.parsing_map, of_real.parsing_map)
        change = np.abs(np.int16(fake) - real).max(axis=2)
        # JPEG and the interpolation of the crop change pixels beside the region by a few levels.
        assert change[truth.forged].mean() > 3 * change[~truth.forged].mean()


def test_the_regions_of_a_real_image_are_where_its_pixels_are():
    faces = rendered("swap-a", image_size=64, videos=8, frames=1)
    for index in range(0, 8, 2):
        image, regions = faces[index]["image"].astype(float), faces.truth(index).parsing_map
        inside = image[regions == 1]
        outside = image[regions == 0]
        assert np.abs(inside.mean(axis=0) - outside.mean(axis=0)).max() > 5
        assert regions.shape == (64, 64) and (regions == 1).mean() > 0.05
