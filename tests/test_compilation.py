"""Tests the compiled training step: its collectives, and the micro-batches that fit."""

import importlib.util
import json
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import vit_b, vit_s
from fsvfm_jax import pretrain
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import compilation, sharding
from fsvfm_jax.devices.backends import settings_for
from fsvfm_jax.devices.memory import Memory
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.optim import accumulate_gradients
from fsvfm_jax.plan.collectives import collective_table, collectives
from fsvfm_jax.plan.hlo import parse
from fsvfm_jax.plan.topology import topology_devices
from fsvfm_jax.train_state import Learner, Picture, TrainState

STATS = Stats((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
# Each stack has more than one block, so that a layer is smaller than its stack.
SMALL = {
    "batch_size": 16,
    "model.image_size": 32,
    "model.width": 192,
    "model.depth": 3,
    "model.decoder_width": 128,
    "model.decoder_depth": 2,
    "model.rep_decoder_depth": 2,
}


def lower(changes: dict, devices=None, *, get_config=vit_s.get_config, arg: str = "smoke"):
    """Lowers the step of a config; returns it with the task and the mesh."""
    config = get_config(arg)
    config.update_from_flattened_dict(changes)
    mesh, config = compilation.place(resolve(config), devices)
    task = pretrain.make_learner(config, stats=STATS)
    lowered = compilation.lower_step(
        task, mesh, batch_size=config.batch_size, accum_steps=config.accum_steps
    )
    return lowered, task, mesh


def trained_arrays(task) -> list[jax.ShapeDtypeStruct]:
    """Returns the arrays that have a gradient, for which the optimizer has a first moment."""
    opt_state = jax.eval_shape(task.init, jax.random.key(0)).opt_state
    [adam] = [part for part in opt_state if hasattr(part, "mu")]
    return jax.tree.leaves(adam.mu)


def check_data_parallel(lowered, task, *, gradient_bytes: int) -> None:
    """Checks that only the gradient and a few scalars are summed, once, and nothing is gathered.

    A gradient that is computed in bfloat16 is also summed in bfloat16 if the compiler allows it.
    """
    found = collectives(parse(lowered.compile().as_text()))
    assert {collective.kind for collective in found} == {"all-reduce"}
    gradient = sum(x.size for x in trained_arrays(task)) * gradient_bytes
    reduced = sum(collective.bytes * collective.executions for collective in found)
    # The statistics of q and z over the batch are one row each; the others are scalars. The
    # gradients of a block's norms follow from the summed gradients of the linear layers.
    assert 0.99 * gradient <= reduced <= 1.05 * gradient, reduced / gradient


def check_fsdp(lowered, task, mesh) -> list[dict]:
    """Checks that only parameters are gathered, layer by layer, and the gradient is summed once."""
    text = lowered.compile().as_text()
    found = collectives(parse(text))
    layers, others = _shapes(task)
    for gather in (collective for collective in found if collective.kind == "all-gather"):
        for array in gather.arrays:
            assert array.shape in (layers if gather.in_loop else others), gather
    assert any(c.kind == "all-gather" and c.in_loop for c in found)
    assert {c.kind for c in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    summed = [c for c in found if c.kind in ("all-reduce", "reduce-scatter")]
    reduced = sum(c.bytes * c.executions for c in summed)
    gradient = sum(x.size for x in trained_arrays(task)) * 4
    # The gradient is summed over the devices that share a state; each then sums its part over the
    # other groups. Layers may be summed in bfloat16.
    most = gradient * (1 + (mesh.shape["data"] > 1) / mesh.shape["fsdp"])
    assert gradient / 2 <= reduced <= 1.05 * most, reduced / gradient
    held = sharding.bytes_per_device(compilation.state_template(task, mesh))
    state = jax.eval_shape(task.init, jax.random.key(0))
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert held < 1.2 * whole / mesh.shape["fsdp"]
    return collective_table(found)


def _shapes(task) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """Returns the shapes of arrays that are gathered inside and outside the loops over layers.

    Inside, it is one layer of a stacked parameter. Outside, it is a parameter that belongs to no
    stack, or the biases of all layers, to which the biases of the norms contribute.
    """
    params = jax.eval_shape(task.init, jax.random.key(0)).params
    layers, others = set(), set()
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        if path[0].key.endswith("blocks"):
            layers.add(x.shape[1:])
        if not path[0].key.endswith("blocks") or path[-1].key == "bias":
            others.add(x.shape)
    return layers, others


@pytest.mark.slow  # test_estimate.py has the kinds of exchange
def test_data_parallel_training_all_reduces_its_gradient_and_nothing_else():
    lowered, task, _ = lower(SMALL)
    check_data_parallel(lowered, task, gradient_bytes=4)


@pytest.mark.slow  # test_estimate.py has a command that finds the exchanges in the loops
@pytest.mark.parametrize(("data", "fsdp"), [(1, 8), (2, 4)])
def test_fsdp_gathers_a_layer_at_a_time(data, fsdp):
    table = check_fsdp(*lower(SMALL | {"mesh.data": data, "mesh.fsdp": fsdp}))
    print(json.dumps(table, indent=1))  # shown with -s
    # The CPU's compiler sums the whole gradient and then slices the sum.
    assert {row["kind"] for row in table} == {"all-gather", "all-reduce"}


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install '.[plan]'"
)


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:4x4", "v5p:2x2x4"])
def test_what_a_tpu_exchanges(topology):
    devices, _ = topology_devices(topology)
    options = {"get_config": vit_b.get_config, "arg": ""}
    lowered, task, _ = lower({"batch_size": 256}, devices, **options)
    check_data_parallel(lowered, task, gradient_bytes=2)

    lowered, task, mesh = lower(
        {"batch_size": 256, "mesh.data": 1, "mesh.fsdp": 16}, devices, **options
    )
    text = lowered.compile().as_text()
    found = collectives(parse(text))
    print(json.dumps(collective_table(found), indent=1))
    # A TPU gathers a layer and scatters its gradient as pieces that go round a ring of chips, and
    # multiplies by the pieces it has meanwhile. The rest is biases and other unstacked parameters.
    at_once = max(math.prod(shape) for shapes in _shapes(task) for shape in shapes)
    assert {c.kind for c in found} >= {"collective-permute"}
    assert all(array.bytes <= 4 * at_once for c in found for array in c.arrays)
    rings = [c for c in found if c.kind == "collective-permute"]
    assert all(c.bytes <= at_once for c in rings)  # a piece of one layer, in bfloat16
    in_loops = sum(c.sent_bytes for c in rings if c.in_loop)
    matrices = sum(x.size for x in trained_arrays(task) if x.ndim > 1) * 2
    # Forward and backward pass of the student, its gradient, and the teacher's forward pass.
    assert 2 * matrices < in_loops < 4.5 * matrices, in_loops / matrices
    held = sharding.bytes_per_device(compilation.state_template(task, mesh))
    state = jax.eval_shape(task.init, jax.random.key(0))
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert held < 1.2 * whole / 16


class Narrow(Learner):
    """Learns one matrix: a step that compiles at once, and whose memory grows with its rows."""

    row_shapes: ClassVar = {"x": jax.ShapeDtypeStruct((256,), np.float32)}
    picture: ClassVar = Picture("nothing", (), "")

    def init(self, key: jax.Array) -> TrainState:
        return TrainState(jnp.int32(0), {"kernel": jnp.ones((256, 256))}, {}, ())

    def train_step(self, state, batch, values, *, accum_steps):
        def loss(params, batch):
            large = jnp.tanh(batch["x"][:, :, None] * params["kernel"][None])
            total = ((large @ params["kernel"]) ** 2).sum()
            return total, {"loss": total}

        grads, metrics = accumulate_gradients(loss, state.params, batch, accum_steps=accum_steps)
        params = jax.tree.map(lambda p, g: p - values.learning_rate * g, state.params, grads)
        return state._replace(params=params), metrics


def auto(available: int | None) -> compilation.CompiledStep:
    mesh = sharding.make_mesh(vit_s.get_config("smoke").mesh)
    return compilation.compile_step(
        Narrow(), mesh, batch_size=96, accum_steps="auto", available=available, options={}
    )


def test_auto_halves_what_does_not_fit():
    whole = auto(None)
    assert whole.accum_steps == 1 and whole.memory.fits is None
    half = auto(whole.memory.total - 1)
    assert half.accum_steps == 2 and half.memory.fits is True


@pytest.fixture
def compile_by_proportion(monkeypatch):
    """Replaces compilation by a step of 10**6 bytes per image; lists the compiled micro-batches."""
    compiled = []

    def lower(task, mesh, *, batch_size, accum_steps):
        compiled.append(accum_steps)
        return batch_size // mesh.size // accum_steps

    def compile_(images, *, available, options):
        total = sharding.bytes_per_device(state) * 2 + 10**6 * images
        return None, Memory(0, 0, 0, 0, 0, total, available)

    mesh = sharding.make_mesh(vit_s.get_config("smoke").mesh)
    state = compilation.state_template(Narrow(), mesh)
    monkeypatch.setattr(compilation, "lower_step", lower)
    monkeypatch.setattr(compilation, "_compile", compile_)
    return compiled


@pytest.mark.parametrize(("spare", "number"), [(1, 12), (2, 6), (3, 4), (5, 3), (6, 2), (12, 1)])
def test_auto_takes_the_fewest_micro_batches_that_fit(compile_by_proportion, spare, number):
    """Uses 12 images per device, so that 1, 2, 3, 4, 6 and 12 micro-batches are possible."""
    one_image = auto(10**12).memory.total - 12 * 10**6
    step = auto(one_image + spare * 10**6)
    assert step.accum_steps == number and step.memory.fits is True
    assert auto(one_image + spare * 10**6 + 10**6 - 1).accum_steps == number


def test_auto_gives_the_smallest_where_nothing_fits(compile_by_proportion):
    step = auto(1)
    assert step.accum_steps == 12 and step.memory.fits is False
    assert compile_by_proportion == [1, 12]  # the others cannot fit


REFUSED = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries"
    " (40.50G) exceeds available HBM (15.75G)."
)
JUST_REFUSED = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm."
    " Used 15.75G of 15.75G hbm. Exceeded hbm capacity by 2.01M."
)
VMEM = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 17.30M of 16.00M vmem."


