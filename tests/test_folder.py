"""Tests that one folder loads in timm, Hugging Face and here, and returns unchanged."""

import json
import os
import shutil
from functools import partial

import golden_numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import need
from PIL import Image
from random_weights import STATS, TINY, describe, detector_params, encoder_params, images

from fsvfm_jax.convert.__main__ import main
from fsvfm_jax.convert.folder import read_folder, split, timm_names, write_folder
from fsvfm_jax.errors import ConfigError, DataError, StorageError
from fsvfm_jax.models import build_detector
from fsvfm_jax.models.vit import ViT

LABELS = ("fake", "real")
# timm has such a pool in networks without a class token.
WITH_POOL = {"class_token": False, "prefix_positions": 0, "pool_heads": TINY["num_heads"]}
KINDS = {
    "mean": {},
    "token": {"pool": "token"},
    "attention": {"pool": "attention"} | WITH_POOL,
    "adapter": {"adapter_reduction": 4},
    "fas": {"fas": True},
    "fas_adapter": {"fas": True, "adapter_reduction": 4},
}


@pytest.fixture(scope="module")
def face():
    """Returns a photograph that is not square and does not have the network's size."""
    pixels = np.random.default_rng(3).integers(0, 256, (90, 80, 3), np.uint8)
    return Image.fromarray(pixels).resize((120, 100))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "tiny-detector"
    params = detector_params(TINY)
    write_folder(folder, params, describe(TINY, labels=LABELS, recipe="paper", step=7))
    return folder, params


def prepare(image: Image.Image) -> np.ndarray:
    """Resizes the shorter side to 64 (bicubic), crops the centre and normalises it."""
    width, height = image.size
    resized = image.resize((64 * width // height, 64), Image.Resampling.BICUBIC)
    left = round((resized.width - 64) / 2)
    pixels = np.asarray(resized.crop((left, 0, left + 64, 64)), np.float32) / 255
    return ((pixels - np.array(STATS.mean)) / np.array(STATS.std)).astype(np.float32)[None]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(tmp_path, kind):
    attributes = {**TINY, **KINDS[kind]}
    params = detector_params(attributes)
    description = describe(
        attributes, labels=LABELS, step=3, face_detector="dlib", crop_margin=0.3, crop_pct=0.875
    )
    write_folder(tmp_path / "x", params, description)
    read = read_folder(tmp_path / "x")
    assert read.description == description
    assert jax.tree.structure(read.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, read.params, params)


@pytest.mark.e2e
def test_timm_loads_it(detector, face):
    torch, timm = need("torch"), need("timm")
    folder, params = detector
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    pixels = transform(face)[None]
    np.testing.assert_allclose(pixels.permute(0, 2, 3, 1).numpy(), prepare(face), atol=0.03)
    ours = build_detector(TINY).apply({"params": params}, prepare(face)).logits
    with torch.inference_mode():
        logits = network(torch.from_numpy(prepare(face)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(logits.numpy(), ours, rtol=0, atol=1e-5)
    assert tuple(network.pretrained_cfg["label_names"]) == LABELS


def test_the_cards_six_lines_run_with_timm_alone(detector, face, capsys, monkeypatch):
    need("timm")
    folder, params = detector
    face.save(folder / "face.png")
    monkeypatch.chdir(folder)
    program = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in program.splitlines() if line]) == 6
    exec(program, {})
    printed = eval(capsys.readouterr().out, {"__builtins__": {}})
    logits = build_detector(TINY).apply({"params": params}, prepare(face)).logits
    expected = np.asarray(jax.nn.softmax(logits))[0]
    assert list(printed) == ["fake", "real"]
    np.testing.assert_allclose(list(printed.values()), expected, atol=0.02)


@pytest.mark.e2e
def test_hugging_face_loads_it(detector, face):
    torch, transformers = need("torch"), need("transformers")
    folder, params = detector
    network, info = transformers.AutoModelForImageClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values()), info
    assert network.config.id2label == {0: "fake", 1: "real"}
    assert network.config.label2id == {"fake": 0, "real": 1}
    ours = build_detector(TINY).apply({"params": params}, images(64)).logits
    with torch.inference_mode():
        logits = network(torch.from_numpy(images(64)).permute(0, 3, 1, 2)).logits
    np.testing.assert_allclose(logits.numpy(), ours, rtol=0, atol=1e-5)

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(face)["pixel_values"]
    timm = need("timm")
    network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    torch.testing.assert_close(pixels[0], transform(face), rtol=0, atol=0)

    classify = transformers.pipeline("image-classification", str(folder))
    scores = {result["label"]: result["score"] for result in classify(face)}
    logits = (
        build_detector(TINY).apply({"params": params}, pixels.permute(0, 2, 3, 1).numpy()).logits
    )
    expected = np.asarray(jax.nn.softmax(logits))[0]
    np.testing.assert_allclose([scores["fake"], scores["real"]], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "token", "attention"])
