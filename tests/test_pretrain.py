"""Tests the 3C step against the reference's numbers, and what its docstrings promise."""

from functools import partial

import golden_numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fsvfm_jax import pretrain
from fsvfm_jax.convert.reference import to_state_dict
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.masking import sample_masks
from fsvfm_jax.models import build
from fsvfm_jax.models.fsvfm import split_positions, teacher_subset
from fsvfm_jax.optim import Schedule, make_optimizer
from fsvfm_jax.train_state import StepValues, TrainState

STEPS = 8
IDENTITY = Stats((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def model():
    return build(golden_numbers.MODEL)


@pytest.mark.e2e
def test_forward_pass_of_step_0(model):
    golden = golden_numbers.load()
    params = golden_numbers.params("init")
    images = golden_numbers.images(0)
    student = model.apply({"params": params}, images, golden_numbers.masks(0), method="student")
    z = model.apply({"params": teacher_subset(params)}, images, method="teacher")
    difference = golden_numbers.relative_difference
    assert difference(student.prediction, golden["step0/pred"]) < 1e-5
    assert difference(student.latent[:, 0], golden["step0/latent_cls"]) < 1e-5
    assert difference(student.q, golden["step0/feat_online"]) < 1e-5
    assert difference(z, golden["step0/feat_target"]) < 1e-5


@pytest.mark.e2e
def test_order_of_the_kept_patches_does_not_matter(model):
    params = golden_numbers.params("init")
    images, masks = golden_numbers.images(0), golden_numbers.masks(0)
    kept = masks.ids_keep.shape[1]
    reversed_order = np.concatenate(
        [masks.ids_keep[:, ::-1], np.argsort(masks.ids_restore, axis=1)[:, kept:]], axis=1
    )
    other = masks._replace(
        ids_keep=reversed_order[:, :kept], ids_restore=np.argsort(reversed_order, axis=1)
    )
    a, b = (
        model.apply({"params": params}, images, m, method="student").prediction
        for m in (masks, other)
    )
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.e2e
def test_gradients_of_step_0(model):
    params = golden_numbers.params("init")

    def loss(params):
        return pretrain.three_c_loss(
            model,
            params,
            teacher_subset(golden_numbers.params("init")),
            golden_numbers.images(0),
            golden_numbers.masks(0),
            loss=golden_numbers.LOSS,
        )[0]

    trained, positions = split_positions(params)
    grads = to_state_dict(jax.jit(jax.grad(lambda t: loss({**t, **positions})))(trained))
    golden = golden_numbers.state_dict("step0/grad")
    assert grads.keys() == golden.keys()
    largest = max(np.linalg.norm(g) for g in golden.values())
    for name, theirs in golden.items():
        if golden_numbers.is_key_bias(name):
            assert np.abs(np.split(grads[name], 3)[1]).max() < 1e-6 * largest, name
        ours, theirs = (
            golden_numbers.drop_key_third(name, grads[name]),
            golden_numbers.drop_key_third(name, theirs),
        )
        assert golden_numbers.relative_difference(ours, theirs) < 1e-5, name


@pytest.fixture(scope="module")
def eight_steps(model):
    """Trains like the reference; returns the final state and the history."""
    given = golden_numbers.hyperparameters()
    schedule = Schedule(
        steps_per_epoch=float(given["steps_per_epoch"]),
        total_steps=STEPS,
        schedule_epochs=float(given["epochs"]),
        warmup_epochs=float(given["warmup_epochs"]),
        peak_learning_rate=given["lr"],
        min_learning_rate=0.0,
        teacher_momentum=given["momentum"],
    )
    tx = make_optimizer(
        betas=tuple(given["betas"]), weight_decay=given["weight_decay"], grad_clip=given["clip"]
    )
    params = jax.tree.map(jnp.asarray, golden_numbers.params("init"))
    state = TrainState(
        jnp.zeros((), jnp.int32),
        params,
        teacher_subset(params),
        tx.init(split_positions(params)[0]),
    )

    # The step draws masks and normalises bytes itself. Here both are those of the reference; the
    # masks are in the two lowest bits of the classes.
    @jax.jit
    def step(state, images, bits, values):
        learner = pretrain.Pretraining(
            model=model,
            tx=tx,
            sample=golden_numbers.masks_of_bits,
            stats=IDENTITY,
            loss=golden_numbers.LOSS,
            seed=0,
        )
        return learner.train_step(state, {"image": images, "classes": bits}, values, accum_steps=1)

    history = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "normalize_images", lambda images, _: images)
        for i in range(STEPS):
            masks = golden_numbers.masks(i)
            values = StepValues(schedule.learning_rate(i), schedule.teacher_rate(i))
            bits = masks.mask + 2 * masks.region_mask
            state, metrics = step(state, golden_numbers.images(i), bits, values)
            metrics |= {"lr": values.learning_rate, "momentum": 1 - values.teacher_rate}
            history.append(metrics)
    return state, {name: np.array([float(m[name]) for m in history]) for name in history[0]}


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        ("loss", "loss", 1e-5),
        ("loss_rec", "loss_rec_all", 1e-5),
        ("loss_region", "loss_rec_sfr", 1e-5),
        ("loss_sim", "loss_cl", 1e-5),
        ("lr", "lr", 1e-9),
        ("momentum", "momentum", 1e-9),
    ],
)
def test_history_of_eight_steps(eight_steps, ours, theirs, tolerance):
    _, history = eight_steps
    golden = golden_numbers.load()[f"hist/{theirs}"]
    np.testing.assert_allclose(history[ours], golden, rtol=0, atol=tolerance)


