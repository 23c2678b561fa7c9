"""Tests the bytes between a device and its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fsvfm_jax.plan.hlo import parse
from fsvfm_jax.plan.traffic import Kernel, kernels, traffic

KIB = 1024


def program(body: str, *, computations: str = "") -> str:
    return f"HloModule jit_f\n\n{computations}\nENTRY %main () -> f32[] {{\n{body}}}\n"


def test_on_the_cpu_an_elementwise_function_reads_and_writes_once():
    x = jax.ShapeDtypeStruct((KIB,), np.float32)
    text = jax.jit(lambda x: jnp.tanh(x) * 2 + x).lower(x).compile().as_text()
    assert traffic(kernels(parse(text))).bytes == 2 * 4 * KIB


def test_a_loop_over_a_stack_reads_a_layer_at_a_time():
    layers, width = 64, 128

    def forward(x, stack):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0]

    shapes = [((8, width),), ((layers, width, width),)]
    arguments = [jax.ShapeDtypeStruct(*shape, np.float32) for shape in shapes]
    text = jax.jit(forward).lower(*arguments).compile().as_text()
    stack_bytes = layers * width * width * 4
    # It is read once from the stack. The CPU copies each layer first, and may copy the stack.
    assert stack_bytes < traffic(kernels(parse(text))).bytes < 6 * stack_bytes


@pytest.mark.parametrize(
    ("body", "bytes_moved"),
    [
        ("  ROOT %y = f32[1024]{0} add(%x, %x)\n", 3 * 4096),
        ("  ROOT %y = f32[1024]{0:T(1024)S(1)} add(%x, %x)\n", 2 * 4096),
        ("  ROOT %y = f32[32,32]{1,0} bitcast(%x)\n", 0),
        ("  ROOT %y = f32[8]{0} slice(%x), slice={[0:8]}\n", 2 * 32),
        ("  ROOT %y = f32[1024]{0} dynamic-update-slice(%x, %part, %i)\n", 2 * 32),
        # A copy to fast memory reads slow memory once, and its writes to fast memory are free.
        (
            "  %s = (f32[1024]{0:S(1)}, f32[1024]{0}, u32[]) copy-start(%x)\n"
            "  ROOT %y = f32[1024]{0:S(1)} copy-done(%s)\n",
            4096,
        ),
        (
            "  %s = ((f32[1024]{0}), f32[8]{0:S(1)}, s32[]{:S(2)}) slice-start(%x)\n"
            "  ROOT %y = f32[8]{0:S(1)} slice-done(%s)\n",
            32,
        ),
        ('  ROOT %y = f32[1024]{0} custom-call(), custom_call_target="AllocateBuffer"\n', 0),
        ('  ROOT %y = f32[1024]{0} custom-call(%x), custom_call_target="TopK"\n', 2 * 4096),
        # The last result of cuBLAS is its workspace, and not that of cuDNN.
        (
            "  ROOT %y = (f32[1024]{0}, s8[33554432]{0}) custom-call(%x, %part),"
            ' custom_call_target="__cublas$gemm"\n',
            2 * 4096 + 32,
        ),
        (
            "  ROOT %y = (f32[1024]{0}, f32[8]{0}, u8[64]{0}) custom-call(%x),"
            ' custom_call_target="__cublas$lt$matmul"\n',
            2 * 4096 + 32,
        ),
        ('  ROOT %y = s8[64]{0} custom-call(%x), custom_call_target="__cublas$gemm"\n', 4096 + 64),
        (
            "  ROOT %y = (f32[1024]{0}, u8[64]{0}) custom-call(%x),"
            ' custom_call_target="__cudnn$fmhaSoftmaxBackward"\n',
            2 * 4096 + 64,
        ),
    ],
)
def test_single_instructions(body, bytes_moved):
    arguments = (
        "  %x = f32[1024]{0} parameter(0)\n"
        "  %part = f32[8]{0} parameter(1)\n"
        "  %i = s32[] parameter(2)\n"
    )
    assert traffic(kernels(parse(program(arguments + body)))).bytes == bytes_moved


FUSED = """\
%inner (q: f32[24,1024]) -> f32[1,1024] {
  %q = f32[24,1024]{1,0} parameter(0)
  %k = s32[] constant(3)
  ROOT %layer = f32[1,1024]{1,0} dynamic-slice(%q, %k, %k), dynamic_slice_sizes={1,1024}
}

