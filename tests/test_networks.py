"""Tests that a loaded network gives what the network itself and evaluation give."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from random_weights import STATS, TINY, describe, detector_params, encoder_params
from tiny import detection_config, run_detection

import fsvfm_jax
from configs.transfer import face_set
from fsvfm_jax import scoring
from fsvfm_jax.convert import pth, reference
from fsvfm_jax.convert.__main__ import main as convert
from fsvfm_jax.convert.folder import write_folder
from fsvfm_jax.convert.measures import network, unseen
from fsvfm_jax.data.labelled.detection_sets import open_sets
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.rand_augment import CROP_PCT, evaluation_view
from fsvfm_jax.data.stats import save_stats
from fsvfm_jax.devices import sharding
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.attention_pool import AttentionPool
from fsvfm_jax.models.fsvfm import encoder_subset
from fsvfm_jax.predict import networks, programs
from fsvfm_jax.predict.networks import load
from fsvfm_jax.report.metrics import probability

WITH_POOL = {"class_token": False, "prefix_positions": 0, "pool_heads": TINY["num_heads"]}
KINDS = {
    "mean": {},
    "token": {"pool": "token"},
    "attention": {"pool": "attention"} | WITH_POOL,
    "adapter": {"adapter_reduction": 4},
    "fas": {"fas": True},
}
COUNT = 21
# Some of these faces have sides of unlike length.
pytestmark = pytest.mark.filterwarnings("ignore:.*look like whole photographs:UserWarning")


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Returns folders by name: detectors of all kinds, and an encoder."""
    root = tmp_path_factory.mktemp("exported")
    for name, options in KINDS.items():
        attributes = TINY | options
        write_folder(root / name, detector_params(attributes), describe(attributes, labels=LABELS))
    write_folder(root / "encoder", encoder_params(TINY), describe(TINY, license="apache-2.0"))
    return root


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """Returns a tree of 21 real and fake faces of several sizes, most of them not square."""
    root, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for number in range(COUNT):
        file = root / ("real" if number % 3 else "fake") / f"v{number // 2}_frame_{number % 2}.png"
        file.parent.mkdir(exist_ok=True)
        shape = (70 + number, 64, 3)
        Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8)).save(file)
    return root


def normalized(files, view="resize"):
    pixels = [np.asarray(Image.open(file)) for file in files]
    views = np.stack([evaluation_view(x, size=64, transform=view) for x in pixels])
    return jnp.asarray((views / 255 - np.array(STATS.mean)) / np.array(STATS.std), jnp.float32)


def some(faces, count=5):
    return sorted(faces.rglob("*.png"))[:count]


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_features_and_margins_are_those_of_the_network(exported, faces, kind):
    files, detector = some(faces), load(exported / kind)
    params = jax.device_put(detector_params(TINY | KINDS[kind]))
    model = network(params, **unseen(TINY | KINDS[kind]))
    output = model.apply({"params": params}, normalized(files))
    pooled = detector.features(files, pool=model.pool)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, output.features, rtol=0, atol=2e-5)
    margins = output.logits[:, 0] - output.logits[:, 1]
    np.testing.assert_allclose(detector.margins(files), margins, rtol=0, atol=2e-5)
    p = detector.predict(files)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p, probability(detector.margins(files)), rtol=0, atol=0)
    assert detector.score_name == ("p_spoof" if kind == "fas" else "p_fake")
    assert detector.label_names == LABELS and detector.facts["license"] == "cc-by-nc-4.0"
    assert (detector.image_size, detector.view, detector.stats) == (64, "resize", STATS)


def test_features_of_an_encoder_are_its_normalised_tokens(exported, faces):
    files, encoder = some(faces), load(exported / "encoder")
    params = encoder_params(TINY)
    model = network(params, num_heads=TINY["num_heads"])
    tokens = model.apply({"params": params}, normalized(files), method="encode")
    expected = {"token": tokens[:, 0], "patches": tokens[:, 1:], "mean": tokens[:, 1:].mean(axis=1)}
    for pool, values in expected.items():
        found = encoder.features(files, pool=pool)
        np.testing.assert_allclose(found, values, rtol=0, atol=2e-5)
    assert not hasattr(encoder, "predict") and encoder.label_names == ()
    with pytest.raises(AttributeError, match=r"is no detector: fine-tune it first .* `features`"):
        encoder.predict(np.zeros((8, 8, 3), np.uint8))
    assert encoder.facts["license"] == "apache-2.0" and encoder.facts["source"] == "encoder"


