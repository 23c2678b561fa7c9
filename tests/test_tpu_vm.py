"""Tests launch/tpu_vm.sh with a gcloud that answers from a list."""

import subprocess

import pytest
from launch_desk import JOB, SLICE, Desk


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def watch(desk: Desk) -> subprocess.CompletedProcess:
    options = [*SLICE, "--type=v5litepod-64", "--spot", "--data=gs://bucket/faces"]
    return desk.run("tpu_vm.sh", "watch", *options, "--", *JOB, "--workdir=gs://bucket/l")


def verbs(desk: Desk) -> list[str]:
    """Returns the words after `gcloud` of each call."""
    words = {
        "queued-resources list": "list",
        "queued-resources create": "create",
        "queued-resources delete": "delete",
        "tpu-vm scp": "send",
        "uv pip install": "install",
        "storage rsync": "stage",
        "systemd-run": "run",
        "systemctl show": "ask",
    }
    return [
        next(word for text, word in words.items() if text in call) for call in desk.calls("gcloud")
    ]


BEGIN = ["send", "install", "stage", "run"]


def test_watch_begins_goes_on_after_a_preemption_and_ends_with_training(desk):
    begin = ["|0"] * 4
    desk.will("git", "0123abc|0")
    desk.will(
        "gcloud",
        *("ACTIVE|0", "ExecMainStatus=0 SubState=dead|0", *begin),
        *("ACTIVE|0", "ExecMainStatus=0 SubState=running|0"),
        *("|1", "SUSPENDING|0"),
        *("SUSPENDED|0", "|0", "|0", "PROVISIONING|0", "ACTIVE|0", *begin),
        *("ACTIVE|0", "ExecMainStatus=75 SubState=failed|0", *begin),
        *("ACTIVE|0", "ExecMainStatus=0 SubState=exited|0"),
    )
    result = watch(desk)
    assert result.returncode == 0, result.stderr
    assert verbs(desk) == [
        *("list", "ask", *BEGIN),
        *("list", "ask"),
        *("list", "list"),
        *("list", "delete", "create", "list", "list", *BEGIN),
        *("list", "ask", *BEGIN),
        *("list", "ask"),
    ]
    # The code is that of the first call, even if something has been committed since.
    assert all(call.endswith(" 0123abc") for call in desk.calls("git archive"))
    assert "# tear down with: launch/tpu_vm.sh delete --name=faces" in result.stdout


def test_watch_ends_with_the_code_of_a_worker_that_failed(desk):
    desk.will("gcloud", "ACTIVE|0", "ExecMainStatus=72 SubState=failed|0")
    assert watch(desk).returncode == 72
    assert verbs(desk) == ["list", "ask"]


def test_watch_waits_while_no_worker_answers(desk):
    done = ("ACTIVE|0", "SubState=exited ExecMainStatus=0|0")
    desk.will("gcloud", "ACTIVE|0", "|255", *done)
    assert watch(desk).returncode == 0
    assert verbs(desk) == ["list", "ask", "list", "ask"]


@pytest.mark.parametrize("verb", [["setup"], ["stage"], ["stage", "--mount"], ["run"], ["logs"]])
def test_what_workers_are_given_is_a_command_with_the_arguments_as_they_were(desk, verb):
    options = [*SLICE, "--data=gs://bucket/faces", "--", *JOB, "--workdir=gs://bucket/l"]
    desk.run("tpu_vm.sh", *verb, *options)
    command = desk.calls("gcloud")[-1].split("--command=")[1].rsplit(" --zone=", 1)[0]
    subprocess.run(["bash", "-n", "-c", command], check=True)
    if verb == ["run"]:
        (desk.repository / "fsvfm_jax").mkdir()
        arguments = 'printf "%s\\n" "${@: -4}"'
        command = f"sudo() {{ [[ $1 != systemd-run ]] || {arguments}; }}; {command}"
        result = subprocess.run(
            ["bash", "-c", command], cwd=desk.repository, capture_output=True, text=True
        )
        assert result.stdout.splitlines() == ["fsvfm_jax.main", *JOB, "--workdir=gs://bucket/l"]


@pytest.mark.parametrize("state", ["", "FAILED"])
def test_watch_makes_no_slice_where_there_is_none_to_watch(desk, state):
    desk.will("gcloud", f"{state}|0")
    result = watch(desk)
    assert result.returncode == 78
    assert "no slice faces" in result.stderr
    assert verbs(desk) == ["list"]


def test_watch_gives_up_a_set_up_that_keeps_failing(desk):
    lost = ("ACTIVE|0", "ExecMainStatus=0 SubState=dead|0", "|1")
    desk.will("gcloud", *lost * 5)
    assert watch(desk).returncode == 70
    assert verbs(desk) == ["list", "ask", "send"] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", *SLICE], "create needs --type=TYPE"),
        (["create", *SLICE, "--type=v9-8"], "add --runtime=VERSION"),
        (["create", "--name=faces"], "--name=NAME and --zone=ZONE are needed"),
        (["stage", *SLICE], "stage needs --data=gs://BUCKET/FOLDER"),
        (["run", *SLICE, "--", *JOB, "--workdir=runs/l"], "run needs --workdir=gs://"),
        (["run", *SLICE, *JOB], "training arguments come after --"),
        (SLICE, "a verb is missing"),
    ],
)
def test_tpu_mistakes_are_told_before_anything_is_run(desk, arguments, message):
    result = desk.run("tpu_vm.sh", *arguments)
    assert result.returncode == 78
    assert message in result.stderr
    assert desk.calls() == []
