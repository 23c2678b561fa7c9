"""Tests student and teacher: sizes, trees, precision, program size."""

import golden_numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsvfm_jax import pretrain
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.masking import Masks, sample_masks
from fsvfm_jax.models import build
from fsvfm_jax.models.fsvfm import (
    FSVFM,
    POSITION_TABLES,
    insert_tokens,
    split_positions,
    teacher_subset,
)
from fsvfm_jax.run.descriptions import parameter_table

# Trainable part of the student, student with positions, teacher with positions.
PARAMETER_COUNTS = {
    "vit_small_patch16": (55_990_656, 56_242_816, 28_221_056),
    "vit_base_patch16": (133_330_944, 133_734_400, 105_516_032),
    "vit_large_patch16": (363_898_624, 364_402_944, 336_053_504),
    "vit_huge_patch14": (707_665_228, 708_454_732, 680_035_840),
}


def count(tree: dict) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.e2e
@pytest.mark.parametrize(("size", "counts"), PARAMETER_COUNTS.items())
def test_parameter_counts(size, counts):
    params = jax.eval_shape(build(size).init_params, jax.random.key(0))
    trained, positions = split_positions(params)
    assert (count(trained), count(params), count(teacher_subset(params))) == counts
    assert positions.keys() == set(POSITION_TABLES)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


def test_names_shapes_and_dtypes_are_those_on_file():
    params = jax.eval_shape(build("vit_base_patch16").init_params, jax.random.key(0))
    stored = (golden_numbers.FOLDER / "vit_b_parameters.txt").read_text()
    assert parameter_table(params) + "\n" == stored


@pytest.fixture(scope="module")
def tiny_params():
    return jax.jit(build(golden_numbers.MODEL).init_params)(jax.random.key(0))


@pytest.mark.e2e
def test_initial_values(tiny_params):
    kernel = tiny_params["blocks"]["attn"]["qkv"]["kernel"]
    limit = np.sqrt(6 / (48 + 3 * 48))  # Xavier over the complete [D, 3D] layer
    assert 0.98 * limit < np.abs(kernel).max() <= limit
    assert not np.array_equal(kernel[0], kernel[1])
    for bias in (tiny_params["patch_embed"]["bias"], tiny_params["blocks"]["mlp"]["fc1"]["bias"]):
        assert not np.any(bias)
    assert 0.01 < np.std(tiny_params["cls_token"]) < 0.03
    assert 0.01 < np.std(tiny_params["mask_token"]) < 0.03


@pytest.mark.e2e
def test_position_tables(tiny_params):
    golden = golden_numbers.params("init")
    for name in ("pos_embed", "decoder_pos_embed", "rep_decoder_pos_embed"):
        np.testing.assert_allclose(tiny_params[name], golden[name], atol=1e-6)
    sincos = jax.jit(build(golden_numbers.MODEL | {"rep_pos": "sincos"}).init_params)(
        jax.random.key(0)
    )
    np.testing.assert_array_equal(sincos["rep_decoder_pos_embed"], sincos["pos_embed"])


def loss_and_gradient(changes: dict, params: dict) -> tuple[float, dict]:
    model = FSVFM(**golden_numbers.MODEL | changes)

    @jax.jit
    @jax.value_and_grad
    def run(params):
        loss, _ = pretrain.three_c_loss(
            model,
            params,
            teacher_subset(params),
            golden_numbers.images(0),
            golden_numbers.masks(0),
            loss=golden_numbers.LOSS,
        )
        return loss

    return run(params)


@pytest.fixture(scope="module")
def plain(tiny_params):
    return loss_and_gradient({}, tiny_params)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"remat": "full", "unroll": 1}, marks=pytest.mark.slow),
        {"remat": "dots", "unroll": 64},
    ],
)
def test_remat_and_unroll_change_no_number(plain, tiny_params, changes):
    loss, grads = plain
    other_loss, other_grads = loss_and_gradient(changes, tiny_params)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), other_grads, grads)


