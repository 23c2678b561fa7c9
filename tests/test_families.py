"""Tests encoders of every family against timm and transformers: features, options, round trips."""

import functools
import logging

import golden_numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_vits import CASES, POOLED, TINY, build, pooled_of, save, tokens_of
from golden_files import need
from random_weights import describe, encoder_in, images

from fsvfm_jax.convert.folder import read_folder, write_folder
from fsvfm_jax.convert.foreign import to_encoder
from fsvfm_jax.convert.positions import resize_positions
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models import build_encoder, layers
from fsvfm_jax.models.attention_maps import attention_weights
from fsvfm_jax.models.vit import OPTIONS, ViT

slow = pytest.mark.slow
S = {"width": 384, "depth": 12, "num_heads": 6}
B = {"width": 768, "depth": 12, "num_heads": 12}
L = {"width": 1024, "depth": 24, "num_heads": 16}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Returns a function from a case to its network, its folder, and our encoder of it."""

    @functools.cache
    def made(name):
        case, folder = CASES[name], tmp_path_factory.mktemp("network")
        network = build(case, TINY)
        save(case, network, TINY, folder)
        encoder = encoder_in(folder, num_heads=2)
        return network, folder, encoder, encode(encoder.model, encoder.params)

    return made


def encode(model, params, size=32, ids_keep=None):
    def compute(params, x):
        return ViT(**model).apply({"params": params}, x, ids_keep, method="encode")

    return np.asarray(jax.jit(compute)(params, images(size)))


def pool(model, params, size=32):
    def compute(params, x):
        return ViT(**model).apply({"params": params}, x, method="encode_and_pool")

    return np.asarray(jax.jit(compute)(params, images(size)))


@pytest.mark.e2e
@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_library(name, networks):
    network, _, encoder, ours = networks(name)
    case = CASES[name]
    assert encoder.family == case.family
    assert encoder.model == TINY | case.options
    assert len(encoder.left_out) == case.left_out
    theirs = tokens_of(case)(network, images(32))
    assert np.std(ours) > 0.5
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.e2e
@pytest.mark.parametrize("name", POOLED)
def test_the_attention_pool_is_that_of_the_library(name, networks):
    network, _, encoder, _ = networks(name)
    ours, theirs = pool(encoder.model, encoder.params), pooled_of(CASES[name])(network, images(32))
    assert np.std(ours) > 0.5
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    # Their number of heads is in no array.
    others = pool(encoder.model | {"pool_heads": 4}, encoder.params)
    assert np.abs(others - theirs).max() > 1e-3


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["dinov2 registers hf", "dinov3 hf", "clip hf", "perception timm"])
def test_every_option_matters(name, networks):
    _, _, encoder, whole = networks(name)
    params = encoder.params | {"pos_embed": encoder.params.get("pos_embed", np.zeros((1, 17, 48)))}
    for option in encoder.model.keys() & {*OPTIONS} - {"patch_bias", "key_bias", "pool_heads"}:
        model = {name: value for name, value in encoder.model.items() if name != option}
        found = encode(model, params)
        assert np.abs(found[:, -16:] - whole[:, -16:]).max() > 1e-3, option


@pytest.mark.e2e
def test_a_bias_that_the_family_does_not_have_has_no_effect_and_no_gradient(networks):
    encoder = networks("dinov3 hf")[2]
    model = encoder.model | {"patch_bias": False}
    params = jax.tree.map(jnp.asarray, encoder.params)
    blocks = params["blocks"]["attn"]["qkv"]
    keys = slice(48, 96)
    assert not np.any(blocks["bias"][:, keys]) and np.any(blocks["bias"][:, :48])
    blocks["bias"] = blocks["bias"].at[:, keys].set(1.0)
    faces = jnp.asarray(images(32))
    ours = jax.jit(lambda x: ViT(**model).apply({"params": x}, faces, method="encode"))
    zeros = params | {"patch_embed": params["patch_embed"] | {"bias": jnp.zeros(48)}}
    np.testing.assert_array_equal(ours(params), ours(zeros))
    gradient = jax.jit(jax.grad(lambda params: (ours(params) ** 2).sum()))(params)
    assert not np.any(gradient["patch_embed"]["bias"])
    of_qkv = gradient["blocks"]["attn"]["qkv"]["bias"]
    assert not np.any(of_qkv[:, keys]) and np.all(np.any(of_qkv[:, :48], axis=1))
    # With the bias in use, both change the features.
    for option in ("patch_bias", "key_bias"):
        found = encode(model | {option: True}, params)
        assert np.abs(found - ours(params)).max() > 1e-3, option


@pytest.mark.e2e
@pytest.mark.parametrize("name", CASES)
def test_timm_loads_what_is_exported_and_the_way_back_changes_nothing(name, networks, tmp_path):
    torch, timm = need("torch"), need("timm")
    _, _, encoder, ours = networks(name)
    kind = "attention" if "pool_heads" in encoder.model else "token"
    write_folder(tmp_path / "x", encoder.params, describe(encoder.model | {"pool": kind}))
    back = read_folder(tmp_path / "x")
    assert back.description.model == encoder.model | {"pool": kind}
    assert jax.tree.structure(back.params) == jax.tree.structure(encoder.params)
    jax.tree.map(np.testing.assert_array_equal, back.params, encoder.params)
    network = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True).eval()
    with torch.inference_mode():
        tokens = network.forward_features(torch.from_numpy(images(32)).permute(0, 3, 1, 2))
        pooled = network.forward_head(tokens, pre_logits=True).numpy()
    np.testing.assert_allclose(ours, tokens.numpy(), rtol=0, atol=1e-5)
    expected = pool(encoder.model, encoder.params) if kind == "attention" else ours[:, 0]
    np.testing.assert_allclose(expected, pooled, rtol=0, atol=1e-5)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["dinov3 hf", "perception timm"])
def test_a_patch_keeps_its_position_where_others_are_removed(name, networks):
    _, _, encoder, whole = networks(name)
    order = jax.random.permutation(jax.random.key(0), 16)[None]
    found = encode(encoder.model, encoder.params, ids_keep=order)
    prefix = ViT(**encoder.model).num_prefix
    np.testing.assert_allclose(found[:, :prefix], whole[:, :prefix], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[:, prefix:], whole[:, prefix + order[0]], rtol=0, atol=1e-5)
    some = encode(encoder.model, encoder.params, ids_keep=order[:, :7])
    assert some.shape == (1, prefix + 7, 48)
    # Half precision changes little.
    half = encode(encoder.model | {"dtype": "bfloat16"}, encoder.params)
    assert half.dtype == jnp.bfloat16
    assert golden_numbers.relative_difference(half.astype(np.float32), whole) < 0.05


@pytest.mark.e2e
def test_padding_for_cudnns_even_lengths_changes_nothing(networks, monkeypatch):
    _, _, encoder, whole = networks("dinov3 hf")
    attend, lengths = layers.attend, []

    def on_this_device(q, k, v, **options):
        lengths.append(q.shape[1])
        return attend(q, k, v, lengths=options["lengths"], implementation=None)

    monkeypatch.setattr(layers, "attend", on_this_device)
    model = encoder.model | {"attention": "cudnn"}
    np.testing.assert_allclose(encode(model, encoder.params), whole, rtol=0, atol=1e-5)
    some = encode(model, encoder.params, ids_keep=jnp.arange(6)[None])
    assert some.shape == (1, 11, 48) and set(lengths) == {22, 12}


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["dinov3 hf", "dinov2 registers hf", "clip hf"])
def test_attention_weights_are_those_of_transformers(name, networks):
    torch, (network, _, encoder, _) = need("torch"), networks(name)
    network.set_attn_implementation("eager")
    pixels = torch.from_numpy(images(32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        theirs = network(pixel_values=pixels, output_attentions=True).attentions
    ours = attention_weights(ViT(**encoder.model), encoder.params, jnp.asarray(images(32)))
    assert np.max(ours) > 0.2
    np.testing.assert_allclose(ours, np.stack([x.numpy() for x in theirs]), rtol=0, atol=1e-5)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        *(("dinov2 hf", 16), ("dinov2 registers hf", 16), ("dinov2 registers hf", 48)),
        *(("dinov3 hf", 48), ("siglip hf", 24), ("clip hf", 40)),
    ],
)
def test_another_image_size_is_that_of_transformers(name, image_size, networks):
    network, _, encoder, _ = networks(name)
    torch = need("torch")
    pixels = torch.from_numpy(images(image_size)).permute(0, 3, 1, 2)
    asked = {"interpolate_pos_encoding": True} if name in ("siglip hf", "clip hf") else {}
    with torch.inference_mode():
        theirs = network(pixel_values=pixels, **asked).last_hidden_state
        theirs = network.post_layernorm(theirs) if name == "clip hf" else theirs
    params = resize_positions(encoder.params, image_size, encoder.model)
    ours = encode(encoder.model | {"image_size": image_size}, params, image_size)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


def test_another_image_size_of_a_table_with_rotations_is_refused():
    with pytest.raises(ConfigError, match="not supported for a table with rotations"):
        resize_positions({}, 48, {"positions": "table_and_rope"})


@slow
@pytest.mark.parametrize("size", [S, B, L], ids="SBL")
@pytest.mark.parametrize(
    ("name", "image_size", "patch_size"),
    [
        *(("dinov2 hf", 224, 14), ("dinov2 registers timm", 518, 14), ("dinov3 hf", 224, 16)),
        *(("dinov3 timm", 256, 16), ("clip hf", 224, 16), ("clip quickgelu timm", 336, 14)),
        *(("siglip hf", 224, 16), ("siglip timm", 256, 16), ("perception timm", 224, 16)),
        *(("perception timm", 336, 14), ("supervised timm", 224, 32), ("supervised timm", 384, 16)),
    ],
)
def test_features_of_every_size(name, image_size, patch_size, size, tmp_path):
    case = CASES[name]
    measures = size | {"image_size": image_size, "patch_size": patch_size}
    network = build(case, measures)
    save(case, network, measures, tmp_path)
    encoder = encoder_in(tmp_path)
    heads = {"pool_heads": size["num_heads"]} if case.family == "SigLIP" else {}
    assert encoder.model == measures | case.options | heads
    for compute, their_compute in ((encode, tokens_of), (pool, pooled_of))[: 1 + (name in POOLED)]:
        theirs = their_compute(case)(network, images(image_size))
        ours = compute(encoder.model, encoder.params, image_size)
        logging.info("%s %s %d: %g", name, size, image_size, np.abs(ours - theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("supervised timm", "blocks.1.attn.qkv.bias"),
        ("supervised timm", "patch_embed.proj.bias"),
        ("dinov2 timm", "blocks.0.attn.qkv.bias"),
    ],
)
def test_a_bias_that_is_missing_in_one_place_is_not_taken_for_zero(name, missing):
    arrays = {key: x.numpy() for key, x in build(CASES[name], TINY).state_dict().items()}
    del arrays[missing]
    with pytest.raises(DataError, match=f"missing.*{missing}"):
        to_encoder(arrays, num_heads=2)


@pytest.mark.e2e
def test_a_bias_under_our_name_is_not_named_by_one_that_is_not_there():
    arrays = {key: x.numpy() for key, x in build(CASES["dinov3 timm"], TINY).state_dict().items()}
    arrays = {key: x for key, x in arrays.items() if "reg_token" not in key}
    arrays["blocks.0.attn.qkv.bias"] = np.zeros(144, np.float32)
    with pytest.raises(DataError, match="rotations of any kind"):
        to_encoder(arrays, num_heads=2)


@pytest.mark.e2e
def test_rotations_of_no_family_are_refused():
    arrays = {key: x.numpy() for key, x in build(CASES["dinov3 timm"], TINY).state_dict().items()}
    arrays = {key: x for key, x in arrays.items() if "reg_token" not in key}
    with pytest.raises(DataError, match="rotations of any kind"):
        to_encoder(arrays, num_heads=2)


def test_a_pool_that_the_network_does_not_have_is_refused(tmp_path):
    model = TINY | {"class_token": False, "prefix_positions": 0}
    params = jax.device_get(build_encoder(model).init_params(jax.random.key(0)))
    with pytest.raises(ConfigError, match="no class token"):
        write_folder(tmp_path / "x", params, describe(model | {"pool": "token"}))


def test_a_network_with_rotations_alone_has_no_rows_before_the_patches():
    with pytest.raises(ConfigError, match="prefix_positions = 0 is of a position table"):
        build_encoder(TINY | {"positions": "rope", "prefix_positions": 0})
