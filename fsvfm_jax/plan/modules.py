"""Tells which module of the network moves how many bytes in a compiled training step.

The module of a kernel is found by its origin in JAX's name stack. A kernel that the compiler fused
from operations of several modules counts for the module of its result.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, NamedTuple, TypedDict

from msgspec import Meta

from fsvfm_jax.host.terminal import printable
from fsvfm_jax.plan.traffic import Kernel, traffic

# The parts of the network by the first of their names in the name stack; the rest of a network is
# in no part. `FSVFM.student` and `FSVFM.teacher` are the methods that the step calls.
_NETWORK = re.compile(r"FSVFM\.(student|teacher)\)*/?(.*)")
_PARTS = {
    "FSVFM.encode": "encoder",
    "FSVFM.decode": "pixel decoder",
    "FSVFM.represent": "representation decoder",
    "projector": "projector",
    "predictor": "predictor",
}
# Names that say how JAX runs a function, and not what it does.
_WRAPPERS = re.compile(
    r"FSVFM\..*|while|body|cond|branch.*|closed_call|eval_jaxpr|checkpoint|rematted_computation"
    r"|(jit|vmap|jvp|transpose)\(.*\)|pjit|custom_[jv][jv]p_call.*"
)
# Numbers and remarks that the compiler appends to the name of a kernel.
_NUMBER = re.compile(r"(\.(\d+|clone|remat\d*))+$")
MOST_KERNELS = 100

Count = Annotated[int, Meta(ge=0, le=2**62)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Origin(NamedTuple):
    """Where a kernel belongs.

    Attributes:
        module: Part of the network or of the step, such as "teacher's encoder" or "optimizer".
        stage: "forward", "backward", "recomputed" for the backward pass, or "" outside of both.
        operation: The layers and the operation in it, such as "blocks/attn/qkv/dot_general".
    """

    module: str
    stage: str
    operation: str


class TopKernel(TypedDict):
    """Kernels of one origin, kind and size, such as the same kernel of every block.

    Attributes:
        kernel: The compiler's name for them, without a number.
        module: `Origin.module`.
        stage: `Origin.stage`.
        operation: `Origin.operation`.
        bytes: Bytes that one execution reads and writes.
        executions: How often they run in a step, all together.
        share: Their part of all moved bytes.
    """

    kernel: str
    module: str
    stage: str
    operation: str
    bytes: Count
    executions: Count
    share: Share


class ModuleTotal(TypedDict):
    """All kernels of a module in one stage; the shares of all add up to 1."""

    module: str
    stage: str
    bytes: Count
    executions: Count
    share: Share


def origin(source: str) -> Origin:
    """Returns where a kernel belongs.

    What is differentiated outside of the network is "loss": the loss and the normalised images.
    What is outside of both passes and draws no masks is "optimizer": the sums of micro-batches,
    the update, the teacher's average, norms, and the choice between old and new state.

    Args:
        source: `Kernel.source`.
    """
    # The compiler names what it combines, such as the sums of several gradients, "a/(b/c:d/e)".
    source, is_combined, _ = source.partition("/(")
    stage = "forward" if "jvp(" in source else ""
    if "transpose(jvp(" in source:
        stage = "recomputed" if "rematted_computation" in source else "backward"
    found = _NETWORK.search(source)
    names = (found[2] if found else source).split("/")
    if found:
        part = next((_PARTS[name] for name in names if name in _PARTS), "inputs and outputs")
        module = f"{found[1]}'s {part}"
    elif is_combined:
        module = "several modules"
    elif source:
        module = "loss" if stage else "masks" if "masks" in names else "optimizer"
    else:
        module = "unknown"
    operation = [name for name in names if not _WRAPPERS.fullmatch(name) and name != "masks"]
    if is_combined:
        operation.append("several operations")
    return Origin(module, stage, "/".join(operation) or names[-1])


def top_kernels(kernels: Sequence[Kernel]) -> list[TopKernel]:
    """Returns the `MOST_KERNELS` rows of kernels that move the most in a step, the largest first.

    Args:
        kernels: The result of `traffic.kernels`.
    """
    executions: dict[tuple[str, Origin, int], int] = defaultdict(int)
    for kernel in kernels:
        name = _NUMBER.sub("", kernel.name)
        executions[name, origin(kernel.source), kernel.bytes] += kernel.executions
    total = traffic(kernels).bytes
    rows = [
        TopKernel(
            kernel=name,
            **where._asdict(),
            bytes=size,
            executions=times,
            share=size * times / total,
        )
        for (name, where, size), times in executions.items()
        if size
    ]
    return sorted(rows, key=lambda row: -row["bytes"] * row["executions"])[:MOST_KERNELS]


def module_totals(kernels: Sequence[Kernel]) -> list[ModuleTotal]:
    """Returns the moved bytes of every module and stage, the largest first.

    Args:
        kernels: The result of `traffic.kernels`.
    """
    groups: dict[tuple[str, str], list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        where = origin(kernel.source)
        groups[where.module, where.stage].append(kernel)
    total = traffic(kernels).bytes
    rows = []
    for (module, stage), group in groups.items():
        moved, executions = traffic(group)
        rows.append(
            ModuleTotal(
                module=module,
                stage=stage,
                bytes=moved,
                executions=executions,
                share=moved / total if total else 0.0,
            )
        )
    return sorted(rows, key=lambda row: -row["bytes"])


def by_module(totals: Sequence[ModuleTotal], top: Sequence[TopKernel]) -> str:
    """Returns two tables as text: the modules, and the largest kernels."""
    modules = [
        [_gigabytes(row["bytes"]), _percent(row["share"]), f"{row['executions']:,}", _module(row)]
        for row in totals
    ]
    whole = sum(row["bytes"] for row in totals)
    kernels = sum(row["executions"] for row in totals)
    modules.append([_gigabytes(whole), _percent(1.0), f"{kernels:,}", "all"])
    largest = [
        [
            _gigabytes(row["bytes"] * row["executions"]),
            _percent(row["share"]),
            f"{row['executions']:,}",
            f"{row['bytes'] / 1e6:,.2f}",
            _module(row),
            row["operation"],
            row["kernel"],
        ]
        for row in top
    ]
    headings = ["GB", "share", "runs", "MB each", "module", "operation", "kernel"]
    return "\n\n".join(
        [
            aligned(["GB", "share", "kernels", "module"], modules, numbers=3),
            aligned(headings, largest, numbers=4),
        ]
    )


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int) -> str:
    """Returns a table as text; what a terminal cannot show in a cell is escaped.

    Args:
        headings: The headings of the columns.
        rows: The cells of each row.
        numbers: How many of the first columns are aligned to the right.
    """
    lines = [[printable(cell) for cell in cells] for cells in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place < numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    )


def _module(row: TopKernel | ModuleTotal) -> str:
    return f"{row['module']}, {row['stage']}" if row["stage"] else row["module"]


def _gigabytes(moved: int) -> str:
    return f"{moved / 1e9:,.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