def test_an_encoder_loads_in_timm_and_hugging_face(tmp_path, pool):
    torch, timm, transformers = need("torch"), need("timm"), need("transformers")
    measures = TINY | (WITH_POOL if pool == "attention" else {})
    params = jax.tree.map(jnp.asarray, encoder_params(measures))
    write_folder(tmp_path / "x", params, describe({**measures, "pool": pool}))
    apply = partial(ViT(**measures).apply, {"params": params}, jnp.asarray(images(64)))
    ours = apply(method="encode")
    pooled = ours[:, 0] if pool == "token" else ours[:, 1:].mean(axis=1)
    if pool == "attention":
        pooled = apply(method="encode_and_pool")
    pixels = torch.from_numpy(images(64)).permute(0, 3, 1, 2)
    in_timm = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True).eval()
    in_transformers = transformers.AutoModel.from_pretrained(tmp_path / "x").eval()
    with torch.inference_mode():
        output = in_transformers(pixels)
        for tokens, features in (
            (in_timm.forward_features(pixels), in_timm(pixels)),
            (output.last_hidden_state, output.pooler_output),
        ):
            np.testing.assert_allclose(tokens.numpy(), ours, rtol=0, atol=1e-5)
            np.testing.assert_allclose(features.numpy(), pooled, rtol=0, atol=1e-5)


def test_a_small_file_finds_an_encoder_with_a_pool_that_its_detector_does_not_use(tmp_path):
    measures = TINY | WITH_POOL
    encoder = encoder_params(measures)
    write_folder(tmp_path / "encoder", encoder, describe(measures | {"pool": "attention"}))
    plain = {x: y for x, y in measures.items() if x != "pool_heads"}
    params = detector_params(plain | {"adapter_reduction": 4})
    params |= {x: y for x, y in encoder.items() if x in params}
    described = describe(plain | {"adapter_reduction": 4}, labels=LABELS)
    write_folder(tmp_path / "adapter", params, described, with_encoder=False)
    read = read_folder(tmp_path / "adapter", encoder=tmp_path / "encoder")
    jax.tree.map(np.testing.assert_array_equal, read.params, params)


def test_the_attention_pool_is_written_if_it_is_the_pool(tmp_path, capsys):
    measures = TINY | WITH_POOL | {"pool_heads": 2}
    params = encoder_params(measures)
    for model, has in ((measures | {"pool": "attention"}, "has no"), (measures, "has an")):
        kept = params if has == "has an" else {x: y for x, y in params.items() if x != "attn_pool"}
        with pytest.raises(ConfigError, match=f"{has} attention pool"):
            write_folder(tmp_path / "no", kept, describe(model))
    # timm's plain network has as many heads in its pool as in its blocks, and no class token.
    with pytest.raises(ConfigError, match="as many heads as the blocks, 4, and not 2"):
        write_folder(tmp_path / "no", params, describe(measures | {"pool": "attention"}))
    with_token = TINY | {"pool_heads": TINY["num_heads"]}
    with pytest.raises(ConfigError, match="does not attend to class token and registers"):
        write_folder(
            tmp_path / "no",
            encoder_params(with_token),
            describe(with_token | {"pool": "attention"}),
        )
    measures["pool_heads"] = TINY["num_heads"]
    write_folder(tmp_path / "x", params, describe(measures | {"pool": "attention"}))
    main(["to", "folder", str(tmp_path / "x"), str(tmp_path / "mean"), "--pool=mean"])
    assert "the attention pool is left out; --pool=attention keeps it" in capsys.readouterr().out
    without = read_folder(tmp_path / "mean")
    assert "attn_pool" not in without.params and "pool_heads" not in without.description.model
    main(["to", "folder", str(tmp_path / "x"), str(tmp_path / "same")])
    assert read_folder(tmp_path / "same").description.model["pool"] == "attention"
    for folder, flag, message in (
        (
            "mean",
            "--pool=attention",
            f"--pool=attention: {tmp_path / 'mean'} has no attention pool",
        ),
        ("detector", "--pool=token", "is a detector with the pool 'mean'; leave --pool out"),
        ("x", "--image-size=1000000000", "image size 1000000000 is over 4096 pixels"),
    ):
        if folder == "detector":
            write_folder(tmp_path / folder, detector_params(TINY), describe(TINY, labels=LABELS))
        with pytest.raises(SystemExit):
            main(["to", "folder", str(tmp_path / folder), str(tmp_path / "no"), flag])
        assert message in capsys.readouterr().err


