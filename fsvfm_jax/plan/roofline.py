"""How long a step takes: at the least, and as far as can be expected.

    compute      = FLOPs per image x images per device / peak
    memory       = bytes that a device reads and writes / bandwidth of its memory
    interconnect = bytes that a device sends / bandwidth of its links
    bound        = the longest of the three, as if it hid the other two
    estimate     = bound / efficiency

FLOPs are those of the method (`flops.py`): recomputation is not in the bound. The bytes are those
of the compiled program. Links are taken to be as fast as they are sold; there is no latency in the
bound, and no network between slices or nodes.
"""

from typing import Any, NamedTuple, NotRequired, TypedDict

from fsvfm_jax.errors import ConfigError, DataError, reason_of
from fsvfm_jax.host.json_files import MAX_JSON_BYTES, parse_json
from fsvfm_jax.host.plain_files import read_plain
from fsvfm_jax.plan.chips import Chip

ASSUMED_EFFICIENCY = 0.35
ASSUMED_SPREAD, MEASURED_SPREAD = 0.25, 0.10


class Roofline(NamedTuple):
    """Seconds of a step, at the least, for each of the three resources."""

    compute: float
    memory: float
    interconnect: float

    @property
    def bound(self) -> float:
        return max(self)

    @property
    def limit(self) -> str:
        """The name of the longest."""
        return max(self._fields, key=lambda name: getattr(self, name))


class Benchmark(TypedDict):
    """The part of a benchmark's record that is used here; `mfu` is None on an unknown chip."""

    device_kind: str
    mfu: float | None
    model: NotRequired[dict[str, Any] | None]


class Efficiency(NamedTuple):
    """What share of the bound to expect.

    Attributes:
        value: Bound / expected time, at most 1.
        source: Where it comes from, in words.
        spread: How far off the estimate may be, as a share of it.
    """

    value: float
    source: str
    spread: float


def roofline(chip: Chip, *, flops: int, traffic: int, sent: float) -> Roofline:
    """The formulas above.

    Args:
        chip: Its peak and bandwidths.
        flops: For the images that one device sees in a step.
        traffic: Bytes that a device reads and writes in a step.
        sent: Bytes that a device sends in a step.
    """
    return Roofline(
        compute=flops / chip.bf16_flops,
        memory=traffic / chip.hbm_bandwidth,
        interconnect=sent / chip.ici_bandwidth,
    )


def assumed_efficiency() -> Efficiency:
    return Efficiency(ASSUMED_EFFICIENCY, f"assumed {ASSUMED_EFFICIENCY}", ASSUMED_SPREAD)


def measured_efficiency(
    roof: Roofline, benchmark: Benchmark, *, chip: Chip, model: dict[str, Any]
) -> Efficiency:
    """The efficiency with which a run has the MFU of a benchmark, unless the bound forbids it.

    Args:
        roof: Of the step in question.
        benchmark: A record of `read_benchmark`.
        chip: Of the run in question; another than the benchmark's makes it less sure.
        model: The config's model section; likewise.
    """
    value = min(1.0, benchmark["mfu"] * roof.bound / roof.compute)
    same = benchmark["device_kind"] in chip.device_kinds and benchmark.get("model") == model
    source = f"measured on {benchmark['device_kind']}: MFU {benchmark['mfu']:.1%}"
    if not same:
        source += ", another chip or model"
    return Efficiency(value, source, MEASURED_SPREAD if same else ASSUMED_SPREAD)


def read_benchmark(path: str) -> Benchmark:
    """The record in the last line of a file of `fsvfm_jax.benchmark`.

    Raises:
        DataError: The file cannot be read, or is not of the benchmark.
        ConfigError: The MFU was not measured.
    """
    try:
        lines = read_plain(path, max_bytes=MAX_JSON_BYTES).splitlines()
        record = parse_json(lines[-1] if lines else b"", Benchmark)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise DataError(
            f"{path} holds no line of `python -m fsvfm_jax.benchmark step` ({reason})"
        ) from error
    kind, mfu = record["device_kind"], record["mfu"]
    if mfu is None or not 0 < mfu <= 1:
        raise ConfigError(
            f"{path}: the MFU on {kind} is {mfu}; run the benchmark on a chip whose peak is known,"
            " or with --peak-tflops"
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
    """Speed, hours and cost of a run, ready for JSON: as the bound has it, and as expected.

    Args:
        roof: Of a step.
        efficiency: What share of it to expect.
        batch_size: Images in a step, on all devices.
        total_steps: Of the run.
        num_devices: Chips.
        price: Of one chip and hour, in any currency.
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
