"""Tests which changes are proposed for a step that does not fit into memory."""

from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.devices.memory import Memory
from fsvfm_jax.models.layers import REMATS
from fsvfm_jax.plan.changes import REMAT_KEEPS, possible_changes

GIB = 2**30


def changes(total: float, state: float, *, available: float = 16, **others) -> list[dict]:
    memory = Memory(0, 0, 0, 0, 0, int(total * GIB), int(available * GIB))
    step = {"images_per_device": 64, "num_devices": 8, "fsdp": 1, "accum_steps": 1, "remat": "none"}
    return list(possible_changes(memory, state_bytes=int(state * GIB), **(step | others)))


def test_every_remat_has_a_share():
    assert list(REMAT_KEEPS) == list(REMATS)


def test_the_least_intrusive_change_comes_first():
    dots, full = {"model.remat": "dots"}, {"model.remat": "full"}
    fsdp = {"mesh.data": -1, "mesh.fsdp": 2}
    assert changes(18, 9)[:4] == [dots, full, fsdp, dots | fsdp]
    # The state is not the part that does not fit.
    assert changes(20, 2)[:3] == [dots, full, {"accum_steps": 2}]
    assert changes(20, 2, remat="dots")[:2] == [full, {"accum_steps": 2}]
    # The state alone does not fit: it must be split over four devices to leave half of the memory.
    assert changes(40, 20)[0] == dots | fsdp | {"mesh.fsdp": 4}


def test_more_splits_are_tried_last():
    found = changes(30, 6, images_per_device=2)
    split = [change for change in found if "mesh.fsdp" in change]
    assert split and found[-len(split) :] == split
    assert all(change["mesh.fsdp"] == 2 for change in split)
    assert {"model.remat": "full", "mesh.data": -1, "mesh.fsdp": 2, "accum_steps": 2} in split
    # No split leaves half of the memory, and the largest one may fit.
    assert changes(110, 100)[0] == {"mesh.data": -1, "mesh.fsdp": 8}


def test_micro_batches_of_every_size_are_tried():
    found = changes(20, 2, images_per_device=12, remat="full")
    assert [change["accum_steps"] for change in found[:5]] == [2, 3, 4, 6, 12]
    assert found[0] == {"accum_steps": 2}


def test_there_is_not_always_a_change():
    assert changes(40, 20, num_devices=1) == []
    assert changes(40, 20, num_devices=7) == []
    remat = [change for change in changes(20, 2, remat="full") if "model.remat" in change]
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