@pytest.mark.e2e
@pytest.mark.parametrize("view", CROP_PCT)
def test_scores_are_those_of_evaluation_whatever_the_batch_and_order(tmp_path, faces, view):
    params = detector_params(TINY)
    description = describe(TINY, labels=LABELS[::-1], crop_pct=CROP_PCT[view])
    write_folder(tmp_path / "detector", params, description)
    tree = ConfigDict({"x": face_set("folder")})
    testset = open_sets(tree, [str(faces)], image_size=64)["x"]
    loaded = load(tmp_path / "detector")
    assert loaded.view == view
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1}, jax.devices()[:1])
    predict = scoring.make_predict(loaded.model, stats=STATS, mesh=mesh)
    feed = scoring.Feed(64, view, 8, 0, mesh)
    margins = scoring.score_set(predict, loaded.params, testset, feed=feed, name="x")

    files = [testset.name(index) for index in range(COUNT)]
    order = np.random.default_rng(1).permutation(COUNT)
    p = probability(margins)
    for batch_size in (1, 8, 32):
        loaded = load(tmp_path / "detector", batch_size=batch_size)
        shuffled = [files[index] for index in order]
        np.testing.assert_allclose(loaded.predict(shuffled), p[order], rtol=0, atol=1e-6)
        if batch_size == 8:
            found = loaded.margins(shuffled)
            np.testing.assert_allclose(found, margins[order], rtol=0, atol=1e-6)
    alone = [loaded.predict(file)[0] for file in files[:3]]
    np.testing.assert_allclose(alone, p[:3], rtol=0, atol=1e-6)
    # The folder's logits are in the other order.
    model = network(params, num_heads=TINY["num_heads"])
    logits = model.apply({"params": params}, normalized(files, view)).logits
    np.testing.assert_allclose(margins, logits[:, 1] - logits[:, 0], rtol=0, atol=2e-5)


@pytest.mark.e2e
def test_one_program_is_compiled_for_each_size_of_a_batch(exported, faces):
    detector = load(exported / "token", batch_size=4)
    files = some(faces, 9)
    before = programs.margins._cache_size()
    # The sizes of the batches are 4, 4 and 1; a power of two is the size of one that is not full.
    for count, compiled in ((9, 2), (8, 2), (3, 2), (2, 3), (6, 3)):
        assert detector.margins(files[:count]).shape == (count,)
        assert programs.margins._cache_size() == before + compiled


def test_images_are_arrays_pictures_paths_or_many_of_them(exported, faces):
    detector = load(exported / "mean")
    file = some(faces)[0]
    picture = Image.open(file)
    pixels = np.asarray(picture)
    expected = detector.margins(pixels)
    assert expected.shape == (1,)
    for form in (file, str(file), picture, [file], [pixels], pixels[None], iter([picture])):
        np.testing.assert_array_equal(detector.margins(form), expected)
    mixed = detector.margins([file, picture, pixels, some(faces)[1]])
    np.testing.assert_allclose(mixed[:3], expected.repeat(3), rtol=0, atol=1e-6)
    assert abs(mixed[3] - mixed[0]) > 1e-3
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert np.isfinite(detector.margins(picture.convert(mode))).all()
    assert detector.margins([]).shape == (0,)
    assert detector.features([], pool="patches").shape == (0, 16, 48)
    assert detector.features(np.zeros((0, 5, 5, 3), np.uint8)).shape == (0, 48)


def test_whole_photographs_are_warned_of_once_in_a_call(exported, faces):
    detector = load(exported / "mean")
    photographs = [np.zeros((10, 20, 3), np.uint8), np.zeros((1025, 1030, 3), np.uint8)]
    with pytest.warns(UserWarning, match=r"2 of 3 pictures .*, such as the one with index 1") as w:
        detector.predict([some(faces)[0], *photographs])
    assert len(w) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.predict(some(faces)[0])