@pytest.mark.e2e
def test_cudnn_gets_even_lengths_in_the_student_and_the_result_is_the_same(
    plain, tiny_params, monkeypatch
):
    original, calls = jax.nn.dot_product_attention, []

    def attend(q, k, v, *, implementation, query_seq_lengths, key_value_seq_lengths):
        assert implementation == "cudnn" and query_seq_lengths is key_value_seq_lengths
        calls.append((q.shape[1], query_seq_lengths is not None))
        return original(
            q, k, v, query_seq_lengths=query_seq_lengths, key_value_seq_lengths=query_seq_lengths
        )

    loss, grads = plain
    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    other_loss, other_grads = loss_and_gradient({"attention": "cudnn"}, tiny_params)
    # 16 patches and the class token in the teacher and in the decoders, 5 tokens in the encoder.
    assert set(calls) == {(17, False), (18, True), (6, True)}
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), other_grads, grads)


@pytest.mark.e2e
def test_kept_tokens_are_put_in_image_order_and_get_their_gradient_back():
    ids_keep, ids_removed = jnp.array([[4, 1]]), jnp.array([[0, 2, 3]])
    mask = jnp.array([[1, 0, 1, 1, 0]])
    order = jnp.concatenate([ids_keep, ids_removed], axis=1)
    masks = Masks(mask, mask, ids_keep, ids_restore=jnp.argsort(order))
    tokens = jnp.arange(1.0, 7).reshape(1, 3, 2)
    weights = jax.random.normal(jax.random.key(0), (1, 6, 2))

    def total(tokens, mask_token):
        x = insert_tokens(tokens, mask_token, masks)
        return (x * weights).sum(), x

    mask_token = jnp.full((1, 1, 2), 9.0)
    grads, x = jax.grad(total, (0, 1), has_aux=True)(tokens, mask_token)
    np.testing.assert_array_equal(x[0], [[1, 2], [9, 9], [5, 6], [9, 9], [9, 9], [3, 4]])
    np.testing.assert_array_equal(grads[0][0], weights[0, jnp.array([0, 5, 2])])
    expected = weights[0, jnp.array([1, 3, 4])].sum(0)
    np.testing.assert_allclose(grads[1][0, 0], expected, rtol=1e-6)


@pytest.mark.e2e
def test_bfloat16_computes_in_bfloat16_and_answers_in_float32(tiny_params):
    model = build(golden_numbers.MODEL | {"dtype": "bfloat16"})
    images, masks = golden_numbers.images(0), golden_numbers.masks(0)
    run = jax.jit(lambda p: model.apply({"params": p}, images, masks, method="student"))
    student = run(tiny_params)
    assert student.latent.dtype == jnp.bfloat16
    assert student.prediction.dtype == student.q.dtype == jnp.float32
    exact = build(golden_numbers.MODEL).apply(
        {"params": tiny_params}, images, masks, method="student"
    )
    assert 1e-4 < golden_numbers.relative_difference(student.prediction, exact.prediction) < 0.05


@pytest.mark.e2e
def test_program_does_not_grow_with_depth():
    def lines(depth: int) -> int:
        model = build({"width": 192, "depth": depth, "num_heads": 4, "image_size": 64})
        params = jax.eval_shape(model.init_params, jax.random.key(0))
        classes = jax.ShapeDtypeStruct((2, 16), jnp.uint16)
        images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)

        def loss(params, images, classes):
            masks = sample_masks(jax.random.key(0), classes)
            teacher = teacher_subset(params)
            return pretrain.three_c_loss(
                model, params, teacher, images, masks, loss=golden_numbers.LOSS
            )[0]

        return len(jax.jit(jax.grad(loss)).lower(params, images, classes).as_text().splitlines())

    assert lines(24) <= lines(12) * 1.01


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("vit_smal_patch16", "did you mean 'vit_small_patch16'"),
        ({"widht": 48}, "did you mean 'width'"),
        ({"image_size": 65}, "image size 65 is not divisible by patch size 16"),
        ({"num_heads": 5}, "width = 768 is not divisible by model.num_heads = 5"),
        ({"decoder_num_heads": 7}, "decoder_width = 512 is not divisible"),
        ({"dtype": "float16"}, "did you mean 'bfloat16'"),
        ({"rep_pos": "learned"}, "known: sincos, zeros"),
        ({"remat": "True"}, "model.remat = 'True' is unknown; known: none, dots, full"),
        ({"attention": "flash"}, "known: xla, cudnn"),
        ({"attention": "cudnn"}, "'cudnn' has no float32"),
    ],
)
def test_what_cannot_be_built_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        build(wrong)
