"""Compiles many configs and compares them in one table: `plan --compare FIELD=a,b ...`.

A compilation takes minutes. With an output file, the result of each is a line in it as soon as it
is finished, and the same command later compiles only what is missing.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jax.errors import JaxRuntimeError

from fsvfm_jax import pretrain
from fsvfm_jax.config.resolve import to_json
from fsvfm_jax.devices.compilation import lower_step, place
from fsvfm_jax.devices.memory import GIB, memory_ran_out
from fsvfm_jax.devices.sharding import AUTO
from fsvfm_jax.errors import UserError, in_one_line, shortened
from fsvfm_jax.host.hashing import sha256_of_code
from fsvfm_jax.host.progress import meter, print_above
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.plan.candidates import Candidate
from fsvfm_jax.plan.estimate import NOT_AUTOTUNED, STATS, Target, describe
from fsvfm_jax.plan.modules import aligned, by_module
from fsvfm_jax.plan.results import Figures, Line, Result, append_result, open_results

# Environment variables that change what the compilers do.
VARIABLES = (
    *("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_OPTIMIZATION_LEVEL"),
    *("JAX_EXEC_TIME_OPTIMIZATION_EFFORT", "JAX_MEMORY_FITTING_LEVEL"),
    "JAX_MEMORY_FITTING_EFFORT",
)
# The folders with the code that compiles the step and counts.
CODE = ("devices", "plan")
MAX_MESSAGE = 4000  # characters of a compiler's message in the file
# Beginnings of a compiler's message that are about this machine and this moment. The same command
# then compiles the program again, as it does if the machine has too little memory to compile.
PASSING = ("UNAVAILABLE", "CANCELLED", "ABORTED", "DEADLINE_EXCEEDED")
# The parts of a plan that depend on more than the program.
NOT_OF_THE_PROGRAM = ("num_samples", "total_steps", "estimate")
HEADINGS = (
    *("moved, GB", "needed, GiB", "temporaries, GiB", "kernels", "bound, ms"),
    *("images/s at most", "MFU at most", "compiled in, s", "candidate"),
)


def compare(
    candidates: Sequence[Candidate],
    target: Target,
    *,
    header: Mapping[str, Any],
    output: str | None,
) -> list[Result]:
    """Compiles every candidate whose result is not in the output file; equal programs once.

    Args:
        candidates: The candidates.
        target: The devices to compile for.
        header: Fields that each line of the file also contains: `topology` and `versions`, on which
            a result depends, and anything else.
        output: The file; None for none.

    Returns:
        The result of each candidate, in their order.

    Raises:
        DataError: The file contains something else.
        StorageError: The file cannot be read or written.
    """
    stored = open_results(output) if output is not None else {}
    traced = _trace(candidates, target, header)
    missing: dict[str, Candidate] = {}
    for candidate, (identity, error) in zip(candidates, traced, strict=True):
        if error is None and identity not in stored:
            missing.setdefault(identity, candidate)
    programs = {identity for identity, error in traced if error is None}
    if known := programs & stored.keys():
        print_above(printable(f"{output} has {len(known)} of {len(programs)} results already"))
    for line, is_final in _compile_all(missing, target, header=header):
        stored[line["identity"]] = line
        if output is not None and is_final:
            append_result(output, line)
    return [
        stored[identity]
        if error is None
        else _result(candidate, identity=identity, header=header, error=error)
        for candidate, (identity, error) in zip(candidates, traced, strict=True)
    ]


def identity_of(candidate: Candidate, target: Target, header: Mapping[str, Any]) -> str:
    """Returns a hash of everything on which the result of a candidate depends.

    This is the program as the compiler gets it, which follows from the config, the devices and the
    code of the step; the compiler's options, the kind of the devices, the topology, the versions,
    `VARIABLES`, and the code in the folders of `CODE`.

    Raises:
        UserError, ValueError: The step cannot be traced with this config.
    """
    mesh, config = place(candidate.config, target.devices)
    accum_steps = config.accum_steps
    if accum_steps == AUTO:  # The smallest micro-batches, which stand for all of them.
        accum_steps = config.batch_size // mesh.size
    learner = pretrain.make_learner(config, stats=STATS)
    lowered = lower_step(learner, mesh, batch_size=config.batch_size, accum_steps=accum_steps)
    facts = {
        "program": hashlib.sha256(lowered.as_text().encode()).hexdigest(),
        "accum_steps": config.accum_steps,
        "compiler_options": config.compiler_options.to_dict(),
        "topology": header["topology"],
        "device_kind": target.devices[0].device_kind,
        "available_bytes": target.available_bytes,
        "versions": header["versions"],
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "code": [sha256_of_code(Path(__file__).parent.parent / folder) for folder in CODE],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _trace(
    candidates: Sequence[Candidate], target: Target, header: Mapping[str, Any]
) -> list[tuple[str, str | None]]:
    """Returns the identity of each candidate and None, or its key and why it has no program."""
    traced: dict[str, tuple[str, str | None]] = {}
    found = []
    with meter(total=len(candidates), description="tracing") as step:
        for candidate in candidates:
            key = _key(candidate)
            if key not in traced:
                traced[key] = _identity_or_error(candidate, target, header)
                if (error := traced[key][1]) is not None:
                    print_above(printable(f"{candidate.label}: REFUSED: {error}"))
            found.append(traced[key])
            step()
    return found


def _key(candidate: Candidate) -> str:
    """Returns a text that is equal for candidates with the same config."""
    return repr(candidate.fields) if candidate.config is None else to_json(candidate.config)


def _identity_or_error(
    candidate: Candidate, target: Target, header: Mapping[str, Any]
) -> tuple[str, str | None]:
    if candidate.refusal is not None:
        return _key(candidate), candidate.refusal
    try:
        return identity_of(candidate, target, header), None
    except (UserError, ValueError) as error:
        return _key(candidate), _reason(error)


def _compile_all(
    missing: Mapping[str, Candidate], target: Target, *, header: Mapping[str, Any]
) -> Iterator[tuple[Line, bool]]:
    """Yields the result of each candidate and whether it is final, and shows the progress."""
    if not missing:
        return
    with meter(total=len(missing), description="compiling") as step:
        for identity, candidate in missing.items():
            line, is_final = _compile(candidate, target, identity=identity, header=header)
            print_above(printable(f"{candidate.label}: {_outcome(line)}"))
            yield line, is_final
            step()


def _compile(
    candidate: Candidate, target: Target, *, identity: str, header: Mapping[str, Any]
) -> tuple[Line, bool]:
    """Returns the result of a candidate, and whether it follows from the program alone."""
    try:
        plan = describe(candidate.config, target)
    except (UserError, JaxRuntimeError) as error:
        line = _result(candidate, identity=identity, header=header, error=_reason(error))
        return line, _is_of_the_program(error)
    plan = {name: value for name, value in plan.items() if name not in NOT_OF_THE_PROGRAM}
    if plan["bound"] is not None:
        plan["bound"] = {name: x for name, x in plan["bound"].items() if name != "hours"}
    return _result(candidate, identity=identity, header=header, plan=plan), True


def _is_of_the_program(error: Exception) -> bool:
    """Returns whether the compiler would raise this error for the program again."""
    said = error.__cause__ if isinstance(error, UserError) else error
    if not isinstance(said, JaxRuntimeError):
        return False
    return not memory_ran_out(said) and not str(said).startswith(PASSING)


def _result(
    candidate: Candidate,
    *,
    identity: str,
    header: Mapping[str, Any],
    plan: dict[str, Any] | None = None,
    error: str | None = None,
) -> Line:
    return Line(
        identity=identity,
        candidate=candidate.fields,
        **header,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        error=error,
        plan=plan,
    )


def _reason(error: Exception) -> str:
    """Returns the message of an error on one line, with the type of an error of a library."""
    message = str(error) if isinstance(error, UserError) else in_one_line(error)
    return message[:MAX_MESSAGE]


def _outcome(result: Result) -> str:
    """Returns a result as one line."""
    plan = result["plan"]
    if plan is None:
        return _failure(result)
    if plan["moved_bytes"] is None:
        return _note(plan)
    moved = f"{plan['moved_bytes'] / 1e9:,.1f} GB in {plan['kernels']:,} kernels"
    return f"{moved}, compiled in {plan['compile_seconds']:.0f} s {_note(plan)}".rstrip()


def comparison(
    candidates: Sequence[Candidate], results: Sequence[Result], *, top: int | None
) -> str:
    """Returns the table of all candidates, the best first, as text.

    The order is that of the images per second at the bound. Programs without one, as on a CPU, come
    after those with one, in the order of the bytes moved for an image; without these, in the order
    of the memory. What does not fit comes after all of them, and then what failed.

    Args:
        candidates: The candidates.
        results: Their results, in the same order.
        top: How many of the largest kernels to show of the best candidate; None for none.
    """
    pairs = sorted(zip(candidates, results, strict=True), key=lambda pair: _rank(pair[1]))
    rows, first = [], {}
    for candidate, result in pairs:
        cells = _cells(result["plan"])
        note = _failure(result) if result["plan"] is None else _note(result["plan"])
        if result["identity"] in first:
            note += f" (the same program as {first[result['identity']]})"
        first.setdefault(result["identity"], candidate.label)
        rows.append([*cells, f"{candidate.label} {note}".rstrip()])
    filled = [k for k in range(len(HEADINGS)) if any(cells[k] for cells in rows)]
    shown = [[cells[k] for k in filled] for cells in (HEADINGS, *rows)]
    parts = [aligned(shown[0], shown[1:], numbers=len(filled) - 1)]
    if any(result["plan"] and not result["plan"]["autotuned"] for result in results):
        parts.append(NOT_AUTOTUNED)
    best, result = pairs[0]
    plan = result["plan"]
    if top is not None and plan is not None and plan["modules"] is not None:
        parts.append(printable(f"what moves the bytes of {best.label}:"))
        parts.append(by_module(plan["modules"], plan["top_kernels"][:top]))
    return "\n\n".join(parts)


def _rank(result: Result) -> tuple[int, int, float]:
    """Returns what the table is sorted by; only figures of the same kind are compared."""
    plan = result["plan"]
    if plan is None:
        return 2, 0, 0.0
    fails = int(plan["fits"] is False)
    if plan["bound"] is not None:
        return fails, 0, plan["bound"]["step_seconds"] / plan["batch_size"]
    if plan["moved_bytes"] is not None:
        return fails, 1, plan["moved_bytes"] / plan["images_per_device"]
    return fails, 2, float(plan["memory"]["total"])


def _cells(plan: Figures | None) -> list[str]:
    """Returns the figures of a row; those that a result does not have are empty."""
    if plan is None:
        return [""] * (len(HEADINGS) - 1)
    memory, bound = plan["memory"], plan["bound"]
    return [
        "" if plan["moved_bytes"] is None else f"{plan['moved_bytes'] / 1e9:,.2f}",
        f"{memory['total'] / GIB:,.2f}",
        "" if memory["temporary"] is None else f"{memory['temporary'] / GIB:,.2f}",
        "" if plan["kernels"] is None else f"{plan['kernels']:,}",
        "" if bound is None else f"{bound['step_seconds'] * 1e3:,.2f}",
        "" if bound is None else f"{bound['images_per_second']:,.0f}",
        "" if bound is None else f"{100 * bound['mfu']:.1f} %",
        f"{plan['compile_seconds']:,.0f}",
    ]


def _failure(result: Result) -> str:
    return f"REFUSED: {shortened(result['error'] or '')}"


def _note(plan: Figures) -> str:
    memory = plan["memory"]
    if plan["fits"] is not False or memory["available"] is None:
        return ""
    return f"DOES NOT FIT: {memory['total'] / GIB:.2f} of {memory['available'] / GIB:.2f} GiB"