%fused (stack: f32[24,1024], x: f32[1,1024], i: s32[]) -> (f32[24,1024], f32[1,1024]) {
  %stack = f32[24,1024]{1,0} parameter(0)
  %x = f32[1,1024]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %same = f32[24,1024]{1,0} bitcast(%stack)
  %layer = f32[1,1024]{1,0} fusion(%same), kind=kLoop, calls=%inner
  %sum = f32[1,1024]{1,0} add(%layer, %x)
  %updated = f32[24,1024]{1,0} dynamic-update-slice(%stack, %sum, %i, %i)
  ROOT %both = (f32[24,1024]{1,0}, f32[1,1024]{1,0}) tuple(%updated, %sum)
}

"""


def test_a_fusion_that_slices_and_updates_a_stack_moves_only_the_slices():
    body = """\
  %a = f32[24,1024]{1,0} parameter(0)
  %b = f32[1,1024]{1,0} parameter(1)
  %c = s32[] parameter(2)
  ROOT %f = (f32[24,1024]{1,0}, f32[1,1024]{1,0}) fusion(%a, %b, %c), kind=kLoop, calls=%fused
"""
    # Reads: a layer of the stack, x and the index. Writes: a layer of the stack, and the sum.
    assert traffic(kernels(parse(program(body, computations=FUSED)))).bytes == 4 * 4096 + 4


def test_a_fusion_that_needs_all_of_its_operand_reads_all():
    whole = FUSED.replace("%same = f32[24,1024]{1,0} bitcast", "%same = f32[24,1024]{1,0} negate")
    body = """\
  %a = f32[24,1024]{1,0} parameter(0)
  %b = f32[1,1024]{1,0} parameter(1)
  %c = s32[] parameter(2)
  ROOT %f = (f32[24,1024]{1,0}, f32[1,1024]{1,0}) fusion(%a, %b, %c), kind=kLoop, calls=%fused
"""
    assert (
        traffic(kernels(parse(program(body, computations=whole)))).bytes == 24 * 4096 + 3 * 4096 + 4
    )


def test_every_result_of_a_variadic_reduction_is_written():
    fused = """\
%larger (a: f32[], i: s32[], b: f32[], j: s32[]) -> (f32[], s32[]) {
  %a = f32[] parameter(0)
  %i = s32[] parameter(1)
  ROOT %t = (f32[], s32[]) tuple(%a, %i)
}

%fused (x: f32[8,1024], i: s32[8,1024]) -> (f32[1024], s32[1024]) {
  %x = f32[8,1024]{1,0} parameter(0)
  %k = s32[8,1024]{1,0} parameter(1)
  %zero = f32[] constant(0)
  %none = s32[] constant(0)
  ROOT %r = (f32[1024]{0}, s32[1024]{0}) reduce(%x, %k, %zero, %none), dimensions={0}, to_apply=%larger
}

"""  # noqa: E501
    body = """\
  %a = f32[8,1024]{1,0} parameter(0)
  %b = s32[8,1024]{1,0} parameter(1)
  ROOT %f = (f32[1024]{0}, s32[1024]{0}) fusion(%a, %b), kind=kInput, calls=%fused
"""
    found = kernels(parse(program(body, computations=fused)))
    assert traffic(found).bytes == 2 * 8 * 4096 + 2 * 4096


NESTED_UPDATE = """\
%inner (q: f32[24,1024], v: f32[1,1024], k: s32[]) -> (f32[24,1024], f32[1,1024]) {
  %q = f32[24,1024]{1,0} parameter(0)
  %v = f32[1,1024]{1,0} parameter(1)
  %k = s32[] parameter(2)
  %updated = f32[24,1024]{1,0} dynamic-update-slice(%q, %v, %k, %k)
  %negative = f32[1,1024]{1,0} negate(%v)
  ROOT %two = (f32[24,1024]{1,0}, f32[1,1024]{1,0}) tuple(%updated, %negative)
}

"""


@pytest.mark.parametrize(
    "root",
    [
        "  ROOT %n = (f32[24,1024]{1,0}, f32[1,1024]{1,0}) fusion(%stack, %x, %i), kind=kLoop,"
        " calls=%inner\n",
        "  %n = (f32[24,1024]{1,0}, f32[1,1024]{1,0}) fusion(%stack, %x, %i), kind=kLoop,"
        " calls=%inner\n"
        "  %n0 = f32[24,1024]{1,0} get-tuple-element(%n), index=0\n"
        "  %n1 = f32[1,1024]{1,0} get-tuple-element(%n), index=1\n"
        "  ROOT %both = (f32[24,1024]{1,0}, f32[1,1024]{1,0}) tuple(%n0, %n1)\n",
    ],
)
def test_an_update_in_a_nested_fusion_writes_only_the_slice(root):
    outer = (
        "%fused (stack: f32[24,1024], x: f32[1,1024], i: s32[]) -> (f32[24,1024], f32[1,1024]) {\n"
        "  %stack = f32[24,1024]{1,0} parameter(0)\n"
        "  %x = f32[1,1024]{1,0} parameter(1)\n"
        f"  %i = s32[] parameter(2)\n{root}}}\n\n"
    )
    body = """\
  %a = f32[24,1024]{1,0} parameter(0)
  %b = f32[1,1024]{1,0} parameter(1)
  %c = s32[] parameter(2)
  ROOT %f = (f32[24,1024]{1,0}, f32[1,1024]{1,0}) fusion(%a, %b, %c), kind=kLoop, calls=%fused
