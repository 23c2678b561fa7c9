"""Tests the exchanges of compiled programs, from the CPU's compiler here and from a TPU's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fsvfm_jax.plan.collectives import Collective, collective_table, collectives
from fsvfm_jax.plan.hlo import HloArray, parse

LAYERS = 5


@pytest.fixture(scope="module")
def mesh():
    auto = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=auto)


def compiled_text(mesh, function, *arguments, out_spec) -> str:
    """Compiles a function of (shape, spec) pairs of float32 and returns the text of the program."""
    shapes = [
        jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
        for shape, spec in arguments
    ]
    out = NamedSharding(mesh, PartitionSpec(*out_spec))
    return jax.jit(function, out_shardings=out).lower(*shapes).compile().as_text()


def test_a_gradient_is_all_reduced_once_and_whole(mesh):
    def gradient(w, x):
        return jax.grad(lambda w: jnp.square(x @ w).sum())(w)

    text = compiled_text(
        mesh, gradient, ((16, 32), ()), ((8, 16), (("data", "fsdp"),)), out_spec=()
    )
    [found] = collectives(parse(text))
    assert (found.kind, len(found.groups[0]), found.executions) == ("all-reduce", 8, 1)
    assert not found.in_loop
    # The CPU's compiler may sum the transposed array.
    assert [(a.dtype, sorted(a.shape)) for a in found.arrays] == [("f32", [16, 32])]
    assert found.bytes == 16 * 32 * 4
    assert found.sent_bytes == 2 * found.bytes * 7 / 8


def test_gathers_of_a_loop_over_layers_count_once_a_layer(mesh):
    def forward(w, x):
        def layer(x, w):
            w = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, PartitionSpec()))
            return jnp.tanh(x @ w), None

        return jax.lax.scan(layer, x, w)[0]

    batch = (("data", "fsdp"),)
    text = compiled_text(
        mesh,
        forward,
        ((LAYERS, 16, 16), (None, "fsdp", None)),
        ((8, 16), batch),
        out_spec=batch,
    )
    [found] = collectives(parse(text))
    assert (found.kind, len(found.groups[0])) == ("all-gather", 4)
    assert found.in_loop and found.executions == LAYERS
    # One complete layer is gathered, never the stack.
    assert found.bytes == 16 * 16 * 4
    assert found.sent_bytes == LAYERS * found.bytes * 3 / 4
    [row] = collective_table(collectives(parse(text)))
    assert row == {
        "kind": "all-gather",
        "in_loop": True,
        "count": 1,
        "executions": LAYERS,
        "bytes": LAYERS * found.bytes,
        "sent_bytes": LAYERS * found.bytes * 3 // 4,
    }


def test_a_program_of_one_device_exchanges_nothing():
    text = jax.jit(lambda x: x @ x).lower(jnp.ones((4, 4))).compile().as_text()
    assert collectives(parse(text)) == []
    assert parse(text).num_devices == 1


# Extracts of programs for v5e and v5p; names and forms are unchanged.
TPU = """\
HloModule jit_train_step, is_scheduled=true, entry_computation_layout={()->()}, num_partitions=8

%add.1 (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add.2 = f32[]{:T(128)} add(%x, %y)
}

%fused_computation.26 (param_0.1: bf16[1,256,1024]) -> bf16[1,1024,1024] {
  %param_0.1 = bf16[1,256,1024]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.268 = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} all-gather(%param_0.1), channel_id=267, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={1}, use_global_device_ids=true, frontend_attributes={chain_id="1"}
}

%async_collective_fusion.14 (param_0.2: bf16[1,256,1024]) -> bf16[1,1024,1024] {
  %param_0.2 = bf16[1,256,1024]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.270 = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.2), channel_id=267, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={1}, use_global_device_ids=true, frontend_attributes={chain_id="1"}
}

%all-reduce-scatter.7.clone.1 (input.26: f32[32,17,1024]) -> f32[8,17,1024] {
  %input.26 = f32[32,17,1024]{2,0,1:T(8,128)S(1)} parameter(0)
  %all-reduce.232 = f32[32,17,1024]{2,0,1:T(8,128)} all-reduce(%input.26), channel_id=12, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add.1
  %zero = s32[]{:T(128)} constant(0)
  ROOT %slice = f32[8,17,1024]{2,0,1:T(8,128)S(1)} dynamic-slice(%all-reduce.232, %zero, %zero, %zero), dynamic_slice_sizes={8,17,1024}
}

