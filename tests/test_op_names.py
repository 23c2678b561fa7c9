"""Tests where instructions of a program come from, also those that the compiler added."""

import pytest

from fsvfm_jax.plan.hlo import calls, parse
from fsvfm_jax.plan.op_names import source_of, users_of

STEP = "jit(step)/blocks/mul"
PROGRAM = f"""\
HloModule jit_step

%inner (q: f32[8]) -> f32[8] {{
  %q = f32[8]{{0}} parameter(0)
  %named = f32[8]{{0}} multiply(%q, %q), metadata={{op_name="{STEP}" stack_frame_id=3}}
  ROOT %result = f32[8]{{0}} bitcast(%named)
}}

%body (t: (f32[8], s32[])) -> (f32[8], s32[]) {{
  %t = (f32[8]{{0}}, s32[]) parameter(0)
  %item = f32[8]{{0}} get-tuple-element(%t), index=0
  %alone = f32[8]{{0}} copy(%item)
  %i = s32[] get-tuple-element(%t), index=1
  ROOT %out = (f32[8]{{0}}, s32[]) tuple(%alone, %i)
}}

%condition (t: (f32[8], s32[])) -> pred[] {{
  %u = (f32[8]{{0}}, s32[]) parameter(0)
  ROOT %go = pred[] constant(true)
}}

ENTRY %main () -> f32[] {{
  %x = f32[8]{{0}} parameter(0), metadata={{op_name="state.params[\\'norm\\']"}}
  %zero = s32[] constant(0)
  %own = f32[8]{{0}} add(%x, %x), metadata={{op_name="jit(step)/a/add;jit(step)/b/add"}}
  %fusion = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%inner
  %started = ((f32[8]{{0}}), f32[8]{{0}}, u32[]) fusion-start(%x), kind=kLoop, calls=%inner
  %finished = f32[8]{{0}} fusion-done(%started)
  %after = f32[8]{{0}} copy(%own)
  %fetch = (f32[8]{{0:S(1)}}, f32[8]{{0}}, u32[]) copy-start(%x)
  %fetched = f32[8]{{0:S(1)}} copy-done(%fetch)
  %user = f32[8]{{0}} negate(%fetched), metadata={{op_name="jit(step)/c/neg"}}
  %lost = f32[4]{{0}} custom-call(), custom_call_target="x"
  %args = (f32[8]{{0}}, s32[]) tuple(%x, %zero)
  %loop = (f32[8]{{0}}, s32[]) while(%args), condition=%condition, body=%body, metadata={{op_name="jit(step)/while"}}
  ROOT %end = f32[8]{{0}} add(%user, %after), metadata={{op_name="jit(step)/end"}}
}}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("own", "jit(step)/a/add"),
        ("fusion", STEP),
        ("started", STEP),
        ("after", "jit(step)/a/add"),
        ("fetch", "jit(step)/c/neg"),
        ("alone", "jit(step)/while"),
        ("lost", ""),
    ],
)
def test_the_source_is_the_nearest_name(name, source):
    program = parse(PROGRAM)
    found = {
        instruction.name: source_of(program, call, instruction, users_of(call.computation))
        for call in calls(program, program.entry, fusions=False)
        for instruction in call.computation.instructions.values()
    }
    assert found[name] == source