def test_an_odd_image_is_refused_in_one_sentence(exported, faces, tmp_path):
    detector = load(exported / "mean")
    cut = tmp_path / "cut.png"
    cut.write_bytes(some(faces)[0].read_bytes()[:3000])
    damaged = Image.open(cut)
    odd = {
        "float32": np.zeros((8, 8, 3), np.float32),
        "bool": np.zeros((8, 8, 3), bool),
        r"shape \[8, 8\]": np.zeros((8, 8), np.uint8),
        r"8, 8, 4\]": np.zeros((2, 8, 8, 4), np.uint8),
        r"3, 8, 8\]": np.zeros((1, 3, 8, 8), np.uint8),
        r"shape \[0, 8, 3\]": np.zeros((0, 8, 3), np.uint8),
        "mode F": Image.new("F", (8, 8)),
        "picture of Pillow cannot be read": damaged,
        r"cut\.png: ": cut,
        "image missing.png: it cannot be read": "missing.png",
        "it is a folder": tmp_path,
    }
    for said, image in odd.items():
        for images in (image, [some(faces)[0], image]):
            with pytest.raises(DataError, match=said) as error:
                detector.predict(images)
            assert "\n" not in str(error.value)
    damaged.close()


def test_the_block_and_the_pool_are_chosen(exported, faces):
    detector, files = load(exported / "mean"), some(faces)
    assert detector.features(files, block=1, pool="patches").shape == (5, 16, 48)
    last, first = (detector.features(files, block=block) for block in (2, 1))
    assert np.abs(last - first).max() > 0.1
    for options in ({"block": 0}, {"block": 3}, {"pool": "max"}, {"pool": "attention"}):
        with pytest.raises(ConfigError, match=r"0|3|max|no attention pool"):
            detector.features(files, **options)


def test_the_attention_pools_output_is_a_feature(tmp_path, faces):
    measures = TINY | WITH_POOL
    params = encoder_params(measures)
    write_folder(tmp_path / "x", params, describe(measures | {"pool": "attention"}))
    network, files = load(tmp_path / "x"), some(faces)
    found = network.features(files, pool="attention")
    tokens = jnp.asarray(network.features(files, pool="patches"))
    pool = AttentionPool(TINY["width"], TINY["num_heads"], "float32")
    expected = pool.apply({"params": jax.tree.map(jnp.asarray, params["attn_pool"])}, tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="is for the last block: leave out the block"):
        network.features(files, pool="attention", block=1)


def test_what_the_weights_do_not_contain_must_be_given(tmp_path, faces):
    params = detector_params(TINY)
    file = tmp_path / "detector.pth"
    pth.write(file, reference.to_state_dict(params))
    given = {"num_heads": TINY["num_heads"], "stats": STATS, "labels": LABELS}
    for name, said in (("num_heads", "num_heads"), ("stats", "--stats"), ("labels", "--labels")):
        with pytest.raises(ConfigError, match=said):
            load(file, **{key: value for key, value in given.items() if key != name})
    loaded = load(file, **given)
    save_stats(tmp_path / "stats.json", STATS)
    again = load(file, **given | {"stats": tmp_path / "stats.json"})
    files = some(faces)
    np.testing.assert_array_equal(again.margins(files), loaded.margins(files))
    other = load(file, **given | {"labels": LABELS[::-1]})
    np.testing.assert_allclose(other.margins(files), -loaded.margins(files), rtol=0, atol=1e-6)
    for name, value, said in (
        ("stats", ((0.5, 0.5), (0.1, 0.1)), "no mean and std"),
        ("stats", tmp_path / "none.json", "none.json"),
        ("labels", ("real", "print"), "--labels"),
        ("view", "crop", "view"),
        ("batch_size", 0, "batch_size"),
        ("branch", "both", "branch"),
        ("dtype", "float16", "dtype"),
    ):
        with pytest.raises((ConfigError, DataError), match=said):
            load(file, **given | {name: value})