def test_a_changed_description_of_the_attention_pool_is_refused(tmp_path):
    rotating = {"positions": "rope", "layer_norm_epsilon": 1e-5, "key_bias": False}
    measures = TINY | rotating | {"pool_heads": 2, "registers": 1}
    params = encoder_params(measures)
    params["blocks"]["attn"]["qkv"]["bias"][:, 48:96] = 0
    write_folder(tmp_path / "x", params, describe(measures | {"pool": "attention"}))
    assert read_folder(tmp_path / "x").description.model["pool_heads"] == 2
    written = json.loads((tmp_path / "x" / "config.json").read_text())
    for change, message in (
        (lambda config: config["model_args"].pop("attn_pool_num_heads"), "attn_pool_num_heads"),
        (lambda config: config["fsvfm_jax"]["model"].update(pool_heads=4), "attn_pool_num_heads"),
        (lambda config: config["fsvfm_jax"]["model"].update(pool_heads=0), "pool_heads = 0"),
        (lambda config: config["fsvfm_jax"]["model"].update(pool_heads=7), "not divisible"),
        (lambda config: config["fsvfm_jax"]["model"].update(pool="mean"), "pool = 'mean'"),
    ):
        config = json.loads(json.dumps(written))
        change(config)
        (tmp_path / "x" / "config.json").write_text(json.dumps(config))
        with pytest.raises(DataError, match=message) as error:
            read_folder(tmp_path / "x")
        assert "config.json" in str(error.value)


def test_an_adapters_encoder_is_found_and_checked(tmp_path):
    attributes = {**TINY, "adapter_reduction": 4}
    params, description = detector_params(attributes), describe(attributes, labels=LABELS)
    write_folder(tmp_path / "adapter", params, description, with_encoder=False)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "README.md",
        "adapter.safetensors",
        "config.json",
        "load_fsvfm.py",
        "preprocess.json",
    ]
    write_folder(tmp_path / "whole", params, description)
    write_folder(tmp_path / "other", detector_params(attributes, seed=1), description)
    read = read_folder(tmp_path / "adapter", encoder=tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, read.params, params)
    with pytest.raises(DataError, match="name the encoder's folder too"):
        read_folder(tmp_path / "adapter")
    with pytest.raises(DataError, match="holds another encoder"):
        read_folder(tmp_path / "adapter", encoder=tmp_path / "other")


def test_a_split_loses_nothing():
    state_dict = timm_names(detector_params({**TINY, "fas": True, "adapter_reduction": 4}))
    model, outside = split(state_dict)
    assert model.keys() | outside.keys() == state_dict.keys()
    assert model.keys() & outside.keys() == {"fc_norm.weight", "fc_norm.bias"}
    assert all(name.startswith(("blocks", "cls", "pos", "patch", "fc_norm")) for name in model)


