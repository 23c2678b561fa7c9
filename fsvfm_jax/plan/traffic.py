"""Counts the bytes that a compiled program moves between a device and its memory.

The count is that of the arrays' elements. The padding of a TPU's tiles, with which an array may
take more memory, is not in it.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from fsvfm_jax.plan.hlo import (
    Computation,
    HloArray,
    Instruction,
    Program,
    called,
    calls,
)
from fsvfm_jax.plan.op_names import source_of, users_of

# Instructions that move no bytes: names for existing values, and control flow, whose computations
# are counted separately.
FREE = (
    *("after-all", "bitcast", "constant", "get-tuple-element", "opt-barrier", "parameter"),
    *("partition-id", "replica-id", "tuple", "call", "conditional", "while"),
)
FREE_CUSTOM_CALLS = ("AllocateBuffer", "ConcatBitcast")
READS_A_PART = ("dynamic-slice", "gather", "slice")
# The second half of an asynchronous pair, and what lies between the halves.
WAITS = ("-done", "-update")
# Inside a fusion, these instructions do not change which part of their operand is read.
PASSES_ON = ("bitcast", "convert", "copy", "reshape", "transpose")


class Kernel(NamedTuple):
    """An instruction that a device runs as a program of its own.

    Attributes:
        name: Name of the instruction.
        bytes: Bytes that one execution reads and writes.
        executions: How often it runs in a step.
        source: Its origin in JAX's name stack (`op_names.source_of`); may be empty.
    """

    name: str
    bytes: int
    executions: int
    source: str


class Traffic(NamedTuple):
    """What one device does in a step: bytes that it reads and writes, and kernels that it runs."""

    bytes: int
    kernels: int


def traffic(found: Sequence[Kernel]) -> Traffic:
    """Returns what some kernels do in a step, in all their executions.

    Args:
        found: The result of `kernels`, or a part of it.
    """
    return Traffic(
        bytes=sum(kernel.bytes * kernel.executions for kernel in found),
        kernels=sum(kernel.executions for kernel in found),
    )


def kernels(program: Program) -> list[Kernel]:
    """Lists the instructions with which a device reads from and writes to its memory, each once.

    Every instruction outside of fusions reads its operands and writes its results. If a fusion only
    slices an array or updates it in place, only the slice is counted. Arrays that the program's
    layouts place in a faster memory are not counted, and neither is the workspace of cuBLAS, whose
    size is a limit and not what a product uses. An asynchronous pair of start and done is one
    kernel.

    Args:
        program: The result of `hlo.parse`.
    """
    found = []
    for call in calls(program, program.entry, fusions=False):
        instructions = call.computation.instructions.values()
        users = users_of(call.computation)
        waits = {
            name: user
            for name, using in users.items()
            for user in using
            if user.opcode.endswith(WAITS)
        }
        found += [
            Kernel(
                name=instruction.name,
                bytes=_moved(program, call.computation, instruction, waits),
                executions=call.executions,
                source=source_of(program, call, instruction, users),
            )
            for instruction in instructions
            if not _is_free(instruction)
        ]
    return found


def _is_free(instruction: Instruction) -> bool:
    return (
        instruction.opcode in FREE
        or instruction.opcode.endswith(WAITS)
        or _custom_call_target(instruction) in FREE_CUSTOM_CALLS
    )


def _custom_call_target(instruction: Instruction) -> str:
    target = re.search(r'custom_call_target="([^"]+)"', instruction.attributes)
    return target[1] if target is not None else ""


def _moved(
    program: Program,
    computation: Computation,
    instruction: Instruction,
    waits: dict[str, Instruction],
) -> int:
    """Returns the bytes of one execution.

    Args:
        program: The program.
        computation: The computation that contains the instruction.
        instruction: The instruction.
        waits: Maps each asynchronous start to its update or done instruction.
    """
    opcode = instruction.opcode.removesuffix("-start")
    end = instruction
    while end.name in waits:
        end = waits[end.name]
    inputs = [_bytes(computation.instructions[name].result) for name in instruction.operands]
    outputs = [_bytes((array,)) for array in _results(end)]
    if opcode == "fusion":
        fused = program.computations[called(instruction)["calls"]]
        inputs = [min(size, _read(program, fused, k)) for k, size in enumerate(inputs)]
        updates = _updates(program, fused, fused.instructions[fused.root])
        outputs = [
            size if update is None else min(size, update)
            for size, update in zip(outputs, updates, strict=True)
        ]
    elif opcode in READS_A_PART:
        part = sum(array.bytes for array in end.result)
        inputs = [min(sum(inputs), part)]
    elif opcode == "dynamic-update-slice":
        inputs = outputs = inputs[1:2]
    return sum(inputs) + sum(outputs)


def _results(instruction: Instruction) -> tuple[HloArray, ...]:
    """Returns the results of an instruction without the workspace, the last result of cuBLAS."""
    results = instruction.result
    is_cublas = _custom_call_target(instruction).startswith("__cublas")
    if is_cublas and len(results) > 1 and results[-1].dtype in ("s8", "u8"):
        return results[:-1]
    return results


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


def _updates(program: Program, fused: Computation, value: Instruction) -> list[int | None]:
    """Returns, for each array of a value in a fusion, the bytes of the slice updated in it.

    None stands for an array that is written as a whole.
    """
    behind = value
    while behind.opcode in PASSES_ON:
        behind = fused.instructions[behind.operands[0]]
    operands = [fused.instructions[name] for name in behind.operands]
    match behind.opcode:
        case "tuple":
            return [update for part in operands for update in _updates(program, fused, part)]
        case "fusion":
            inner = program.computations[called(behind)["calls"]]
            return _updates(program, inner, inner.instructions[inner.root])
        case "get-tuple-element":
            index = int(re.search(r"index=(\d+)", behind.attributes)[1])
            return [_updates(program, fused, operands[0])[index]]
        case "dynamic-update-slice":
            return [sum(array.bytes for array in operands[1].result)]
    return [None] * len(value.result)