%body.5 (carry.1: (s32[], bf16[1,256,1024], f32[32,17,1024])) -> (s32[], bf16[1,256,1024], f32[32,17,1024]) {
  %carry.1 = (s32[]{:T(128)}, bf16[1,256,1024]{2,1,0:T(8,128)(2,1)}, /*index=2*/f32[32,17,1024]{2,0,1:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  %w = bf16[1,256,1024]{2,1,0:T(8,128)(2,1)} get-tuple-element(%carry.1), index=1
  %g = f32[32,17,1024]{2,0,1:T(8,128)} get-tuple-element(%carry.1), index=2
  %fusion.1 = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} fusion(%w), kind=kCustom, calls=%fused_computation.26
  %fusion.2 = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)S(1)} fusion(%w), kind=kOutput, calls=%async_collective_fusion.14
  %fusion.3 = f32[8,17,1024]{2,0,1:T(8,128)S(1)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.7.clone.1, metadata={op_name="jit(train_step)/mlp/fc2/dot_general" stack_frame_id=1}
  %copy.1 = s32[]{:T(128)} copy(%i)
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%copy.1, %two)
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[1,256,1024]{2,1,0:T(8,128)(2,1)}, f32[32,17,1024]{2,0,1:T(8,128)}) tuple(%next, %w, %g)
}

