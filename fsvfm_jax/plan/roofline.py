"""Computes how long a step takes: a lower bound, and an estimate.

    compute      = FLOPs per image x images per device / peak
    memory       = bytes that a device reads and writes / bandwidth of its memory
    interconnect = bytes that a device sends within its node / bandwidth of its links
    network      = bytes that a device sends to other nodes / its bandwidth to them
    bound        = the longest of the four, which hides the others
    estimate     = bound / efficiency

FLOPs are those of the method (`flops.py`), so the bound does not include recomputation. The bytes
are those of the compiled program, if no kernel finds in a cache what an earlier kernel left there.
A step that reuses what is in a large cache may be faster than the bound. Links have their
advertised speed; the bound includes no latency, and no network between slices.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, NotRequired, TypedDict

from fsvfm_jax.errors import ConfigError, DataError, brief, reason_of
from fsvfm_jax.host.json_files import MAX_JSON_BYTES, parse_json
from fsvfm_jax.host.plain_files import read_plain
from fsvfm_jax.models.vit import OPTIONS, ViT
from fsvfm_jax.plan.chips import Chip

ASSUMED_EFFICIENCY = 0.35
MIN_MFU = 1e-6  # Less than this is no measurement.
ASSUMED_SPREAD, MEASURED_SPREAD = 0.25, 0.10


class Roofline(NamedTuple):
    """Minimum seconds of a step for each of the four resources."""

    compute: float
    memory: float
    interconnect: float
    network: float = 0.0

    @property
    def bound(self) -> float:
        """Returns the minimum seconds of a step."""
        return max(self)

    @property
    def limit(self) -> str:
        """Returns the name of the resource that takes longest."""
        return max(self._fields, key=lambda name: getattr(self, name))


class Benchmark(TypedDict):
    """The fields that are read from a benchmark's record; `mfu` is None for an unknown chip.

    Early records have no task and no framework; these are of pretraining and of JAX.
    """

    device_kind: str
    mfu: float | None
    model: NotRequired[dict[str, Any] | None]
    task: NotRequired[str]
    framework: NotRequired[str]


class Efficiency(NamedTuple):
    """The expected share of the bound.

    Attributes:
        value: Bound / expected time, at most 1.
        source: Origin of the value, in words.
        spread: Uncertainty of the estimate, as a share of it.
    """

    value: float
    source: str
    spread: float


def roofline(
    chip: Chip, *, flops: int, traffic: int, sent: float, sent_between_nodes: float = 0.0
) -> Roofline:
    """Computes the four times of a step.

    Args:
        chip: Peak and bandwidths.
        flops: Operations for the images that one device processes in a step.
        traffic: Bytes that a device reads and writes in a step.
        sent: Bytes that a device sends in a step.
        sent_between_nodes: The part of them that it sends to other nodes.
    """
    return Roofline(
        compute=flops / chip.bf16_flops,
        memory=traffic / chip.hbm_bandwidth,
        interconnect=(sent - sent_between_nodes) / chip.ici_bandwidth,
        network=sent_between_nodes / chip.network_bandwidth,
    )


def assumed_efficiency() -> Efficiency:
    """Returns the efficiency for an estimate without a benchmark."""
    return Efficiency(ASSUMED_EFFICIENCY, f"assumed {ASSUMED_EFFICIENCY}", ASSUMED_SPREAD)


def measured_efficiency(
    roof: Roofline, benchmark: Benchmark, *, chip: Chip, model: dict[str, Any]
) -> Efficiency:
    """Returns the efficiency that gives a run the MFU of a benchmark, unless the bound forbids it.

    Args:
        roof: Times of the planned step.
        benchmark: A record of `read_benchmark`.
        chip: Chip of the planned run; the spread is larger if the benchmark's chip is another.
        model: The config's model section; the spread is larger if the benchmark's model is another.
    """
    value = min(1.0, benchmark["mfu"] * roof.bound / roof.compute)
    measured = benchmark.get("model")
    same_model = measured is not None and _without_defaults(measured) == _without_defaults(model)
    same = benchmark["device_kind"] in chip.device_kinds and same_model
    source = f"measured on {benchmark['device_kind']}: MFU {benchmark['mfu']:.1%}"
    if not same:
        source += ", another chip or model"
    return Efficiency(value, source, MEASURED_SPREAD if same else ASSUMED_SPREAD)


def _without_defaults(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a model section without the options that are None or those of the papers' network."""
    defaults = {name: (None, getattr(ViT, name)) for name in OPTIONS}
    return {name: x for name, x in model.items() if x not in defaults.get(name, ())}


def read_benchmark(path: str) -> Benchmark:
    """Returns the record in the last line of a file that `fsvfm_jax.benchmark` wrote.

    Raises:
        DataError: The file cannot be read, or was not written by the benchmark.
        ConfigError: The record is of another step, or its MFU was not measured.
    """
    try:
        lines = read_plain(path, max_bytes=MAX_JSON_BYTES).splitlines()
        record = parse_json(lines[-1] if lines else b"", Benchmark)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise DataError(
            f"{path} holds no line of `python -m fsvfm_jax.benchmark step` ({reason})"
        ) from error
    for name, value in (("framework", "jax"), ("task", "pretrain")):
        if (found := record.get(name, value)) != value:
            raise ConfigError(
                f"{path}: the last line has {name} = {brief(found)}, and a plan needs {value!r}:"
                " give a file of `python -m fsvfm_jax.benchmark step` with a pretraining config"
            )
    kind, mfu = record["device_kind"], record["mfu"]
    if mfu is None or not MIN_MFU <= mfu <= 1:
        raise ConfigError(
            f"{path}: the MFU on {brief(kind)} is {mfu}; run the benchmark on a chip whose peak is"
            " known, or with --peak-tflops"
        )
    return record


def predict(
    roof: Roofline,
    efficiency: Efficiency,
    *,
    batch_size: int,
    total_steps: int,
    num_devices: int,
    price: float | None,
) -> dict[str, Any]:
    """Returns speed, hours and cost of a run, ready for JSON: at the bound, and as estimated.

    Args:
        roof: Times of a step.
        efficiency: The expected share of the bound.
        batch_size: Images in a step, on all devices.
        total_steps: Steps of the run.
        num_devices: Number of chips.
        price: Price of one chip for one hour, in any currency.
    """

    def speed(step_seconds: float) -> dict[str, float]:
        return {
            "step_seconds": step_seconds,
            "images_per_second": batch_size / step_seconds,
            "mfu": roof.compute / step_seconds,
            "hours": total_steps * step_seconds / 3600,
        }

    expected = speed(roof.bound / efficiency.value)
    hours = [expected["hours"] * (1 + sign * efficiency.spread) for sign in (-1, 1)]
    return {
        "bound": {
            **{f"{name}_seconds": value for name, value in roof._asdict().items()},
            "limit": roof.limit,
            **speed(roof.bound),
        },
        "estimate": {
            "efficiency": efficiency.value,
            "efficiency_source": efficiency.source,
            **expected,
            "hours_range": hours,
            "price_per_chip_hour": price,
            "cost_range": price and [price * num_devices * value for value in hours],
        },
    }
