"""Tests the memory that a step needs, and the changes that are proposed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.devices.memory import GRADIENT_SHARE, Memory, enough_memory, fits_with
from fsvfm_jax.errors import OutOfMemory


@pytest.fixture
def compiled() -> jax.stages.Compiled:
    x = jax.ShapeDtypeStruct((1024, 256), np.float32)
    step = jax.jit(lambda x: (x + 1, jnp.tanh(x @ x.T).sum()), donate_argnums=0)
    return step.lower(x).compile()


def test_the_parts_add_up(compiled):
    memory = Memory.of(compiled, available=None)
    assert memory.argument == 2**20
    assert memory.alias == 2**20
    assert memory.output - memory.alias < 1024
    assert memory.temporary >= 2**20
    assert memory.total == (
        memory.argument + memory.output - memory.alias + memory.temporary + memory.code
    )
    assert memory.fits is None


def test_it_fits_up_to_the_last_byte(compiled):
    total = Memory.of(compiled, available=None).total
    assert Memory.of(compiled, available=total).fits is True
    assert Memory.of(compiled, available=total - 1).fits is False


@given(
    state=st.integers(1, 10**6),
    activations=st.integers(0, 10**7),
    extra=st.integers(0, 10**6),
    available=st.integers(1, 10**7),
    number=st.integers(1, 64),
)
def test_no_number_of_micro_batches_that_fits_is_passed_over(
    state, activations, extra, available, number
):
    """Tests any fixed memory beyond the estimate, also without memory for accumulation."""
    fixed = int(state * (1 + GRADIENT_SHARE)) + 1 + extra
    memory = Memory(0, 0, 0, 0, 0, fixed + activations, available)
    if fixed + activations / number <= available:
        assert fits_with(memory, state_bytes=state, micro_batches=number / 1)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes", OutOfMemory),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem.", jax.errors.JaxRuntimeError),
        ("INTERNAL: a fault", jax.errors.JaxRuntimeError),
    ],
)
def test_only_a_lack_of_device_memory_is_one_sentence(message, error):
    shown = "lower it" if error is OutOfMemory else "vmem|a fault"
    with pytest.raises(error, match=shown), enough_memory("lower it"):
        raise jax.errors.JaxRuntimeError(message)
