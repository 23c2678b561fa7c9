"""Lists the exchanges between devices in a compiled program."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fsvfm_jax.plan.hlo import Call, HloArray, Instruction, Program, calls

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Bytes that a device sends per byte of a collective over n devices, with a ring or a better
# algorithm.
SENT = {"all-reduce": lambda n: 2 * (n - 1) / n, "collective-permute": lambda n: 1.0}


class Collective(NamedTuple):
    """An exchange between devices.

    Attributes:
        kind: One of `COLLECTIVES`.
        arrays: The full arrays: gathered, summed, or before they are scattered.
        group: The first group of devices that exchange with each other, as indices of the mesh.
        executions: How often it runs in a step.
        in_loop: Whether it is inside a loop's body, such as the loop over the layers.
        source: Its origin in JAX's name stack; may be empty.
    """

    kind: str
    arrays: tuple[HloArray, ...]
    group: tuple[int, ...]
    executions: int
    in_loop: bool
    source: str

    @property
    def bytes(self) -> int:
        """Returns the bytes of all arrays in one execution."""
        return sum(array.bytes for array in self.arrays)

    @property
    def sent_bytes(self) -> float:
        """Returns the bytes that one device sends in a step, at least."""
        return self.bytes * self.executions * _share(self.kind, len(self.group))

    def sent_between(self, nodes: Sequence[int]) -> float:
        """Returns the bytes that one device sends to other nodes in a step, at least.

        The devices of a node exchange what they can among themselves, and share the rest equally.

        Args:
            nodes: The node of every device of the mesh.
        """
        number = len({nodes[device] for device in self.group})
        if number == 1:
            return 0.0
        # In a ring of permutations, one device of a node sends all.
        senders = 1 if self.kind == "collective-permute" else len(self.group) / number
        return self.bytes * self.executions * _share(self.kind, number) / senders


def collectives(program: Program) -> list[Collective]:
    """Lists every exchange between devices in a compiled program once.

    An asynchronous pair of start and done is one collective, and so are the pieces of one that a
    TPU spreads over several fusions. An all-reduce fused with the slicing of its sum, as on TPUs,
    is a reduce-scatter; an all-reduce followed by a slice, as on CPUs, remains an all-reduce.

    Args:
        program: The result of `hlo.parse`.
    """
    found, chains = [], set()
    for call in calls(program, program.entry):
        for instruction in call.computation.instructions.values():
            if instruction.opcode.removesuffix("-start") not in COLLECTIVES:
                continue
            if chain := re.search(r'chain_id="\d+"', instruction.attributes):
                if chain[0] in chains:
                    continue
                chains.add(chain[0])
            found.append(_collective(program, call, instruction))
    return found


def collective_table(found: Iterable[Collective]) -> list[dict[str, Any]]:
    """Returns collectives by kind and place: their number, and bytes per step and device."""
    groups = defaultdict(list)
    for collective in found:
        groups[collective.kind, collective.in_loop].append(collective)
    return [
        {
            "kind": kind,
            "in_loop": in_loop,
            "count": len(group),
            "executions": sum(c.executions for c in group),
            "bytes": sum(c.bytes * c.executions for c in group),
            "largest_bytes": max(array.bytes for c in group for array in c.arrays),
            "sent_bytes": int(sum(c.sent_bytes for c in group)),
        }
        for (kind, in_loop), group in sorted(groups.items())
    ]


def _collective(program: Program, call: Call, instruction: Instruction) -> Collective:
    kind = instruction.opcode.removesuffix("-start")
    operands = [call.computation.instructions[name] for name in instruction.operands]
    if kind == "all-gather":
        # The start instruction of a pair returns its inputs before its outputs.
        arrays = instruction.result[-len(operands) :]
    else:
        arrays = tuple(array for operand in operands for array in operand.result)
    if kind == "all-reduce" and call.computation.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    sources = [
        re.search(r'op_name="([^"]*)"', place.attributes)
        for place in (instruction, call.caller)
        if place is not None
    ]
    return Collective(
        kind=kind,
        arrays=arrays,
        group=_group(instruction.attributes) or tuple(range(program.num_devices)),
        executions=call.executions,
        in_loop=call.in_loop,
        source=next((source[1] for source in sources if source), ""),
    )


def _share(kind: str, number: int) -> float:
    return SENT.get(kind, lambda n: (n - 1) / n)(number)


def _group(attributes: str) -> tuple[int, ...]:
    """Returns the first group of devices, in any of XLA's notations; () for all devices."""
    if lists := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return tuple(map(int, lists[1].split(",")))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=(\S+?),? ", attributes + " "):
        return tuple(_iota(iota[2])[: int(iota[1])].tolist())
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", mesh[1])}
        order = re.search(r"device_ids=\(([^)]*\)?)\)", mesh[2])
        devices = _iota(order[1]) if order else np.arange(math.prod(sizes.values()))
        devices = devices.reshape(tuple(sizes.values()))
        # The group has every device along some axes, and the first one along the others. An axis
        # may be split: 'x':(2)4 is its part of size 4 after a part of size 2.
        axes = {
            name: (int(before or 1), int(part or sizes[name]))
            for name, before, part in re.findall(r"('\w+')(?::\((\d+)\)(\d+))?", mesh[3])
        }
        for axis, name in enumerate(sizes):
            before, part = axes.get(name, (1, 1))
            stride = sizes[name] // (before * part)
            devices = devices.take(np.arange(part) * stride, axis=axis)
        return tuple(devices.ravel().tolist())
    return ()


def _iota(text: str) -> np.ndarray:
    """Returns the devices in the order that, for example, "[4,2]T(1,0)" describes."""
    sizes, axes = (
        [int(number) for number in re.findall(r"\d+", part)] for part in text.partition("T")[::2]
    )
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    return devices.transpose(axes or None).ravel()
