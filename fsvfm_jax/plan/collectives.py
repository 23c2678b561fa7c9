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
        groups: The groups of devices that exchange with each other, as indices of the mesh; of a
            permutation, the pairs of sender and receiver.
        executions: How often it runs in a step.
        in_loop: Whether it is inside a loop's body, such as the loop over the layers.
    """

    kind: str
    arrays: tuple[HloArray, ...]
    groups: tuple[tuple[int, ...], ...]
    executions: int
    in_loop: bool

    @property
    def bytes(self) -> int:
        """Returns the bytes of all arrays in one execution."""
        return sum(array.bytes for array in self.arrays)

    @property
    def sent_bytes(self) -> float:
        """Returns the least number of bytes that a device of the largest group sends in a step."""
        largest = max(map(len, self.groups))
        return self.bytes * self.executions * _share(self.kind, largest)

    def sent_between(self, nodes: Sequence[int]) -> float:
        """Returns the least number of bytes that a device sends to other nodes in a step.

        The devices of a node exchange what they can among themselves, and share the rest equally.
        The result is that of the group whose devices send the most.

        Args:
            nodes: The node of every device of the mesh.
        """
        return max(self._sent_between(group, nodes) for group in self.groups)

    def _sent_between(self, group: tuple[int, ...], nodes: Sequence[int]) -> float:
        number = len({nodes[device] for device in group})
        if number == 1:
            return 0.0
        # Of a pair of a permutation, one device sends all.
        senders = 1 if self.kind == "collective-permute" else len(group) / number
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
    rows = defaultdict(list)
    for collective in found:
        rows[collective.kind, collective.in_loop].append(collective)
    return [
        {
            "kind": kind,
            "in_loop": in_loop,
            "count": len(row),
            "executions": sum(c.executions for c in row),
            "bytes": sum(c.bytes * c.executions for c in row),
            "sent_bytes": int(sum(c.sent_bytes for c in row)),
        }
        for (kind, in_loop), row in sorted(rows.items())
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
    return Collective(
        kind=kind,
        arrays=arrays,
        groups=_groups(instruction.attributes) or (tuple(range(program.num_devices)),),
        executions=call.executions,
        in_loop=call.in_loop,
    )


def _share(kind: str, number: int) -> float:
    return SENT.get(kind, lambda n: (n - 1) / n)(number)


def _groups(attributes: str) -> tuple[tuple[int, ...], ...]:
    """Returns the groups of devices, in any of XLA's notations; () for one group of all devices."""
    if lists := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]+\})\}", attributes):
        return tuple(
            tuple(map(int, members.split(","))) for members in re.findall(r"\{([\d,]+)\}", lists[1])
        )
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=(\S+?),? ", attributes + " "):
        return _rows(_iota(iota[2]), int(iota[1]))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", mesh[1])}
        order = re.search(r"device_ids=\(([^)]*\)?)\)", mesh[2])
        devices = _iota(order[1]) if order else np.arange(math.prod(sizes.values()))
        # A group has every device along some axes, and one device along the others. An axis may be
        # split: 'x':(2)4 is its part of size 4 after a part of size 2.
        axes = {
            name: (int(before or 1), int(part or sizes[name]))
            for name, before, part in re.findall(r"('\w+')(?::\((\d+)\)(\d+))?", mesh[3])
        }
        shape = []
        for name, size in sizes.items():
            before, part = axes.get(name, (1, 1))
            shape += [before, part, size // (before * part)]
        parts = range(1, len(shape), 3)
        devices = np.moveaxis(devices.reshape(shape), parts, range(-len(parts), 0))
        return _rows(devices, math.prod(shape[k] for k in parts))
    return ()


def _rows(devices: np.ndarray, size: int) -> tuple[tuple[int, ...], ...]:
    """Returns devices in groups of a size, in their order."""
    return tuple(map(tuple, devices.reshape(-1, size).tolist()))


def _iota(text: str) -> np.ndarray:
    """Returns the devices in the order that, for example, "[4,2]T(1,0)" describes."""
    sizes, axes = (
        [int(number) for number in re.findall(r"\d+", part)] for part in text.partition("T")[::2]
    )
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    return devices.transpose(axes or None).ravel()