%condition.5 (carry.2: (s32[], bf16[1,256,1024], f32[32,17,1024])) -> pred[] {
  %limit = s32[]{:T(128)} constant(24)
  %carry.2 = (s32[]{:T(128)}, bf16[1,256,1024]{2,1,0:T(8,128)(2,1)}, f32[32,17,1024]{2,0,1:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%carry.2), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main.303_spmd (p.0: bf16[1,256,1024], p.1: f32[32,17,1024]) -> f32[32,17,1024] {
  %p.0 = bf16[1,256,1024]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = f32[32,17,1024]{2,0,1:T(8,128)} parameter(1)
  %start = s32[]{:T(128)} constant(0)
  %tuple.2 = (s32[]{:T(128)}, bf16[1,256,1024]{2,1,0:T(8,128)(2,1)}, f32[32,17,1024]{2,0,1:T(8,128)}) tuple(%start, %p.0, %p.1)
  %while.55 = (s32[]{:T(128)}, bf16[1,256,1024]{2,1,0:T(8,128)(2,1)}, f32[32,17,1024]{2,0,1:T(8,128)}) while(%tuple.2), condition=%condition.5, body=%body.5
  %all-gather-start.1 = (bf16[1,256,1024]{2,1,0}, bf16[1,1024,1024]{2,1,0}) all-gather-start(%p.0), channel_id=5, replica_groups=[2,4]<=[8], dimensions={1}
  %all-gather-done.1 = bf16[1,1024,1024]{2,1,0} all-gather-done(%all-gather-start.1)
  %collective-permute-start = (f32[32,17,1024]{2,1,0}, f32[32,17,1024]{2,1,0}, u32[], u32[]) collective-permute-start(%p.1), channel_id=6, source_target_pairs={{0,1},{1,0}}
  %collective-permute-done = f32[32,17,1024]{2,1,0} collective-permute-done(%collective-permute-start)
  ROOT %all-reduce.9 = f32[32,17,1024]{2,1,0} all-reduce(%collective-permute-done), channel_id=7, replica_groups={}, to_apply=%add.1
}
"""  # noqa: E501


def test_a_tpus_program():
    found = {c.kind + str(c.in_loop): c for c in collectives(parse(TPU))}
    assert len(found) == len(collectives(parse(TPU))) == 5
    # There are 24 layers, two per iteration; the pieces of one chain are one collective.
    gather = found["all-gatherTrue"]
    assert (gather.executions, len(gather.groups[0]), gather.bytes) == (12, 4, 2 * 1024 * 1024)
    scatter = found["reduce-scatterTrue"]
    assert (scatter.executions, len(scatter.groups[0])) == (12, 4)
    assert scatter.bytes == 32 * 17 * 1024 * 4 and not scatter.arrays[0].in_hbm
    # Of a start and its done only the start is counted, and of its results only the new part.
    started = found["all-gatherFalse"]
    assert [a.shape for a in started.arrays] == [(1, 1024, 1024)]
    permute = found["collective-permuteFalse"]
    assert permute.sent_bytes == permute.bytes == 32 * 17 * 1024 * 4
    assert permute.groups == ((0, 1), (1, 0))
    assert found["all-reduceFalse"].groups == (tuple(range(8)),)


def test_an_asynchronous_wrapper_is_one_collective():
    text = """\
HloModule jit_f, num_partitions=4

%wrapped (p: f32[8,16]) -> f32[2,16] {
  %p = f32[8,16]{1,0} parameter(0)
  ROOT %reduce-scatter.1 = f32[2,16]{1,0} reduce-scatter(%p), replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main (x: f32[8,16]) -> f32[2,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %start = ((f32[8,16]{1,0}), f32[2,16]{1,0}) async-start(%x), calls=%wrapped
  %update = ((f32[8,16]{1,0}), f32[2,16]{1,0}) async-update(%start), calls=%wrapped
  ROOT %done = f32[2,16]{1,0} async-done(%update), calls=%wrapped
}
"""  # noqa: E501
    [found] = collectives(parse(text))
    assert found.kind == "reduce-scatter"
    assert [a.shape for a in found.arrays] == [(8, 16)]
    assert found.sent_bytes == 8 * 16 * 4 * 3 / 4


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("{{0},{1}}", ((0,), (1,))),
        ("[4,2]<=[8]", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("[2,4]<=[4,2]T(1,0)", ((0, 2, 4, 6), (1, 3, 5, 7))),
        ("mesh['axis_0'=256,'axis_1'=1] {'axis_0','axis_1'}", (tuple(range(256)),)),
        ("mesh['a'=2,'b'=4] {'a'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'b'}", ((0, 4, 1, 5), (2, 6, 3, 7))),
        ("mesh['a'=8] {'a':(2)4}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['a'=8] {'a':(1)2}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("{}", (tuple(range(16)),)),
    ],
)
def test_every_way_to_write_groups(groups, members):
    text = f"""\
HloModule jit_f, replica_count=2, num_partitions=8

ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4]{{0}} parameter(0)
  ROOT %r = f32[4]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add
}}

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}}
"""
    [found] = collectives(parse(text))
    assert found.groups == members
    size = len(members[0])
    assert found.sent_bytes == 2 * 16 * (size - 1) / size


@pytest.mark.parametrize(
    ("groups", "share"),
    [
        # Two nodes of four exchange their sums. Each device of a node sends a quarter.
        ([range(8)], 2 * (1 / 2) / 4),
        ([(0, 4)], 2 * (1 / 2)),
        ([(0, 1, 2, 3), (4, 5, 6, 7)], 0),
        # The second group crosses, and the first does not.
        ([(0, 1, 2), (3, 4, 5)], 2 * (1 / 2) / 1.5),
    ],
)
def test_what_crosses_the_network_between_nodes(groups, share):
    array = HloArray("f32", (256,), in_hbm=True)
    found = Collective("all-reduce", (array,), tuple(map(tuple, groups)), 3, in_loop=False)
    assert found.sent_between([0, 0, 0, 0, 1, 1, 1, 1]) == pytest.approx(3 * 1024 * share)


@pytest.mark.parametrize(
    ("pairs", "share"),
    [
        (((0, 1), (1, 2), (2, 3), (3, 0)), 1),
        (((0, 1), (1, 0), (2, 3), (3, 2)), 0),
        (((3, 0),), 1),
    ],
)
def test_a_permutation_crosses_if_one_of_its_pairs_does(pairs, share):
    array = HloArray("f32", (256,), in_hbm=True)
    found = Collective("collective-permute", (array,), pairs, 1, in_loop=True)
    assert found.sent_between([0, 0, 1, 1]) == 1024 * share
    assert found.sent_bytes == 1024