def lower_a_sum(*args, **options) -> jax.stages.Lowered:
    """Stands in for `lower_step` in tests of what the compiler reports."""
    return jax.jit(lambda x: x + 1).lower(np.float32(1))


@pytest.fixture
def compile_with_error(monkeypatch):
    def compile_with(message: str) -> compilation.CompiledStep:
        def refuse(self: jax.stages.Lowered, compiler_options: dict) -> None:
            raise jax.errors.JaxRuntimeError(message)

        monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
        monkeypatch.setattr(compilation, "lower_step", lower_a_sum)
        return auto(int(15.75 * 2**30))

    return compile_with


@pytest.mark.parametrize(("message", "gibibytes"), [(REFUSED, 40.5), (JUST_REFUSED, 15.75)])
def test_what_the_compiler_refuses_has_a_size_and_does_not_fit(
    compile_with_error, message, gibibytes
):
    step = compile_with_error(message)
    assert step.program is None
    assert step.memory.total == gibibytes * 2**30 and step.memory.argument is None
    assert step.memory.fits is False and step.memory._replace(available=None).fits is False


@pytest.mark.parametrize("message", ["INTERNAL: 3.00G of something in HBM", VMEM])
def test_another_error_of_the_compiler_stays_one(compile_with_error, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message[:8]):
        compile_with_error(message)