"""
    found = kernels(parse(program(body, computations=NESTED_UPDATE + outer)))
    # Reads: x and the index. Writes: a layer of the stack, and the negative.
    assert traffic(found).bytes == 3 * 4096 + 4


def test_a_conversion_at_the_end_of_a_fusion_writes_its_own_type():
    fused = """\
%fused (x: bf16[1024]) -> f32[1024] {
  %x = bf16[1024]{0} parameter(0)
  %n = bf16[1024]{0} negate(%x)
  ROOT %c = f32[1024]{0} convert(%n)
}

"""
    body = """\
  %a = bf16[1024]{0} parameter(0)
  ROOT %f = f32[1024]{0} fusion(%a), kind=kLoop, calls=%fused
"""
    assert traffic(kernels(parse(program(body, computations=fused)))).bytes == 2048 + 4096


def test_a_loop_counts_as_often_as_it_runs():
    loop = """\
%body (c: (s32[], f32[1024])) -> (s32[], f32[1024]) {
  %c = (s32[], f32[1024]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[1024]{0} get-tuple-element(%c), index=1
  %y = f32[1024]{0} negate(%x)
  ROOT %t = (s32[], f32[1024]{0}) tuple(%i, %y)
}

%condition (d: (s32[], f32[1024])) -> pred[] {
  %d = (s32[], f32[1024]{0}) parameter(0)
  ROOT %p = pred[] constant(true)
}

"""
    body = """\
  %x = (s32[], f32[1024]{0}) parameter(0)
  ROOT %w = (s32[], f32[1024]{0}) while(%x), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"7"}}
"""  # noqa: E501
    assert traffic(kernels(parse(program(body, computations=loop)))).bytes == 7 * 2 * 4096


# An extract of a program for a GPU, which slices the parameters of a block while it computes.
ASYNCHRONOUS = """\
%fused_dynamic_slice (stack: f32[24,1024], i: s32[]) -> f32[1,1024] {
  %stack = f32[24,1024]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %layer = f32[1,1024]{1,0} dynamic-slice(%stack, %i, %zero), dynamic_slice_sizes={1,1024}
}

"""


def test_an_asynchronous_fusion_is_one_kernel_and_moves_what_its_fusion_moves():
    body = """\
  %a = f32[24,1024]{1,0} parameter(0)
  %b = s32[] parameter(1)
  %fusion-start.1 = ((f32[24,1024]{1,0}, s32[]), f32[1,1024]{1,0}, u32[]) fusion-start(%a, %b), kind=kLoop, calls=%fused_dynamic_slice, metadata={op_name="jit(f)/dynamic_slice"}
  ROOT %fusion-done.1 = f32[1,1024]{1,0} fusion-done(%fusion-start.1)
"""  # noqa: E501
    text = program(body, computations=ASYNCHRONOUS)
    moved = 2 * 4096 + 4
    assert traffic(kernels(parse(text))) == (moved, 1)
    assert kernels(parse(text)) == [Kernel("fusion-start.1", moved, 1, "jit(f)/dynamic_slice")]


def test_a_sum_over_devices_in_two_halves_is_one_kernel():
    body = """\
  %x = f32[1024]{0} parameter(0)
  %s = f32[1024]{0} all-reduce-start(%x), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %y = f32[1024]{0} all-reduce-done(%s)
  ROOT %z = f32[1024]{0} negate(%y)
"""
    assert traffic(kernels(parse(program(body)))) == (4 * 4096, 2)


def test_a_kernel_in_a_loop_counts_as_often_as_it_runs():
    shape = jax.ShapeDtypeStruct((KIB,), np.float32)
    text = jax.jit(lambda x: jax.lax.fori_loop(0, 7, lambda i, x: jnp.tanh(x) * 2, x))
    found = kernels(parse(text.lower(shape).compile().as_text()))
    assert any((kernel.bytes, kernel.executions) == (2 * 4096, 7) for kernel in found)
