"""Estimates whether a run fits on some devices, how long it takes and what it costs.

The training step is that of `train.py`, compiled by the real compiler for devices that this machine
need not have. The compiled program shows the memory, the collectives and a bound on the speed
(`roofline.py`). The estimate is

    step time = bound / efficiency

The efficiency is assumed, or follows from an MFU that `fsvfm_jax.benchmark` measured: then the
estimate has that MFU, unless the bound forbids it. Hours and cost are those of the estimate, +-25
%, or +-10 % if this model was measured on this chip.
"""

import logging
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from fsvfm_jax import pretrain
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.convert.warm_start import with_options
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import sharding
from fsvfm_jax.devices.compilation import available_bytes, compile_step, place, state_template
from fsvfm_jax.devices.memory import GIB, Memory
from fsvfm_jax.errors import UserError, in_one_line, short_list, shortened
from fsvfm_jax.models import build
from fsvfm_jax.optim import make_schedule
from fsvfm_jax.plan import hlo
from fsvfm_jax.plan.changes import possible_changes
from fsvfm_jax.plan.chips import Chip
from fsvfm_jax.plan.collectives import Collective, collective_table, collectives
from fsvfm_jax.plan.flops import training_flops_per_image
from fsvfm_jax.plan.modules import by_module, module_totals, top_kernels
from fsvfm_jax.plan.roofline import (
    Benchmark,
    assumed_efficiency,
    measured_efficiency,
    predict,
    roofline,
)
from fsvfm_jax.plan.traffic import kernels, traffic

logger = logging.getLogger(__name__)