def for_devices(monkeypatch, *, available: int | None, **changes) -> compilation.CompiledStep:
    config = vit_s.get_config("smoke")
    config.update_from_flattened_dict({"batch_size": 96} | changes)
    config = settings_for(resolve(config), "cpu")
    monkeypatch.setattr(compilation, "available_bytes", lambda: available)
    return compilation.compile_for_devices(Narrow(), sharding.make_mesh(config.mesh), config)


def test_what_was_compiled_is_said(monkeypatch, caplog):
    with caplog.at_level("INFO", "fsvfm_jax"):
        step = for_devices(monkeypatch, available=None)
        assert "effective batch: 96 = 8 devices x 12 x 1" in caplog.text
        for_devices(monkeypatch, available=step.memory.total - 1)
        size = step.memory.total / 2**30
        assert f"this will probably not fit, {size:.1f} of {size:.1f} GiB per device" in caplog.text
        for_devices(monkeypatch, available=step.memory.total - 1, accum_steps="auto")
    assert "96 = 8 devices x 6 x 2 micro-batches, the fewest that fit" in caplog.text


def test_what_the_compiler_refuses_is_a_mistake_in_the_config(monkeypatch):
    def refuse(self: jax.stages.Lowered, compiler_options: dict) -> None:
        raise jax.errors.JaxRuntimeError(REFUSED)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    monkeypatch.setattr(compilation, "lower_step", lower_a_sum)
    with pytest.raises(ConfigError, match=r"does not fit, 40.5 GiB per device are needed: raise"):
        for_devices(monkeypatch, available=int(15.75 * 2**30))


def test_the_cpus_devices_share_the_machines_memory():
    available = compilation.available_bytes()
    assert available is not None and 2**26 < available < 2**45


def test_an_unknown_option_is_a_mistake_in_the_config():
    lowered = jax.jit(lambda x: x + 1).lower(np.float32(1))
    for options in ({"xla_no_such": True}, {"xla_gpu_enable_triton_gemm": "maybe"}):
        with pytest.raises(ConfigError, match=r"config\.compiler_options: .*xla_"):
            compilation._compile(lowered, available=None, options=options)


@pytest.mark.parametrize("value", ["O1", 10**30, 1.5])
def test_an_option_of_another_type_is_a_mistake_in_the_config(value):
    lowered = jax.jit(lambda x: x + 1).lower(np.float32(1))
    options = {"xla_cpu_enable_fast_math": True, "optimization_level": value}
    with pytest.raises(ConfigError, match=r"has \{'optimization_level': [^,]+\}: .* 1 for O1;"):
        compilation._compile(lowered, available=None, options=options)
