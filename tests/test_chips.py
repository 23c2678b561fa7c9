"""Tests the facts of chips."""

import pytest

from fsvfm_jax.plan.chips import CHIPS, find_chip


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v6 lite", "v6e"), ("NVIDIA H200", "h200")],
)
def test_a_chip_is_found_by_its_device_kind(device_kind, name):
    chip = find_chip(device_kind)
    assert chip is not None and chip.name == name


def test_an_unknown_chip_is_none():
    assert find_chip("cpu") is None
    # This H100 is slower than the one in the table.
    assert find_chip("NVIDIA H100 PCIe") is None


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [("a100", 81_920), ("h100", 81_559), ("h200", 143_771), ("b200", 183_359)],
)
def test_a_program_may_use_three_quarters_of_a_gpus_memory(name, mebibytes):
    assert CHIPS[name].hbm_bytes == mebibytes * 2**20 * 3 // 4