@pytest.mark.parametrize(
    ("attributes", "labels", "message"),
    [
        ({**TINY, "width": 64}, LABELS, "width is 48 by the arrays' shapes, not 64"),
        ({**TINY, "depth": 3}, LABELS, "depth is 2"),
        ({**TINY, "image_size": 96}, LABELS, "image_size is 64"),
        ({**TINY, "pool": "token"}, LABELS, "pool is mean"),
        ({**TINY, "pool": "avg"}, LABELS, "has pool"),
        ({k: v for k, v in TINY.items() if k != "num_heads"}, LABELS, "has pool"),
        (TINY, (), r"2 classes need as many different names, not \[\]"),
        (TINY, ("fake", "fake"), "2 classes need"),
        (TINY, ("fake", "real", "spoof"), "2 classes need"),
    ],
)
def test_a_description_of_something_else_is_refused(tmp_path, attributes, labels, message):
    with pytest.raises(ConfigError, match=message):
        write_folder(tmp_path / "x", detector_params(TINY), describe(attributes, labels=labels))
    assert not (tmp_path / "x").exists()


def test_a_student_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="a student has no place in a folder"):
        write_folder(tmp_path / "x", golden_numbers.params("init"), describe(TINY))


def test_only_an_adapter_stands_on_an_encoder(tmp_path):
    with pytest.raises(ConfigError, match="only a run of another mode than full"):
        write_folder(
            tmp_path / "x",
            detector_params(TINY),
            describe(TINY, labels=LABELS),
            with_encoder=False,
        )


def test_nothing_is_overwritten(detector, tmp_path):
    folder, params = detector
    description = describe(TINY, labels=LABELS)
    with pytest.raises(StorageError, match="is not empty"):
        write_folder(folder, params, description)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_folder(tmp_path / "file" / "x", params, description)


def damage(folder, name, change):
    config = json.loads((folder / "config.json").read_text())
    if name == "config.json":
        change(config)
        (folder / name).write_text(json.dumps(config))
    else:
        content = bytearray((folder / name).read_bytes())
        change(content)
        (folder / name).write_bytes(content)


def flip(content):
    content[-100] ^= 1


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", flip, "SHA-256"),
        ("model.safetensors", lambda x: x.clear(), "no whole safetensors file"),
        ("config.json", lambda x: x.clear(), "not that of a folder written by fsvfm_jax"),
        ("config.json", lambda x: x.update(fsvfm_jax=3), "not that of a folder"),
        ("config.json", lambda x: x["fsvfm_jax"].pop("license"), "`license`"),
        ("config.json", lambda x: x["fsvfm_jax"].update(stats={"mean": 1}), "not that of a folder"),
        ("config.json", lambda x: x["fsvfm_jax"].update(model=[1]), "config.json"),
        ("config.json", lambda x: x["fsvfm_jax"]["model"].update(width=64), "width is 48"),
        ("config.json", lambda x: x["fsvfm_jax"]["model"].update(num_heads=0), ">= 1"),
        ("config.json", lambda x: x["fsvfm_jax"].update(label_names=["real"]), "2 classes need"),
        ("config.json", lambda x: x["label_names"].reverse(), "label_names = "),
        (
            "config.json",
            lambda x: x["fsvfm_jax"]["label_names"].reverse(),
            "and fsvfm_jax in it has",
        ),
        ("config.json", lambda x: x["model_args"].update(num_heads=2), "num_heads = 2, and"),
        ("config.json", lambda x: x["pretrained_cfg"].update(crop_pct=0.5), "cfg.crop_pct = 0.5"),
        ("config.json", lambda x: x["pretrained_cfg"].update(mean=[0, 0, 0]), "cfg.mean = "),
        ("config.json", lambda x: x.update(pretrained_cfg=3), "pretrained_cfg"),
        ("config.json", lambda x: x["fsvfm_jax"]["sha256"].update({"/etc/x": ""}), "'/etc/x'"),
        ("config.json", lambda x: x["fsvfm_jax"]["sha256"].clear(), "length >= 1"),
        (
            "config.json",
            lambda x: x["fsvfm_jax"].update(layer_norm_epsilon=0.01),
            "two values of layer",
        ),
        (
            "config.json",
            lambda x: x["fsvfm_jax"].update(layer_norm_epsilon=0),
            "two values of layer",
        ),
        ("config.json", lambda x: x["fsvfm_jax"].update(layer_norm_epsilon=None), "null"),
        (
            "config.json",
            lambda x: x["fsvfm_jax"].update(interpolation="f" * 600_000),
            "Invalid enum",
        ),
        *(
            ("config.json", lambda x, name=name: x["fsvfm_jax"].update({name: "f" * 600_000}), name)
            for name in ("dataset_fingerprint", "source_sha256", "license")
        ),
        ("config.json", lambda x: x["fsvfm_jax"].update(label_names=["x", "y" * 201]), "<= 200"),
        ("config.json", lambda x: x["fsvfm_jax"].update(label_names=["x"] * 10**5), "99,980 more"),
        ("config.json", lambda x: x["fsvfm_jax"]["sha256"].update({"x" * 10**6: ""}), "<= 200"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, name, change, message):
    write_folder(tmp_path / "x", detector_params(TINY), describe(TINY, labels=LABELS))
    damage(tmp_path / "x", name, change)
    with pytest.raises(DataError, match=message) as error:
        read_folder(tmp_path / "x")
    assert len(str(error.value)) < 1000


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        read_folder(tmp_path)
    write_folder(tmp_path / "x", detector_params(TINY), describe(TINY, labels=LABELS))
    os.remove(tmp_path / "x" / "model.safetensors")
    with pytest.raises(DataError, match=r"model\.safetensors cannot be read"):
        read_folder(tmp_path / "x")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "sparse"])
