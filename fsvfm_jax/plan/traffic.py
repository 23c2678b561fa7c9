"""Counts the bytes that a compiled program moves between a device and its memory."""

import re

from fsvfm_jax.plan.hlo import (
    Computation,
    HloArray,
    Instruction,
    Program,
    called,
    calls,
    parse,
)

# Instructions that move no bytes: names for existing values, and control flow, whose computations
# are counted separately.
FREE = (
    *("after-all", "bitcast", "constant", "get-tuple-element", "opt-barrier", "parameter"),
    *("partition-id", "replica-id", "tuple", "call", "conditional", "while"),
)
FREE_CUSTOM_CALLS = ("AllocateBuffer", "ConcatBitcast")
READS_A_PART = ("dynamic-slice", "gather", "slice")
# Inside a fusion, these instructions do not change which part of their operand is read.
PASSES_ON = ("bitcast", "convert", "copy", "reshape", "transpose")


def memory_traffic(hlo_text: str) -> int:
    """Counts the bytes that one device reads from and writes to its memory in a step.

    Every instruction outside of fusions reads its operands and writes its results. If a fusion only
    slices an array or updates it in place, only the slice is counted. Arrays that the program's
    layouts place in a faster memory are not counted.

    Args:
        hlo_text: `compiled.as_text()`.
    """
    program = parse(hlo_text)
    return sum(
        call.executions * _traffic(program, call.computation, instruction)
        for call in calls(program, program.entry, fusions=False)
        for instruction in call.computation.instructions.values()
    )


def _traffic(program: Program, computation: Computation, instruction: Instruction) -> int:
    opcode = instruction.opcode
    target = re.search(r'custom_call_target="(\w+)"', instruction.attributes)
    if opcode in FREE or (target and target[1] in FREE_CUSTOM_CALLS):
        return 0
    inputs = [_bytes(computation.instructions[name].result) for name in instruction.operands]
    outputs = [_bytes((array,)) for array in instruction.result]
    if opcode == "fusion":
        fused = program.computations[called(instruction)["calls"]]
        read = [_read(program, fused, k) for k in range(len(inputs))]
        inputs = map(min, inputs, read)
        outputs = map(min, outputs, _written(fused))
    elif opcode in READS_A_PART:
        inputs = [min(sum(inputs), sum(outputs))]
    elif opcode == "dynamic-update-slice":
        inputs = outputs = inputs[1:2]
    elif opcode == "slice-start":
        # Its result is (whole, part, flag); its done instruction writes the part.
        inputs, outputs = [min(inputs[0], instruction.result[1].bytes)], []
    elif opcode.endswith("-start"):
        outputs = []
    elif opcode.endswith("-done"):
        inputs = []
    return sum(inputs) + sum(outputs)


def _bytes(arrays: tuple[HloArray, ...]) -> int:
    return sum(array.bytes for array in arrays if array.in_hbm)


def _read(program: Program, fused: Computation, position: int) -> int:
    """Returns the bytes that a fusion reads of the argument at this position."""
    parameters = (i for i in fused.instructions.values() if i.opcode == "parameter")
    argument = next(i for i in parameters if i.arguments == str(position))
    return _read_of(program, fused, argument)


def _read_of(program: Program, fused: Computation, value: Instruction) -> int:
    total = 0
    for user in fused.instructions.values():
        for position, name in enumerate(user.operands):
            if name != value.name:
                continue
            if user.opcode in PASSES_ON:
                total += _read_of(program, fused, user)
            elif user.opcode == "fusion":
                inner = program.computations[called(user)["calls"]]
                total += _read(program, inner, position)
            elif position == 0 and user.opcode in READS_A_PART:
                total += sum(array.bytes for array in user.result)
            elif position > 0 or user.opcode != "dynamic-update-slice":
                return sum(array.bytes for array in value.result)
    return total


def _written(fused: Computation) -> list[int]:
    """Returns the bytes that a fusion writes of each of its results."""
    root = fused.instructions[fused.root]
    written = []
    for name in root.operands if root.opcode == "tuple" else [root.name]:
        result = fused.instructions[name]
        while result.opcode in PASSES_ON:
            result = fused.instructions[result.operands[0]]
        if result.opcode == "dynamic-update-slice":
            result = fused.instructions[result.operands[1]]
        written.append(sum(array.bytes for array in result.result))
    return written