@pytest.mark.e2e
def test_gradient_norms_of_eight_steps(eight_steps):
    _, history = eight_steps
    golden = golden_numbers.load()["hist/grad_norm"]
    np.testing.assert_allclose(history["grad_norm"], golden, rtol=1e-5)


@pytest.mark.e2e
def test_final_parameters(eight_steps):
    state, _ = eight_steps
    total_rate = golden_numbers.load()["hist/lr"].sum()
    for params, prefix in ((state.params, "final/online"), (state.teacher_params, "final/target")):
        golden = golden_numbers.state_dict(prefix)
        ours = to_state_dict(params)
        assert ours.keys() == golden.keys()
        for name, theirs in golden.items():
            if golden_numbers.is_key_bias(name):
                keys = np.split(ours[name], 3)[1] - np.split(theirs, 3)[1]
                assert np.abs(keys).max() <= total_rate, name
            mine, theirs = (
                golden_numbers.drop_key_third(name, ours[name]),
                golden_numbers.drop_key_third(name, theirs),
            )
            if np.any(theirs):
                assert golden_numbers.relative_difference(mine, theirs) < 1e-4, (prefix, name)
            else:
                assert not np.any(mine), (prefix, name)


@pytest.mark.e2e
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_the_teacher_still_moves_at_momentum_above_9999(dtype):
    tiny = {"image_size": 32, "depth": 1, "decoder_depth": 1, "dtype": dtype}
    model = build(golden_numbers.MODEL | tiny)
    learner = pretrain.Pretraining(
        model=model,
        tx=make_optimizer(betas=(0.9, 0.95), weight_decay=0.05, grad_clip=0.0),
        sample=partial(sample_masks, strategy="random"),
        stats=IDENTITY,
        loss=golden_numbers.LOSS,
        seed=0,
    )
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    noise = np.random.default_rng(0)

    def draw(x):
        return noise.normal(scale=0.1, size=x.shape).astype(x.dtype)

    # The student is 10 % away from its teacher, and a learning rate of 0 keeps it there.
    teacher = jax.tree.map(draw, shapes.teacher_params)
    student = jax.tree.map(lambda x: x + x * draw(x), teacher)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)._replace(
        params=jax.tree.map(draw, shapes.params) | student, teacher_params=teacher
    )
    target = flat(student)
    batch = {
        "image": noise.integers(0, 256, (4, 32, 32, 3), np.uint8),
        "classes": noise.integers(0, 2**11, (4, 4), np.uint16),
    }
    step = jax.jit(partial(learner.train_step, accum_steps=1))
    for rate in (5e-5, 2e-5, 1e-5):
        before = flat(state.teacher_params)
        state, _ = step(state, batch, StepValues(np.float32(0), np.float32(rate)))
        change = np.linalg.norm(flat(state.teacher_params) - before) / np.linalg.norm(before)
        expected = rate * np.linalg.norm(target - before) / np.linalg.norm(before)
        # Rounding to float32 is visible in steps of 1e-6; bfloat16, of 8 bits, would not change.
        assert change == pytest.approx(expected, rel=1e-3)
    np.testing.assert_array_equal(flat(teacher_subset(state.params)), target)


def flat(params) -> np.ndarray:
    """Returns all numbers of a float32 tree, in float64."""
    vector, _ = ravel_pytree(params)
    assert vector.dtype == np.float32
    return np.asarray(vector, np.float64)
