"""Tests whether a process has peers, by the variables of all launchers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.devices.peers import (
    OTHER_LAUNCHERS,
    VARIABLES,
    Address,
    check_alone,
    find_peers,
)
from fsvfm_jax.errors import ConfigError

NONE = Address(None, None, None)
# Kubeflow Trainer sets these.
KUBEFLOW = {
    "JAX_COORDINATOR_ADDRESS": "job-node-0-0.job:6666",
    "JAX_COORDINATOR_PORT": "6666",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
    "JAX_DISTRIBUTED_BACKEND": "gloo",
    "JOB_COMPLETION_INDEX": "3",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "8"}


def test_kubeflow_s_variables_are_an_address():
    peers = find_peers(NONE, KUBEFLOW)
    assert peers.address == ("job-node-0-0.job:6666", 4, 3)
    assert peers.seen == "coordinator job-node-0-0.job:6666, process 3 of 4"


def test_a_job_of_one_pod_is_alone():
    assert find_peers(NONE, KUBEFLOW | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}) is None
    assert find_peers(Address(None, 1, None), SLURM) is None
    assert find_peers(NONE, {"JOB_COMPLETION_INDEX": "3"}) is None  # each index is a run of its own


@pytest.mark.parametrize("missing", VARIABLES)
def test_half_an_address_is_an_error_that_names_the_other_half(missing):
    environment = {name: value for name, value in KUBEFLOW.items() if name != missing}
    for half in (environment, environment | {missing: ""}):
        with pytest.raises(ConfigError, match=rf"\(or {missing}\) is missing"):
            find_peers(NONE, half)
    others = dict.fromkeys({*VARIABLES} - {missing})
    with pytest.raises(ConfigError) as raised:
        find_peers(NONE, {missing: KUBEFLOW[missing]})
    assert all(name in str(raised.value) for name in others)


def test_flags_win_and_that_is_said():
    peers = find_peers(Address("localhost:1", None, 1), KUBEFLOW)
    assert peers.address == ("localhost:1", 4, 1)
    assert "--process_id=1 wins over JAX_PROCESS_ID=3" in peers.seen
    assert "--coordinator=localhost:1 wins over JAX_COORDINATOR_ADDRESS=job" in peers.seen
    same = Address("job-node-0-0.job:6666", 4, 3)
    assert "wins" not in find_peers(same, KUBEFLOW).seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "job-0"}, r"'job-0': it must be HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": ":12"}, "HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "job-0:0"}, "HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "job-0:65536"}, "HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "job-0:http"}, "HOST:PORT"),
        ({"JAX_NUM_PROCESSES": "four"}, "JAX_NUM_PROCESSES='four' is no whole number"),
        ({"JAX_NUM_PROCESSES": "4.0"}, "no whole number"),
        ({"JAX_NUM_PROCESSES": "0"}, "must be at least 1"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID='-1' is no whole number"),
        ({"JAX_PROCESS_ID": "4"}, r"is 4: of 4 processes each has one of the numbers from 0 to 3"),
        ({"JAX_PROCESS_ID": "9" * 5000}, "no whole number"),
    ],
)
def test_an_address_that_makes_no_sense_is_an_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        find_peers(NONE, KUBEFLOW | changes)


@pytest.mark.parametrize("host", ["[::1]", "10.0.0.1", "a.b-c"])
def test_hosts(host):
    assert find_peers(Address(f"{host}:65535", 2, 0), {}).address.coordinator == f"{host}:65535"


def test_slurm_and_tpus_are_left_to_jax():
    assert find_peers(NONE, SLURM) == (
        NONE,
        "SLURM_JOB_ID=7, SLURM_STEP_NUM_TASKS=8, SLURM_PROCID=0",
    )
    assert find_peers(NONE, {"TPU_WORKER_HOSTNAMES": "a,b"}).address == NONE
    # JAX itself takes the address from there and the rest from Slurm.
    address = {"JAX_COORDINATOR_ADDRESS": "node0:1234"}
    assert find_peers(NONE, SLURM | address).address == ("node0:1234", None, None)
    assert find_peers(NONE, SLURM | KUBEFLOW).address == ("job-node-0-0.job:6666", 4, 3)


@pytest.mark.parametrize("size", OTHER_LAUNCHERS)
def test_other_launchers_are_an_error_with_two_ways_out(size):
    rank = OTHER_LAUNCHERS[size].rank
    environment = {size: "4", rank: "2"}
    with pytest.raises(ConfigError, match=rf"each of them would train alone.*\${rank}, or"):
        find_peers(NONE, environment)
    assert find_peers(Address(None, 1, None), environment) is None
    assert find_peers(Address("localhost:1", 4, 2), environment).address.process_id == 2
    for alone in ({size: "1", rank: "0"}, {size: "4"}, {size: "many", rank: "0"}):
        assert find_peers(NONE, alone) is None


def test_tasks_of_slurm_that_were_meant_as_cores_are_named_as_a_likely_cause():
    with pytest.raises(ConfigError) as error:  # `#SBATCH --ntasks=8` without srun
        find_peers(NONE, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"})
    assert "ask for --cpus-per-task, or give --num_processes=1" in str(error.value)


@pytest.mark.parametrize("number", ["9" * 5000, "\u0663", "", "many", "1", "0", "-2", " 2"])
def test_what_is_no_number_of_slurm_tasks_is_one_process(number):
    assert find_peers(NONE, SLURM | {"SLURM_STEP_NUM_TASKS": number}) is None
    assert find_peers(NONE, {"SLURM_PROCID": "0", "SLURM_NTASKS": number}) is None


NUMBERS = st.none() | st.integers()
TEXTS = st.text(max_size=8) | st.sampled_from(["2", "9" * 5000, "\u0663"])


@given(
    st.dictionaries(st.sampled_from([*VARIABLES, *SLURM, *OTHER_LAUNCHERS]), TEXTS),
    st.builds(Address, st.none() | st.text(max_size=8), NUMBERS, NUMBERS),
)
def test_whatever_is_set_there_is_an_answer_or_one_sentence(environment, flags):
    try:
        peers = find_peers(flags, environment)
    except ConfigError as error:
        assert "\n" not in str(error).replace(repr("\n"), "")
        return
    if peers is not None and None not in peers.address:
        assert 0 <= peers.address.process_id < peers.address.num_processes


@pytest.mark.parametrize(
    "environment",
    [KUBEFLOW, SLURM, {"WORLD_SIZE": "2", "RANK": "1"}, {"PMI_SIZE": "3", "PMI_RANK": "0"}],
)
def test_a_command_that_works_alone_refuses_a_launcher_of_several(environment):
    with pytest.raises(ConfigError, match=r"=[2348]: a launcher has started"):
        check_alone(environment)


def test_a_command_that_works_alone_runs_under_a_launcher_of_one():
    check_alone({})
    check_alone(SLURM | {"SLURM_STEP_NUM_TASKS": "1"})
    check_alone({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"})  # a script of a job, without srun
    check_alone({"WORLD_SIZE": "2"})
