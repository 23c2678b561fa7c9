"""Finds where in JAX's name stack an instruction of a compiled program comes from."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from fsvfm_jax.plan.hlo import Call, Computation, Instruction, Program, called

# A program's parameters have names too, such as "state.params['norm']", which are no place in it.
_OP_NAME = re.compile(r'op_name="(jit\([^";]*)')
# Instructions between one without a name and one with a name, at most.
_MAX_STEPS = 6

Users = Mapping[str, list[Instruction]]


def users_of(computation: Computation) -> Users:
    """Returns, for the name of each instruction, the instructions that use its value."""
    users = defaultdict(list)
    for instruction in computation.instructions.values():
        for name in instruction.operands:
            users[name].append(instruction)
    return users


def source_of(program: Program, call: Call, instruction: Instruction, users: Users) -> str:
    """Returns the place in JAX's name stack that an instruction comes from; may be empty.

    The compiler adds instructions without a name, such as copies. Such an instruction gets the name
    of what it contains, or else of what makes its input, or else of what uses its result, or else
    of the loop around it.

    Args:
        program: The program.
        call: The call of the computation that contains the instruction.
        instruction: The instruction.
        users: `users_of` that computation.
    """
    instructions = call.computation.instructions

    def inputs(of: Instruction) -> Iterable[Instruction]:
        return (instructions[name] for name in of.operands if name in instructions)

    return (
        _name(program, instruction)
        or _nearest(program, instruction, inputs)
        or _nearest(program, instruction, lambda of: users.get(of.name, ()))
        or (_name(program, call.caller) if call.caller is not None else "")
    )


def _nearest(
    program: Program,
    start: Instruction,
    neighbours: Callable[[Instruction], Iterable[Instruction]],
) -> str:
    """Returns the name of the nearest named instruction in one direction, or ""."""
    reached, seen = [start], {start.name}
    for _ in range(_MAX_STEPS):
        found = {one.name: one for of in reached for one in neighbours(of)}
        reached = [one for name, one in found.items() if name not in seen]
        seen |= found.keys()
        for one in reached:
            if name := _name(program, one):
                return name
    return ""


def _name(program: Program, instruction: Instruction) -> str:
    """Returns the name of an instruction, or of the last named one in its fusion, or ""."""
    if own := _OP_NAME.search(instruction.attributes):
        return own[1]
    if instruction.opcode.removesuffix("-start") != "fusion":
        return ""
    inside = program.computations[called(instruction)["calls"]].instructions.values()
    return next((name for one in reversed(inside) if (name := _name(program, one))), "")