def test_what_is_no_plain_file_is_refused_at_once(detector, tmp_path, name, kind):
    folder = tmp_path / "x"
    shutil.copytree(detector[0], folder)
    file = folder / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.touch()
        os.truncate(file, 50 * 10**9)
    with pytest.raises(DataError, match=rf"{name} cannot be read \(it (is a|has 50,000,000,000)"):
        read_folder(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_written_only_where_asked_for(tmp_path, value):
    params, description = detector_params(TINY), describe(TINY, labels=LABELS)
    params["head"]["bias"] = np.array([0, value], np.float32)
    with pytest.raises(DataError, match=r"checkpoint-399\.pth has .*, in head/bias \(1 of 2\)"):
        write_folder(tmp_path / "x", params, description)
    assert not (tmp_path / "x").exists()
    write_folder(tmp_path / "x", params, description, allow_not_finite=True)
    read = read_folder(tmp_path / "x").params
    np.testing.assert_array_equal(read["head"]["bias"], params["head"]["bias"])


def test_a_folder_of_before_is_read(tmp_path):
    write_folder(tmp_path / "x", encoder_params(TINY), describe(TINY))
    damage(tmp_path / "x", "config.json", lambda x: x["fsvfm_jax"].pop("layer_norm_epsilon"))
    assert read_folder(tmp_path / "x").description == describe(TINY)


@pytest.mark.parametrize("license", ["CC BY 4.0", "7", "{'a': 1}", "mit\n---\n", "<b>", "é"])
def test_any_text_is_read_as_a_licence_and_written_as_an_identifier(tmp_path, license, capsys):
    folder, again = tmp_path / "x", tmp_path / "again"
    write_folder(folder, encoder_params(TINY), describe(TINY))
    damage(folder, "config.json", lambda x: x["fsvfm_jax"].update(license=license))
    assert read_folder(folder).description.license == license
    with pytest.raises(SystemExit, match="78"):
        main(["to", "folder", str(folder), str(again)])
    (line,) = capsys.readouterr().err.splitlines()
    assert "give the identifier of the same licence with --license" in line
    main(["to", "folder", str(folder), str(again), "--license=cc-by-4.0"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "is written as cc-by-4.0, which must be the same licence" in line
    assert read_folder(again).description.license == "cc-by-4.0"
    assert "license: cc-by-4.0\n" in (again / "README.md").read_text()


@pytest.mark.parametrize("license", [7, {"a": 1}, None, ["mit"], "", "x" * 201])
def test_a_licence_that_is_no_short_text_is_refused(tmp_path, license):
    write_folder(tmp_path / "x", encoder_params(TINY), describe(TINY))
    damage(tmp_path / "x", "config.json", lambda x: x["fsvfm_jax"].update(license=license))
    with pytest.raises(DataError, match=r"fsvfm_jax\.license"):
        read_folder(tmp_path / "x")
