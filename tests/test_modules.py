"""Tests which module of the network moves how many bytes."""

import pytest

from fsvfm_jax.plan.modules import Origin, aligned, by_module, module_totals, origin, top_kernels
from fsvfm_jax.plan.traffic import Kernel

STUDENT = "jit(train_step)/jvp(FSVFM.student)"
BACKWARD = "jit(train_step)/transpose(jvp(FSVFM.student))"
TEACHER = "jit(train_step)/jvp(FSVFM.teacher)"
LOOP = "FSVFM.encode/FSVFM.tokens/FSVFM.run/while/body/closed_call"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            f"{TEACHER}/{LOOP}/blocks/attn/vmap(BTNH,BSNH->BNTS)/dot_general",
            ("teacher's encoder", "forward", "blocks/attn/dot_general"),
        ),
        (
            f"{BACKWARD}/FSVFM.decode/FSVFM.run/eval_jaxpr/decoder_blocks/mlp/fc1/transpose",
            ("student's pixel decoder", "backward", "decoder_blocks/mlp/fc1/transpose"),
        ),
        (
            f"{BACKWARD}/{LOOP}/checkpoint/rematted_computation/blocks/mlp/mul",
            ("student's encoder", "recomputed", "blocks/mlp/mul"),
        ),
        (
            f"jit(train_step)/while/body/closed_call/{STUDENT[16:]}/FSVFM.represent/FSVFM.run/while",
            ("student's representation decoder", "forward", "while"),
        ),
        (
            f"{STUDENT}/predictor/fc2/dot_general",
            ("student's predictor", "forward", "predictor/fc2/dot_general"),
        ),
        (f"{STUDENT}/mul", ("student's inputs and outputs", "forward", "mul")),
        ("jit(train_step)/jvp(jit(_var))/reduce_sum", ("loss", "forward", "reduce_sum")),
        ("jit(train_step)/transpose(jvp())/mul", ("loss", "backward", "mul")),
        ("jit(train_step)/masks/vmap(jit(argsort))/sort", ("masks", "", "sort")),
        ("jit(train_step)/jit(_where)/select_n", ("optimizer", "", "select_n")),
        (
            f"{BACKWARD}/{LOOP}/blocks/(attn/proj/reduce_sum:norm1/reduce_sum)",
            ("student's encoder", "backward", "blocks/several operations"),
        ),
        (
            f"jit(train_step)/({BACKWARD[16:]}/FSVFM.decode/dot:{BACKWARD[16:]}/norm/mul)",
            ("several modules", "", "several operations"),
        ),
        ("", ("unknown", "", "")),
    ],
)
def test_the_origin_is_readable(source, expected):
    assert origin(source) == Origin(*expected)


KERNELS = [
    *(Kernel(f"gemm_fusion_dot.{k}", 100, 1, f"{STUDENT}/{LOOP}/blocks/dot") for k in range(12)),
    Kernel("copy.7.remat2", 50, 3, f"{TEACHER}/{LOOP}/while"),
    Kernel("copy.1", 20, 2, "jit(train_step)/add"),
    Kernel("bitcast.9.clone.1", 0, 5, "jit(train_step)/add"),
]


def test_equal_kernels_of_all_blocks_are_one_row():
    rows = top_kernels(KERNELS)
    assert [(row["kernel"], row["bytes"], row["executions"]) for row in rows] == [
        ("gemm_fusion_dot", 100, 12),
        ("copy", 50, 3),
        ("copy", 20, 2),
    ]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    many = [Kernel("copy", size, 1, "") for size in range(1, 200)]
    assert [row["bytes"] for row in top_kernels(many)] == list(range(199, 99, -1))
    assert top_kernels([]) == [] and module_totals([]) == []


def test_the_shares_of_all_modules_add_up():
    rows = module_totals(KERNELS)
    assert [(row["module"], row["stage"], row["bytes"], row["executions"]) for row in rows] == [
        ("student's encoder", "forward", 1200, 12),
        ("teacher's encoder", "forward", 150, 3),
        ("optimizer", "", 40, 7),
    ]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    text = by_module(rows, top_kernels(KERNELS))
    assert "student's encoder, forward" in text and "100.0 %" in text
    assert all(line == line.rstrip() and len(line) < 120 for line in text.splitlines())


def test_columns_are_aligned():
    text = aligned(["n", "name"], [["1,000", "a"], ["2", "bc"]], numbers=1)
    assert text == "    n  name\n1,000  a\n    2  bc"
