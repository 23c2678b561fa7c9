"""Tests which properties of a network follow from shapes, and which do not."""

import golden_files
import golden_numbers
import jax
import numpy as np
import pytest
from random_weights import TINY, detector_params, encoder_params

from fsvfm_jax.convert import reference
from fsvfm_jax.convert.measures import measures, network
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models import build, build_detector
from fsvfm_jax.models.fsvfm import FSVFM, encoder_subset, teacher_subset
from fsvfm_jax.models.vit import SIZES, ViT

TOLD = golden_files.RUN_HEADS


def empty(model):
    """Returns a tree of the right shapes that takes no memory."""
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    return jax.tree.map(lambda x: np.broadcast_to(np.float32(1), x.shape), shapes)


@pytest.fixture(scope="module", params=SIZES)
def of_a_size(request):
    model = build(SIZES[request.param] | {"image_size": 112})
    return SIZES[request.param] | {"image_size": 112}, empty(model)


def test_the_sizes_of_the_papers_are_known_whole(of_a_size):
    size, params = of_a_size
    found = measures(params)
    assert found.items() >= size.items()
    assert found["decoder_num_heads"] == found["rep_decoder_num_heads"] == 16
    assert build(found) == build(size)
    assert measures(encoder_subset(params), num_heads=size["num_heads"]) == size
    assert measures(teacher_subset(params)).items() >= size.items()


def test_every_kind_gives_its_network():
    student = golden_numbers.params("init")
    assert network(student, **TOLD) == build(golden_numbers.MODEL)
    assert isinstance(network(teacher_subset(student), **TOLD | {}), FSVFM)
    encoder = network(encoder_subset(student), num_heads=4)
    assert encoder == ViT(image_size=64, patch_size=16, width=48, depth=2, num_heads=4)


@pytest.mark.parametrize(
    "options",
    [
        {"pool": "token", "num_classes": 3},
        {"adapter_reduction": 4},
        {"adapter_reduction": 8, "pool": "token"},
        {"fas": True},
        {"fas": True, "adapter_reduction": 4},
    ],
)
def test_a_detector_is_built_again_from_its_tree(options):
    options = TINY | options
    assert network(detector_params(options), num_heads=4) == build_detector(options)


def test_heads_that_nothing_says_must_be_given():
    student = golden_numbers.params("init")
    with pytest.raises(ConfigError, match="num_heads, rep_decoder_num_heads, decoder_num_heads"):
        measures(student)
    with pytest.raises(ConfigError, match=r"^rep_decoder_num_heads must"):
        measures(teacher_subset(student), num_heads=4)
    with pytest.raises(ConfigError, match=r"^num_heads must"):
        measures(encoder_subset(student))


def test_one_block_more_or_less_is_no_size_known():
    params = empty(build_detector(SIZES["vit_small_patch16"] | {"depth": 11}))
    with pytest.raises(ConfigError, match=r"^num_heads must"):
        measures(params)


@pytest.mark.parametrize("name", ["vit_small_patch16", "vit_base_patch16"])
def test_a_plain_small_network_may_be_another_librarys(name):
    detector = empty(build_detector(name))
    encoder = empty(build_detector(SIZES[name] | {"pool": "token"}))
    del encoder["head"]
    adapter = empty(build_detector(SIZES[name] | {"adapter_reduction": 4}))
    assert measures(adapter)["num_heads"] == 12
    for params in (detector, encoder):
        assert measures(params, num_heads=6)["num_heads"] == 6
        if name == "vit_base_patch16":
            assert measures(params)["num_heads"] == 12
            continue
        with pytest.raises(ConfigError, match=r"12 \(--model=vit_small_patch16\) and timm's 6"):
            measures(params)


def test_what_is_given_against_the_shapes_is_refused():
    student = golden_numbers.params("init")
    with pytest.raises(ConfigError, match="width is 48 by the arrays' shapes, not 384"):
        measures(student, **SIZES["vit_small_patch16"])
    with pytest.raises(ConfigError, match=r"num_heads = 5"):
        network(student, **TOLD | {"num_heads": 5})


def changed(name, edit):
    state_dict = golden_numbers.state_dict("init")
    return reference.to_params(state_dict | {name: edit(state_dict[name])})


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("pos_embed", lambda x: x[:, :-2], r"not \[1, 1 \+ N, 48\]"),
        ("pos_embed", lambda x: x[..., :-4], r"\[1, 17, 44\]: not \[1, 1 \+ N, 48\]"),
        ("decoder_pos_embed", lambda x: x[..., :-4], r"28\]: not \[1, 1 \+ N, 32\]"),
        ("patch_embed.proj.weight", lambda x: x[:, :1], "not a square patch of three colours"),
        ("patch_embed.proj.weight", lambda x: x[:, :, :8, :8], "arrays do not fit"),
        ("predictor.projection_head.3.weight", lambda x: x.T, "predictor/fc2/kernel is .16, 64."),
        ("cls_token", lambda x: x[..., :24], r"cls_token is \[1, 1, 24\] and not \[1, 1, 48\]"),
    ],
)
def test_arrays_that_do_not_fit_are_named(name, edit, message):
    with pytest.raises((DataError, ConfigError), match=message):
        network(changed(name, edit), **TOLD)


def test_an_array_that_the_network_does_not_have_is_refused():
    params = encoder_params(TINY) | {"attn_pool": {"proj": {"bias": np.ones(48, np.float32)}}}
    with pytest.raises(DataError, match="attn_pool/proj/bias is no array of the network"):
        network(params, num_heads=4)


def test_a_tree_of_gradients_has_no_image_size():
    with pytest.raises(DataError, match="pos_embed"):
        measures(golden_numbers.params("step0/grad"), **TOLD)
