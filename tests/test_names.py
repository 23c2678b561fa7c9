"""Tests encoders under the names of their original files, and how a family is found."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from golden_files import need
from random_weights import TINY, encoder_params, images

from fsvfm_jax.convert import architectures, names, reference
from fsvfm_jax.convert.configs import known
from fsvfm_jax.convert.entries import find_network
from fsvfm_jax.convert.families import FAMILIES
from fsvfm_jax.convert.foreign import to_encoder
from fsvfm_jax.convert.weights import read_source
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models.vit import ViT

MEASURES = TINY | {"image_size": 56, "patch_size": 14}
CLIP = {"pre_norm": True, "patch_bias": False, "layer_norm_epsilon": 1e-5}
QUICK, PERCEPTION = {"activation": "quick_gelu"}, {"positions": "table_and_rope", "pool_heads": 8}
REGISTERS = {"registers": 4, "layer_scale": True}
ROPE = {"positions": "rope", "key_bias": False, "layer_norm_epsilon": 1e-5}
SIGLIP = {"class_token": False, "prefix_positions": 0, "pool_heads": 4}


class Original(NamedTuple):
    """A kind of file: its family, names, options, prefix, and keys of other parts."""

    family: str
    names: names.Names
    options: dict[str, Any]
    prefix: str
    others: tuple[str, ...]


ORIGINALS = (
    Original("DINOv2", names.TIMM, {"layer_scale": True}, "", ("mask_token",)),
    Original("DINOv2", names.DINOV2, REGISTERS, "", ("mask_token",)),
    Original(
        "DINOv3",
        names.DINOV3,
        REGISTERS | ROPE,
        "",
        ("mask_token", "rope_embed.periods", "blocks.0.attn.qkv.bias_mask"),
    ),
    Original("CLIP", names.OPENAI, CLIP | QUICK, "visual.", ("proj",)),
    Original(
        "Perception Encoder",
        names.OPENAI,
        CLIP | PERCEPTION,
        "visual.",
        ("proj",),
    ),
    Original("CLIP", names.TIMM, CLIP, "visual.trunk.", ()),
    Original("MoCo v3", names.TIMM, {}, "module.base_encoder.", ("head.0.weight",)),
    Original("SigLIP", names.TIMM, SIGLIP, "visual.trunk.", ()),
)


def params_of(options):
    """Returns random parameters of an encoder; biases without an effect are zero."""
    params = encoder_params(MEASURES | options)
    if not options.get("patch_bias", True):
        params["patch_embed"]["bias"] = np.zeros(48, np.float32)
    if not options.get("key_bias", True):
        params["blocks"]["attn"]["qkv"]["bias"][:, 48:96] = 0
    return params


def file_of(original, params):
    """Returns the arrays as the original file has them, beside those of a text encoder."""
    arrays, found = reference.to_state_dict(params), {}
    for start, ours, theirs, lacks in names._rows(original.names, MEASURES["depth"]):
        absent = "patch_embed" in ours and "bias" in ours and "patch_bias" in original.options
        if start + ours not in arrays or absent:
            continue
        array = arrays[start + ours][(0,) * lacks]
        # The queries of an attention pool are apart from its keys and values.
        count = len(theirs) if len(theirs) != 2 else [len(array) // 3]
        parts = np.split(array, count) if len(theirs) > 1 else [array]
        found |= dict(zip(theirs, parts, strict=True))
    found |= {key: np.ones((4, 4), np.float32) for key in original.others}
    if "rope_embed.periods" in found:  # rounded to bfloat16
        found["rope_embed.periods"] = np.array([1, 4.625, 21.5], np.float32)
    found = {original.prefix + key: array for key, array in found.items()}
    return found | ({"text.weight": np.ones(4, np.float32)} if original.prefix else {})


@pytest.mark.parametrize("original", ORIGINALS, ids=lambda x: f"{x.family} {x.names.library}")
def test_the_original_file_gives_the_same_encoder(original, caplog):
    params = params_of(original.options)
    found = find_network(file_of(original, params), path=Path("x.pth"))
    assert found.prefix == original.prefix
    encoder = to_encoder(found.state_dict, prefix=found.prefix, num_heads=4, image_size=56)
    assert (encoder.family, encoder.model) == (original.family, MEASURES | original.options)
    assert set(encoder.left_out) == set(original.others)
    assert ("contains CLIP's activation" in caplog.text) == (original.family == "CLIP")
    family = FAMILIES[original.family]
    assert encoder.facts == {"stats": family.stats}
    assert jax.tree.structure(encoder.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, encoder.params, params)


@pytest.mark.parametrize("index", [0, 2, 3])
def test_the_licence_of_an_original_file_is_not_guessed(index, tmp_path):
    torch = need("torch")
    original = ORIGINALS[index]
    arrays = file_of(original, params_of(original.options))
    file = tmp_path / "x.pth"
    torch.save({key: torch.from_numpy(array) for key, array in arrays.items()}, file)
    given = {"num_heads": 4, "image_size": 56}
    source = read_source(file, branch="student", given=given)
    assert source.file["family"] == original.family and "license" not in source.facts


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("index", "architecture"),
    [
        (0, "vit_small_patch14_dinov2"),
        (1, "vit_small_patch14_reg4_dinov2"),
        (2, "vit_small_patch16_dinov3_qkvb"),
        (3, "vit_base_patch16_clip_quickgelu_224"),
        (4, "vit_pe_core_base_patch16_224"),
    ],
)
def test_timm_reads_the_original_file_as_the_same_network(index, architecture):
    torch, timm = need("torch"), need("timm")
    original = ORIGINALS[index]
    params = params_of(original.options)
    arrays = file_of(original, params)
    arrays = {key: torch.from_numpy(x) for key, x in arrays.items() if key[-4:] != "proj"}
    sizes = {"img_size": 56, "patch_size": 14, "embed_dim": 48, "depth": 2, "num_heads": 4}
    others = {"global_pool": "token"}
    if original.family == "Perception Encoder":
        others = {"ref_feat_shape": (4, 4), "global_pool": "map"}
    network = timm.create_model(architecture, **sizes, **others, num_classes=0).eval()
    module = timm.models.eva if "dinov3" in architecture or "_pe_" in architecture else None
    module = module or timm.models.vision_transformer
    read = module.checkpoint_filter_fn(arrays, network)
    missing = network.load_state_dict(read, strict=False).missing_keys
    assert not missing
    with torch.inference_mode():
        theirs = network.forward_features(torch.from_numpy(images(56)).permute(0, 3, 1, 2))
        if others["global_pool"] == "map":
            theirs = network.forward_head(theirs, pre_logits=True)
    model = ViT(**MEASURES | original.options)
    encode = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode_and_pool"))
    np.testing.assert_allclose(encode(params, images(56)), theirs.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "added", "message"),
    [
        ({}, {"latent": (1, 1, 48)}, r"\(attn_pool\.latent\) beside a class token"),
        (CLIP, {"latent": (1, 1, 48)}, r"\(attn_pool\.latent\) beside a class token"),
        (SIGLIP, {"latent": (1, 48)}, r"of another shape: attn_pool\.latent"),
        (SIGLIP, {"norm.weight": (24,)}, r"of another shape: attn_pool\.norm\.weight"),
        (SIGLIP, {"kv.weight": (96, 24)}, "do not fit each other"),
        (SIGLIP, {"kv.weight": (48, 48)}, "do not fit each other"),
        (SIGLIP, {"q.weight": (96, 48), "kv.weight": (48, 48)}, "do not fit each other"),
        (SIGLIP, {"q.weight": ()}, "do not fit each other"),
    ],
)
def test_an_odd_attention_pool_is_refused(options, added, message):
    arrays = dict(architectures.to_timm(reference.to_state_dict(params_of(options)), options))
    arrays |= {f"attn_pool.{key}": np.ones(shape, np.float32) for key, shape in added.items()}
    with pytest.raises(DataError, match=message):
        to_encoder(arrays, num_heads=4)


def test_queries_keys_and_values_have_the_same_shape():
    arrays = file_of(Original("SigLIP", names.HF_CLIP, SIGLIP, "", ()), params_of(SIGLIP))
    for layer, rows in (("q", 96), ("k", 24), ("v", 24)):
        arrays[f"encoder.layers.0.self_attn.{layer}_proj.weight"] = np.ones((rows, 48), np.float32)
    with pytest.raises(DataError, match="do not fit each other"):
        to_encoder(arrays, num_heads=4)


def test_an_array_under_two_names_is_refused():
    arrays = file_of(Original("SigLIP", names.HF_CLIP, SIGLIP, "", ()), params_of(SIGLIP))
    arrays["attn_pool.latent"] = np.ones((1, 1, 48), np.float32)
    with pytest.raises(
        DataError, match=r"'head\.probe' and, under another name, 'attn_pool\.latent'"
    ):
        to_encoder(arrays, num_heads=4)


@pytest.mark.parametrize(
    ("original", "key"),
    [
        (ORIGINALS[4], "attn_pool.probe"),
        (ORIGINALS[7], "attn_pool.latent"),
        (Original("SigLIP", names.HF_CLIP, SIGLIP, "", ()), "head.probe"),
    ],
    ids=lambda x: getattr(x, "family", x),
)
def test_a_pool_without_its_query_is_refused(original, key):
    arrays = file_of(original, params_of(original.options))
    arrays = find_network(arrays, path=Path("x")).state_dict
    del arrays[key]
    with pytest.raises(DataError, match=f"1 missing: {key}"):
        to_encoder(arrays, num_heads=4)


def test_open_clips_config_names_the_network_of_timm():
    original = Original("Perception Encoder", names.TIMM, CLIP | PERCEPTION, "visual.trunk.", ())
    arrays = find_network(file_of(original, params_of(original.options)), path=Path("x")).state_dict
    with pytest.raises(DataError, match="Perception Encoder only"):
        to_encoder(arrays, num_heads=4)
    vision = {"timm_model_name": "vit_pe_core_base_patch16_224"}
    config = {"open_clip": {"model_cfg": {"vision_cfg": vision}}}
    config["model_args"] = {"ref_feat_shape": [4, 4], "num_heads": 4}
    encoder = to_encoder(arrays, config=config, num_heads=4)
    assert (encoder.family, encoder.model["pool_heads"]) == ("Perception Encoder", 8)


@pytest.mark.parametrize(
    ("given", "heads"),
    [({}, 8), ({"attn_pool_num_heads": None}, 4), ({"attn_pool_num_heads": 3}, 3)],
)
def test_the_heads_of_a_pool_are_those_of_timms_config(given, heads):
    original = Original("Perception Encoder", names.TIMM, CLIP | PERCEPTION, "", ())
    arrays = file_of(original, params_of(original.options))
    name = "vit_pe_core_base_patch16_224"
    config = {
        "architecture": name,
        "model_args": {"num_heads": 4, "ref_feat_shape": [4, 4]} | given,
    }
    assert to_encoder(arrays, config=config).model["pool_heads"] == heads
    config["model_args"]["attn_pool_num_heads"] = 7
    with pytest.raises(DataError, match="cannot be divided among 7 heads of the attention pool"):
        to_encoder(arrays, config=config)


def test_the_heads_of_a_pool_may_be_those_of_the_blocks_by_the_name_alone():
    args = {"attn_pool_num_heads": None, "ref_feat_shape": [4, 4]}
    config = {"architecture": "vit_pe_core_tiny_patch16_384", "model_args": args}
    assert (known(config).num_heads, known(config).pool_heads) == (3, 3)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("vit_pe_core_base_patch16_224", {}, "those of 14 patches along a side"),
        ("vit_pe_core_large_patch14_336", {}, "those of 24 patches along a side"),
        ("vit_pe_core_base_patch16_224", {"ref_feat_shape": [2, 2]}, "those of 2 patches"),
        ("vit_pe_core_base_patch16_224", {"ref_feat_shape": [4, 2]}, r"\[4, 2\], and it must be a"),
        ("vit_pe_core_base_patch16_224", {"ref_feat_shape": [4, 4]}, None),
        ("vit_pe_core_base_patch16_224", {"ref_feat_shape": 4}, None),
    ],
)
def test_rotations_of_another_grid_are_refused(name, args, message):
    original = Original("Perception Encoder", names.TIMM, CLIP | PERCEPTION, "", ())
    arrays = file_of(original, params_of(original.options))
    config = {"architecture": name, "model_args": {"num_heads": 4} | args}
    if message is None:
        assert to_encoder(arrays, config=config).model["image_size"] == 56
        return
    with pytest.raises(DataError, match=message):
        to_encoder(arrays, config=config)


def test_siglip_of_hugging_face_has_the_tanh_form_without_its_config():
    arrays = file_of(Original("SigLIP", names.HF_CLIP, SIGLIP, "", ()), params_of(SIGLIP))
    assert to_encoder(arrays, num_heads=4).model["activation"] == "gelu_tanh"
    arrays = file_of(Original("SigLIP", names.TIMM, SIGLIP, "", ()), params_of(SIGLIP))
    assert "activation" not in to_encoder(arrays, num_heads=4).model


def test_a_head_without_a_pool_is_named():
    original = Original("SigLIP", names.HF_CLIP, SIGLIP | {"pool_heads": 0}, "", ())
    arrays = file_of(original, params_of(original.options))
    arrays["head.dense.weight"] = np.ones((4, 4), np.float32)
    encoder = to_encoder(arrays, num_heads=4)
    assert encoder.left_out == ("head.dense.weight",) and "pool_heads" not in encoder.model


def test_an_attention_pool_beside_a_class_token_is_refused_in_a_pth(tmp_path):
    torch = need("torch")
    arrays = reference.to_state_dict(encoder_params(MEASURES))
    arrays |= {"attn_pool.latent": np.ones((1, 1, 48), np.float32)}
    torch.save(
        {key: torch.from_numpy(np.array(x)) for key, x in arrays.items()}, tmp_path / "x.pth"
    )
    with pytest.raises(DataError, match="beside a class token"):
        read_source(tmp_path / "x.pth", branch="student", given={"num_heads": 4})


def test_an_attention_pool_of_another_kind_is_left_out():
    original = ORIGINALS[3]
    arrays = find_network(file_of(original, params_of(original.options)), path=Path("x")).state_dict
    others = {"attn_pool.query": (256, 48), "attn_pool.attn.in_proj_weight": (144, 48)}
    arrays |= {key: np.ones(shape, np.float32) for key, shape in others.items()}
    encoder = to_encoder(arrays, num_heads=4)
    assert set(encoder.left_out) == {"proj", *others} and "attn_pool" not in encoder.params


def test_every_array_has_one_name_in_every_table():
    for of in names.ALL:
        for rows in of.rows, of.block_rows:
            theirs = [name for _, called, _ in rows for name in called if name is not None]
            assert len(set(theirs)) == len(theirs)
            assert len({row[0] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("added", "removed", "message"),
    [
        ({"blocks.0.mlp.w12.weight": (4, 4)}, (), r"a gated MLP \(SwiGLU\).*blocks\.0\.mlp\.w12"),
        ({"blocks.0.attn.k_norm.weight": (12,)}, (), "norms of queries and keys"),
        ({"patch_embed.proj.weight": (48, 3, 2, 14, 14)}, (), "videos: its patches are 2 frames"),
        ({"blocks.1.mlp.fc1.weight": (96, 48)}, (), r"\(96, 48\) instead of \(192, 48\)"),
        ({"rope_embed.periods": (3,)}, (), r"other periods than DINOv3's"),
        ({"rope_embed.periods": (0,)}, (), r"other periods than DINOv3's"),
        ({"storage_tokens": (1, 4)}, (), r"needs a table of registers of shape \[1, R, D\]"),
        ({"blocks.7.odd": (1,)}, (), "missing: blocks"),
        ({}, ("norm.bias",), r"1 missing: norm\.bias"),
        ({}, ("blocks.1.ls2.gamma",), r"1 missing: blocks\.1\.ls2\.gamma"),
        ({}, ("blocks.1.attn.qkv.weight",), r"missing: blocks\.1\.attn\.qkv"),
        ({"blocks.0.attn.qkv.bias": ()}, (), "shapes that do not fit"),
    ],
)
def test_what_is_not_supported_is_named(added, removed, message):
    original = ORIGINALS[2]
    arrays = file_of(original, params_of(original.options))
    arrays |= {key: np.ones(shape, np.float32) for key, shape in added.items()}
    for key in removed:
        del arrays[key]
    with pytest.raises(DataError, match=message):
        to_encoder(arrays, num_heads=4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_gated_mlp": True}, r"a gated MLP \(SwiGLU\), which is not supported"),
        ({"model_type": "dinov3_vit", "rope_theta": 10}, "rope_theta = 10.0, and only 100"),
        ({"image_size": [-1]}, r"images of \[-1\] pixels"),
        ({"image_size": 10**9}, "images of 1000000000 pixels"),
        ({"image_size": 14000}, "makes 1000 patches along a side"),
        ({"layer_norm_eps": -1}, "config.json beside the weights is odd"),
        ({"preprocessor": {"image_mean": [0.5, 0.5, 7], "image_std": [1, 1, 1]}}, "std beside the"),
        ({"preprocessor": {"image_mean": "a"}}, "config.json beside the weights is odd"),
        ({"vision_config": 3}, "config.json beside the weights is odd"),
        ({"open_clip": {"model_cfg": []}}, "config.json beside the weights is odd"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(config, message):
    original = ORIGINALS[2]
    arrays = file_of(original, params_of(original.options))
    with pytest.raises((DataError, ConfigError), match=message):
        to_encoder(arrays, config=config, num_heads=4)


def test_the_files_beside_the_weights_precede_the_family():
    original = ORIGINALS[3]
    arrays = file_of(original, params_of(original.options))
    arrays = find_network(arrays, path=Path("x.pth")).state_dict
    beside = {"open_clip": {"model_cfg": {"quick_gelu": False}, "preprocess_cfg": {}}}
    assert "activation" not in to_encoder(arrays, config=beside, num_heads=4).model
    own = {"image_mean": (0.1, 0.2, 0.3), "image_std": (0.4, 0.5, 0.6)}
    encoder = to_encoder(arrays, config={"preprocessor": own}, num_heads=4)
    assert encoder.facts["stats"] == (own["image_mean"], own["image_std"])
    with pytest.raises(ConfigError, match="says quick_gelu activation, not gelu as given"):
        config = {"hidden_act": "quick_gelu"}
        to_encoder(arrays, config=config, num_heads=4, activation="gelu")
    assert to_encoder(arrays, num_heads=4, activation="gelu").model == MEASURES | CLIP