VGGFACE2 = 2_973_696  # faces
NOT_AUTOTUNED = (
    "compiled without a GPU, so matrix products are not autotuned: their kernels, and what is fused"
    " with them, may differ on the device"
)
# The values of these statistics do not matter: they are two constants of the program.
STATS = Stats((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Target(NamedTuple):
    """The devices and data that a run is planned for.

    Attributes:
        devices: Devices to compile for.
        chip: Facts of the devices; None if they are unknown.
        num_samples: Images in the data set.
        price: Price of one chip for one hour, in any currency.
        benchmark: A record of `roofline.read_benchmark`.
    """

    devices: list[jax.Device]
    chip: Chip | None
    num_samples: int = VGGFACE2
    price: float | None = None
    benchmark: Benchmark | None = None

    @property
    def present(self) -> bool:
        """Returns whether this machine has the devices."""
        return self.devices[0] in jax.devices()

    @property
    def available_bytes(self) -> int | None:
        """Returns the bytes that a program may use on one device; None if they are unknown."""
        if self.present and self.devices[0].platform == "gpu":
            return available_bytes()
        return self.chip and self.chip.hbm_bytes


def make_plan(config: ConfigDict, target: Target) -> dict[str, Any]:
    """Compiles the training step, predicts the run, and looks for a change if it does not fit.

    Args:
        config: The config as loaded from its file.
        target: The devices and data to plan for.

    Returns:
        The plan, ready for JSON; `change` contains the plan of the first change that fits, or None.

    Raises:
        ConfigError: The config does not suit the devices or its starting weights.
        DataError: The starting weights exist and cannot be read.
        UserError: The compiler fails.
    """
    config = with_options(resolve(config), None)
    try:
        plan = describe(config, target) | {"change": None}
    except JaxRuntimeError as error:
        raise UserError(
            f"the compiler fails for the training step ({shortened(in_one_line(error))}): try other"
            " values of config.compiler_options, config.model.attention or config.batch_size"
        ) from error
    if plan["fits"] is not False:
        return plan
    memory = Memory(**plan["memory"])
    changes = possible_changes(
        memory,
        state_bytes=plan["state_bytes"],
        images_per_device=plan["images_per_device"] // plan["accum_steps"],
        num_devices=len(target.devices),
        fsdp=plan["mesh"]["fsdp"],
        accum_steps=plan["accum_steps"],
        remat=config.model.remat,
    )
    for change in changes:
        logger.info("%.2f GiB do not fit; trying %s", memory.total / GIB, as_flags(change))
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(change)
        try:
            plan_then = describe(resolve(changed), target)
        except (UserError, JaxRuntimeError) as error:
            reason = shortened(in_one_line(error))
            logger.warning("%s cannot be compiled (%s)", as_flags(change), reason)
            continue
        if plan_then["fits"]:
            return plan | {"change": {"fields": change} | plan_then}
    return plan


def describe(config: ConfigDict, target: Target) -> dict[str, Any]:
    """Compiles the step that training would run, and returns its plan.

    `compile_seconds` includes the tracing of the step and, with `accum_steps = "auto"`, all numbers
    of micro-batches that are compiled.

    Raises:
        ConfigError: The config does not suit the devices.
        JaxRuntimeError: The compiler fails.
    """
    mesh, config = place(config, target.devices)
    total_steps = make_schedule(config, target.num_samples).total_steps
    learner = pretrain.make_learner(config, stats=STATS)
    started = time.monotonic()
    compiled, memory, accum_steps = compile_step(
        learner,
        mesh,
        batch_size=config.batch_size,
        accum_steps=config.accum_steps,
        available=target.available_bytes,
        options=config.compiler_options.to_dict(),
    )
    compile_seconds = time.monotonic() - started

    flops = training_flops_per_image(build(config.model), config.mask.mask_ratio).total
    plan = {
        "chip": target.chip and target.chip.name,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "batch_size": config.batch_size,
        "accum_steps": accum_steps,
        "images_per_device": config.batch_size // mesh.size,
        "remat": config.model.remat,
        "attention": config.model.attention,
        "compiler_options": config.compiler_options.to_dict(),
        "num_samples": target.num_samples,
        "total_steps": total_steps,
        "flops_per_image": flops,
        "fits": memory.fits,
        "memory": memory._asdict(),
        "state_bytes": sharding.bytes_per_device(state_template(learner, mesh)),
        "compile_seconds": compile_seconds,
        "autotuned": target.present or target.devices[0].platform != "gpu",
        **dict.fromkeys(("moved_bytes", "kernels", "modules", "top_kernels", "collectives")),
        "mfu_bound": None,
        "bound": None,
        "estimate": None,
    }
    if compiled is not None:
        program = _parse(compiled)
        exchanged = collectives(program)
        plan |= _count(program) | {"collectives": collective_table(exchanged)}
        if target.chip is not None:
            nodes = [device.process_index for device in mesh.devices.flat]
            plan |= _predict(config, target, plan=plan, exchanged=exchanged, nodes=nodes)
            plan["mfu_bound"] = plan["bound"]["mfu"]
    return plan


def _parse(compiled: jax.stages.Compiled) -> hlo.Program:
    """Returns a compiled program, and warns of loops whose iterations it does not show."""
    program = hlo.parse(compiled.as_text())
    if loops := hlo.unknown_loops(program):
        logger.warning(
            "the compiled program does not show how often these loops run, so each is counted"
            " once: %s",
            short_list(loops),
        )
    return program


def _count(program: hlo.Program) -> dict[str, Any]:
    """Returns what a compiled program moves, ready for JSON."""
    found = kernels(program)
    moved = traffic(found)
    return {
        "moved_bytes": moved.bytes,
        "kernels": moved.kernels,
        "modules": module_totals(found),
        "top_kernels": top_kernels(found),
    }


def _predict(
    config: ConfigDict,
    target: Target,
    *,
    plan: dict[str, Any],
    exchanged: list[Collective],
    nodes: list[int],
) -> dict[str, Any]:
    """Returns bound and estimate of the run from the compiled step."""
    roof = roofline(
        target.chip,
        flops=plan["flops_per_image"] * plan["images_per_device"],
        traffic=plan["moved_bytes"],
        sent=math.fsum(collective.sent_bytes for collective in exchanged),
        sent_between_nodes=math.fsum(collective.sent_between(nodes) for collective in exchanged),
    )
    efficiency = assumed_efficiency()
    if target.benchmark:
        model = config.model.to_dict()
        efficiency = measured_efficiency(roof, target.benchmark, chip=target.chip, model=model)
    return predict(
        roof,
        efficiency,
        batch_size=config.batch_size,
        total_steps=plan["total_steps"],
        num_devices=plan["devices"],
        price=target.price,
    )


def as_flags(change: dict[str, Any]) -> str:
    """Returns changes of fields as command-line flags."""
    return " ".join(f"--config.{path}={value}" for path, value in change.items())


def summary(plan: dict[str, Any], *, top: int | None = None) -> str:
    """Returns a plan as text.

    Args:
        plan: The result of `make_plan`, with `config` and `topology`.
        top: How many of the largest kernels to show, with the totals of all modules; None for none.
    """
    lines = [
        f"{plan['config']} for {plan['topology']}: batch {plan['batch_size']} ="
        f" {plan['devices']} devices x {plan['images_per_device'] // plan['accum_steps']} images x"
        f" {plan['accum_steps']}, mesh {plan['mesh']['data']} x {plan['mesh']['fsdp']}"
        f" (compiled in {plan['compile_seconds']:.0f} s)",
        *_summary(plan),
    ]
    if plan["change"]:
        lines += [f"it fits with {as_flags(plan['change']['fields'])}", *_summary(plan["change"])]
    elif plan["fits"] is False:
        lines.append(
            "none of the changes that were tried (of model.remat, mesh.fsdp and accum_steps) makes"
            " it fit: use more devices"
        )
    compiled = next((one for one in (plan, plan["change"]) if one and one["modules"]), None)
    if top is not None and compiled:
        lines += ["", by_module(compiled["modules"], compiled["top_kernels"][:top])]
    return "\n".join(lines)


def _summary(plan: dict[str, Any]) -> Iterator[str]:
    memory = plan["memory"]
    parts = [f"{memory[name] / GIB:.2f} {name}" for name in memory if memory[name] is not None]
    verdict = {True: "fits", False: "DOES NOT FIT", None: "the available memory is unknown"}
    yield f"{verdict[plan['fits']]}; GiB per device: {', '.join(parts)}"
    if not plan["autotuned"]:
        yield NOT_AUTOTUNED
    if plan["moved_bytes"] is not None:
        yield (
            f"a step moves {plan['moved_bytes'] / 1e9:.1f} GB between each device and its memory,"
            f" in {plan['kernels']:,} kernels"
        )
    for row in plan["collectives"] or ():
        where = "in loops" if row["in_loop"] else "outside of loops"
        yield (
            f"  {row['count']} x {row['kind']} {where}: {row['bytes'] / 1e6:.1f} MB per step, each"
            f" device sends {row['sent_bytes'] / 1e6:.1f} MB"
        )
    yield f"{plan['flops_per_image'] / 1e9:.2f} GFLOP per image"
    if not plan["bound"]:
        return
    bound, estimate = plan["bound"], plan["estimate"]
    yield (
        f"bound: {_speed(bound)}; set by {bound['limit']} (compute"
        f" {bound['compute_seconds'] * 1e3:.1f}, memory {bound['memory_seconds'] * 1e3:.1f},"
        f" interconnect {bound['interconnect_seconds'] * 1e3:.1f}, network between nodes"
        f" {bound['network_seconds'] * 1e3:.1f} ms)"
    )
    yield (
        f"estimate: {_speed(estimate)}; efficiency {estimate['efficiency']:.2f},"
        f" {estimate['efficiency_source']}"
    )
    low, high = estimate["hours_range"]
    cost = "no cost without --price"
    if estimate["cost_range"]:
        cost = "cost {:,.0f} to {:,.0f}".format(*estimate["cost_range"])
    yield (
        f"recipe: {plan['total_steps']:,} steps over {plan['num_samples']:,} images (--num-samples)"
        f" in {low:,.0f} to {high:,.0f} hours, {cost}"
    )


def _speed(speed: dict[str, float]) -> str:
    return (
        f"{speed['step_seconds'] * 1e3:.1f} ms per step,"
        f" {speed['images_per_second']:,.0f} images/s,"
        f" MFU {speed['mfu']:.1%}, {speed['hours']:,.1f} hours"
    )
