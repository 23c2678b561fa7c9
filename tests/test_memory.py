"""What a step needs, and what to change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.memory import Memory, compile_step, possible_changes

GIB = 2**30
REFUSED = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries"
    " (40.50G) exceeds available HBM (15.75G)."
)


@pytest.fixture
def lowered() -> jax.stages.Lowered:
    x = jax.ShapeDtypeStruct((1024, 256), np.float32)
    return jax.jit(lambda x: (x + 1, jnp.tanh(x @ x.T).sum()), donate_argnums=0).lower(x)


def test_the_parts_add_up(lowered):
    compiled, memory = compile_step(lowered, available=None)
    assert compiled is not None
    assert memory.argument == 2**20
    assert memory.alias == 2**20
    assert memory.output - memory.alias < 1024
    assert memory.temporary >= 2**20
    assert memory.total == (
        memory.argument + memory.output - memory.alias + memory.temporary + memory.code
    )
    assert memory.fits is None


def test_it_fits_up_to_the_last_byte(lowered):
    total = compile_step(lowered, available=None)[1].total
    assert compile_step(lowered, available=total)[1].fits is True
    assert compile_step(lowered, available=total - 1)[1].fits is False


def test_what_the_compiler_refuses_has_a_size(lowered, monkeypatch):
    def refuse(self: jax.stages.Lowered) -> None:
        raise jax.errors.JaxRuntimeError(REFUSED)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    compiled, memory = compile_step(lowered, available=int(15.75 * GIB))
    assert compiled is None
    assert memory.total == 40.5 * GIB and memory.argument is None
    assert memory.fits is False


def test_another_error_of_the_compiler_stays_one(lowered, monkeypatch):
    def fail(self: jax.stages.Lowered) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: 3.00G of something")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compile_step(lowered, available=GIB)


def changes(total: float, state: float, *, available: float = 16, **others) -> list[dict]:
    memory = Memory(None, None, None, None, None, int(total * GIB), int(available * GIB))
    step = {"images_per_device": 64, "num_devices": 8, "fsdp": 1, "accum_steps": 1, "remat": False}
    return list(possible_changes(memory, state_bytes=int(state * GIB), **(step | others)))


def test_the_least_intrusive_change_comes_first():
    remat, fsdp = {"model.remat": True}, {"mesh.data": -1, "mesh.fsdp": 2}
    assert changes(18, 9)[:3] == [remat, fsdp, remat | fsdp]
    # The state is not what is in the way.
    assert changes(20, 2)[:2] == [remat, {"accum_steps": 2}]
    # The state alone is too much: it must be split, into four to leave half of the memory.
    assert changes(40, 20)[0] == remat | fsdp | {"mesh.fsdp": 4}


def test_there_is_not_always_a_change():
    assert changes(40, 20, num_devices=1) == []
    assert changes(40, 20, num_devices=7) == []
    remat = [change for change in changes(20, 2, remat=True) if "model.remat" in change]
    assert remat == []


@given(
    total=st.floats(17, 500),
    state=st.floats(0.1, 16),
    num_devices=st.integers(1, 64),
    images=st.integers(1, 100),
    accum=st.integers(1, 5),
)
def test_every_change_divides_devices_and_images(total, state, num_devices, images, accum):
    options = {"num_devices": num_devices, "images_per_device": images, "accum_steps": accum}
    for change in changes(total, state, **options):
        assert num_devices % change.get("mesh.fsdp", 1) == 0
        assert (images * accum) % change.get("accum_steps", accum) == 0
        assert change