def test_facts_tell_the_face_detector_and_margin_of_the_weights(tmp_path):
    description = describe(TINY, labels=LABELS, face_detector="dlib", crop_margin=0.15)
    write_folder(tmp_path / "d", detector_params(TINY), description)
    facts = load(tmp_path / "d").facts
    assert (facts["face_detector"], facts["crop_margin"]) == ("dlib", 0.15)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"interpolation": "bilinear"}, "bilinear"), ({"crop_pct": 0.9}, "crop_pct 0.9")],
)
def test_another_way_of_resizing_is_refused(tmp_path, changes, said):
    write_folder(tmp_path / "d", detector_params(TINY), describe(TINY, labels=LABELS, **changes))
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "d")


def test_other_labels_than_the_stored_ones_are_refused(exported):
    with pytest.raises(ConfigError, match="has the labels"):
        load(exported / "mean", labels=LABELS[::-1])


def test_an_encoder_has_no_labels(exported):
    with pytest.raises(ConfigError, match="is an encoder, which has no labels"):
        load(exported / "encoder", labels=LABELS)


def test_the_hash_is_that_of_the_network_wherever_it_is_stored(exported, tmp_path):
    first = load(exported / "mean").sha256
    assert len(first) == 64 and first != load(exported / "adapter").sha256
    file = tmp_path / "detector.pth"
    pth.write(file, reference.to_state_dict(detector_params(TINY)))
    options = {"num_heads": 4, "stats": STATS}
    assert load(file, labels=LABELS, **options).sha256 == first
    assert load(file, labels=LABELS[::-1], **options).sha256 != first
    for other in ({"num_heads": 2}, {"stats": STATS._replace(std=(0.1, 0.2, 0.3))}):
        assert load(file, labels=LABELS, **options | other).sha256 != first


def test_weights_that_are_not_finite_give_no_score(exported, faces, tmp_path):
    params = detector_params(TINY)
    params["head"]["bias"][0] = np.nan
    description = describe(TINY, labels=LABELS)
    write_folder(tmp_path / "d", params, description, allow_not_finite=True)
    with pytest.raises(DataError, match="not finite"):
        load(tmp_path / "d").predict(some(faces))


@pytest.mark.e2e
def test_an_encoder_of_a_run_is_that_of_its_student_or_teacher(short_run, faces):
    for branch in ("student", "teacher"):
        loaded = load(short_run, branch=branch)
        assert type(loaded) is networks.Encoder and loaded.model.image_size == 32
        assert loaded.features(some(faces)).shape == (5, 32)
        assert loaded.params.keys() == encoder_subset(loaded.params).keys()
    assert load(short_run).sha256 != load(short_run, step=3).sha256


@pytest.mark.e2e
def test_a_run_keeps_its_view_also_when_it_is_exported(tmp_path, faces):
    config = detection_config(changes={"data.view": "resize256_crop224", "epochs": 1})
    run_detection(tmp_path / "run", config)
    detector = load(tmp_path / "run")
    assert detector.view == "resize256_crop224" and detector.label_names == LABELS
    convert(["to", "folder", str(tmp_path / "run"), str(tmp_path / "d"), "--license=apache-2.0"])
    again = fsvfm_jax.load(tmp_path / "d")
    assert again.view == "resize256_crop224" and again.sha256 == detector.sha256
    files = some(faces)
    np.testing.assert_array_equal(again.predict(files), detector.predict(files))
    stored = json.loads((tmp_path / "d" / "preprocess.json").read_text())
    assert stored["resize_shorter_side"] == 36  # 32 * 8 / 7


def test_the_package_alone_imports_neither_jax_nor_numpy():
    program = "import sys; before = set(sys.modules); import fsvfm_jax; fsvfm_jax.load;"
    program += "fsvfm_jax.__version__; print(*sorted(set(sys.modules) - before))"
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True
    )
    imported = {name.split(".")[0] for name in done.stdout.split()}
    assert imported - sys.stdlib_module_names == {"fsvfm_jax"}
