"""Tests the arrays, loops and conditionals of a compiled program's text.

The tests of collectives parse whole programs.
"""

import pytest

from fsvfm_jax.plan import hlo


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("f32", (), 4),
        ("bf16", (2, 3), 12),
        ("pred", (5,), 5),
        ("s4", (3,), 2),
        ("f8e4m3fn", (4,), 4),
        ("c64", (2,), 16),
        ("token", (), 0),
        ("f32", (0, 7), 0),
    ],
)
def test_bytes_of_an_array(dtype, shape, size):
    assert hlo.HloArray(dtype, shape, in_hbm=True).bytes == size


FUSIONS = """\
%wrapped_compare (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %less = pred[] compare(%a, %b), direction=LT
}

%compare_with_24 (a1: s32[]) -> pred[] {
  %a1 = s32[] parameter(0)
  %b1 = s32[] constant(24)
  ROOT %less1 = pred[] compare(%a1, %b1), direction=LT
}

%wrapped_add (a2: s32[]) -> s32[] {
  %a2 = s32[] parameter(0)
  %b2 = s32[] constant(2)
  ROOT %sum = s32[] add(%a2, %b2)
}

"""
LOOP = """\
HloModule jit_f

{fusions}%body (c: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %c = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[8]{{0}} get-tuple-element(%c), index=1
  %two = s32[] constant(2)
  %next = s32[] {step}
  ROOT %t = (s32[], f32[8]{{0}}) {carried}
}}

%condition (d: (s32[], f32[8])) -> pred[] {{
  %d = (s32[], f32[8]) parameter(0)
  %j = s32[] get-tuple-element(%d), index=0
  %limit = s32[] constant(24)
  ROOT %p = pred[] {test}
}}

ENTRY %main (x: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %x = (s32[], f32[8]) parameter(0)
  ROOT %loop.5 = (s32[], f32[8]) while(%x), condition=%condition, body=%body{known}
}}
"""


@pytest.mark.parametrize(
    ("changes", "executions"),
    [
        ({}, 12),
        ({"test": "fusion(%j, %limit), kind=kLoop, calls=%wrapped_compare"}, 12),
        ({"test": "fusion(%j), kind=kLoop, calls=%compare_with_24"}, 12),
        ({"step": "fusion(%i), kind=kLoop, calls=%wrapped_add"}, 12),
        ({"known": ', backend_config={"known_trip_count":{"n":"7"}}'}, 7),
        ({"known": ', backend_config={"known_trip_count":{"n":"0"}}'}, 0),
        ({"test": "compare(%j, %limit), direction=NE"}, None),
        ({"test": "compare(%j, %j), direction=LT"}, None),
        ({"test": "constant(true)"}, None),
        ({"carried": "copy(%c)"}, None),
    ],
)
def test_a_loop_runs_as_often_as_its_condition_says(changes, executions):
    parts = {
        **{"fusions": FUSIONS, "step": "add(%i, %two)", "carried": "tuple(%next, %x)"},
        **{"test": "compare(%j, %limit), direction=LT", "known": ""},
    }
    program = hlo.parse(LOOP.format(**(parts | changes)))
    found = {call.computation.name: call for call in hlo.calls(program, program.entry)}
    is_unknown = executions is None
    assert found["body"].executions == (1 if is_unknown else executions)
    assert found["body"].in_loop
    assert hlo.unknown_loops(program) == (["loop.5"] if is_unknown else [])


@pytest.mark.parametrize(
    "branches",
    ["branch_computations={%yes, %no}", "true_computation=%yes, false_computation=%no"],
)
def test_all_branches_of_a_conditional_are_found(branches):
    program = hlo.parse(f"""\
HloModule jit_f

%yes (a: f32[8]) -> f32[8] {{
  ROOT %a = f32[8]{{0}} parameter(0)
}}

%no (b: f32[8]) -> f32[8] {{
  ROOT %b = f32[8]{{0}} parameter(0)
}}

ENTRY %main (p: pred[], x: f32[8]) -> f32[8] {{
  %p = pred[] parameter(0)
  %x = f32[8]{{0}} parameter(1)
  ROOT %either = f32[8]{{0}} conditional(%p, %x, %x), {branches}
}}
""")
    found = [call.computation.name for call in hlo.calls(program, program.entry, fusions=False)]
    assert found == ["main", "yes", "no"]
