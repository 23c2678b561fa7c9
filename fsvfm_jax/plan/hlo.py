"""Parses the text of a compiled program.

`compiled.as_text()` is the optimized program of one device. XLA's own cost analysis counts the body
of a loop once; this module counts it as often as it runs. Every branch of a conditional counts,
although a step runs one of them.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"(\w+)=(?:%?([\w.\-]+)|\{(%[^}]*)\})")
CALLING = (
    *("body", "condition", "calls", "to_apply", "called_computations"),
    *("branch_computations", "true_computation", "false_computation"),
)


class HloArray(NamedTuple):
    """An array of one device, as the program declares it.

    Attributes:
        dtype: XLA's name, such as "bf16".
        shape: Elements per axis.
        in_hbm: False for an array in a faster or another memory, such as a TPU's VMEM.
    """

    dtype: str
    shape: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> int:
        return math.ceil(math.prod(self.shape) * _bits(self.dtype) / 8)


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: Name, unique in the program.
        opcode: Operation, such as "fusion" or "all-reduce".
        result: The resulting arrays; a tuple, nested or not, is flattened.
        arguments: The text between its parentheses.
        attributes: The rest of the line.
    """

    name: str
    opcode: str
    result: tuple[HloArray, ...]
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return NAME.findall(self.arguments)


class Computation(NamedTuple):
    """A function of the program: its instructions by name, and the name of the one it returns."""

    name: str
    instructions: dict[str, Instruction]
    root: str


class Program(NamedTuple):
    """A parsed program.

    Attributes:
        computations: The computations by name.
        entry: The name of the computation that runs first.
        num_devices: Number of devices that the program is compiled for.
    """

    computations: dict[str, Computation]
    entry: str
    num_devices: int


class Call(NamedTuple):
    """A computation as part of a step.

    Attributes:
        computation: The computation.
        executions: How often it runs in a step.
        in_loop: Whether it is inside a loop.
        caller: The instruction that runs it; None for the whole program.
    """

    computation: Computation
    executions: int
    in_loop: bool
    caller: Instruction | None


def parse(hlo_text: str) -> Program:
    """Parses the text of an optimized program."""
    computations: dict[str, Computation] = {}
    entry = ""
    for line in hlo_text.splitlines():
        if head := COMPUTATION.match(line):
            name, instructions = head[2], {}
            computations[name] = Computation(name, instructions, root="")
            entry = name if head[1] else entry
        elif computations and (start := INSTRUCTION.match(line)):
            instruction = _parse_instruction(start[2], line[start.end() :])
            instructions[instruction.name] = instruction
            if start[1]:
                computations[name] = computations[name]._replace(root=instruction.name)
    counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", hlo_text.partition("\n")[0])
    return Program(computations, entry, num_devices=math.prod(map(int, counts)))


def calls(program: Program, name: str, *, fusions: bool = True) -> Iterator[Call]:
    """Yields the computation with this name and all computations that it runs.

    A computation that is called from several places is yielded several times. A loop whose
    iterations the program does not show counts once (`unknown_loops`).

    Args:
        program: The program.
        name: Name of the first computation.
        fusions: Whether to include the computations that only describe a fused instruction.
    """
    return _calls(program, Call(program.computations[name], 1, False, None), fusions=fusions)


def _calls(program: Program, call: Call, *, fusions: bool) -> Iterator[Call]:
    yield call
    for instruction in call.computation.instructions.values():
        # The done half of a pair names again what its start half runs.
        if instruction.opcode.endswith(("-update", "-done")):
            continue
        if not fusions and instruction.opcode not in ("while", "conditional", "call"):
            continue
        loop = instruction.opcode == "while"
        iterations = _trip_count(program, instruction) if loop else 1
        executions = call.executions * (1 if iterations is None else iterations)
        for name in called(instruction).values():
            inner = Call(program.computations[name], executions, call.in_loop or loop, instruction)
            yield from _calls(program, inner, fusions=fusions)


def unknown_loops(program: Program) -> list[str]:
    """Returns the names of the loops whose number of iterations the program does not show."""
    return [
        instruction.name
        for computation in program.computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode == "while" and _trip_count(program, instruction) is None
    ]


def called(instruction: Instruction) -> dict[str, str]:
    """Returns the computations that an instruction names, by their role in it, such as "body"."""
    names = {}
    for key, one, several in CALLED.findall(instruction.attributes):
        if key in CALLING:
            listed = NAME.findall(several)
            names |= {f"{key} {k}": name for k, name in enumerate(listed)} or {key: one}
    return names


def _parse_instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    result, text = text[:end], text[end:].lstrip()
    start = text.index("(")
    end = _closing(text, start)
    return Instruction(
        name=name,
        opcode=text[:start],
        result=tuple(_array(*match) for match in ARRAY.findall(result)),
        arguments=text[start + 1 : end - 1],
        attributes=text[end:],
    )


def _closing(text: str, start: int) -> int:
    """Returns the index after the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")


def _array(dtype: str, shape: str, layout: str) -> HloArray:
    space = re.search(r"S\((\d+)\)", layout)
    return HloArray(
        dtype, tuple(int(size) for size in shape.split(",") if size), in_hbm=space is None
    )


def _bits(dtype: str) -> int:
    """Returns the bits of a dtype, such as 16 for "bf16" and 8 for "f8e4m3fn"; 0 for tokens."""
    width = re.search(r"\d+", dtype)
    return 8 if dtype == "pred" else int(width[0]) if width else 0


def _trip_count(program: Program, loop: Instruction) -> int | None:
    """Returns the iterations of a loop that counts from 0; None if the text does not show them."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    names = called(loop)
    condition, body = program.computations[names["condition"]], program.computations[names["body"]]
    test, compared = _operation(program, condition, condition.root)
    carried = body.instructions[body.root]
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    counter, limit = compared
    index = re.search(r"index=(\d+)", counter.attributes)
    if index is None or _literal(limit) is None or carried.opcode != "tuple":
        return None
    _, added = _operation(program, body, carried.operands[int(index[1])])
    sizes = [_literal(number) for number in added]
    return math.ceil(_literal(limit) / next((size for size in sizes if size), 1))


def _operation(
    program: Program, computation: Computation, name: str
) -> tuple[Instruction, list[Instruction]]:
    """Returns an operation and its operands; a fusion stands for the operation of its result."""
    outer = _behind_copies(computation, name)
    operands = [_behind_copies(computation, operand) for operand in outer.operands]
    if outer.opcode != "fusion":
        return outer, operands
    fused = program.computations[called(outer)["calls"]]
    inner = _behind_copies(fused, fused.root)
    found = [_behind_copies(fused, operand) for operand in inner.operands]
    return inner, [operands[int(x.arguments)] if x.opcode == "parameter" else x for x in found]


def _behind_copies(computation: Computation, name: str) -> Instruction:
    instruction = computation.instructions[name]
    while instruction.opcode == "copy":
        instruction = computation.instructions[instruction.operands[0]]
    return instruction


def _literal(instruction: Instruction) -> int | None:
    scalar = instruction.opcode == "constant" and instruction.arguments.isdigit()
    return int(instruction.arguments) if scalar else None
