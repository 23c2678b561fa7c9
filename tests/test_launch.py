"""Tests the launch scripts: syntax, `--print` without effects, and when they start again."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from launch_desk import JOB, LAUNCH, SLICE, Desk
from patience import PATIENCE

from fsvfm_jax import errors
from fsvfm_jax.devices import peers

ROOT = Path(__file__).parent.parent
SCRIPTS = ["local.sh", "restart.sh", "slurm.sbatch", "tpu_vm.sh"]


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_sound(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)
    beside_python = Path(sys.executable).parent / "shellcheck"
    shellcheck = beside_python if beside_python.exists() else shutil.which("shellcheck")
    if shellcheck is None and "CI" not in os.environ:
        pytest.skip("shellcheck is not installed: pip install '.[test]'")
    assert shellcheck is not None
    result = subprocess.run([shellcheck, LAUNCH / script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_no_script_is_left_out_and_those_to_call_can_be_called():
    others = {"Dockerfile", "README.md", "jobset.yaml"}
    assert {path.name for path in LAUNCH.iterdir()} == {*SCRIPTS, *others}
    assert all(os.access(path, os.X_OK) for path in LAUNCH.glob("*.sh"))


# ── --print ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        (
            "restart.sh",
            ["--print", "python3", "train", "--workdir=runs/l"],
            ["python3 train --workdir=runs/l"],
        ),
        (
            "local.sh",
            ["--print", "--cpu", *JOB, "--workdir=runs/l"],
            [
                "env JAX_PLATFORMS=cpu python3 -m fsvfm_jax.main --config=configs/vit_l.py"
                r" --config.data.paths=\(\'/mnt/data\'\,\) --workdir=runs/l"
            ],
        ),
        (
            "slurm.sbatch",
            ["--print", *JOB, "--workdir=runs/l"],
            [
                "#SBATCH --nodes=2",
                "#SBATCH --ntasks-per-node=8",
                "#SBATCH --gpus-per-node=8",
                "srun --label --cpus-per-task=12 bash -c check_devices",
                "srun --label --cpus-per-task=12 --kill-on-bad-exit=0 --wait=300 python3"
                " -m fsvfm_jax.main --config=configs/vit_l.py",
                'scontrol requeue "$SLURM_JOB_ID"',
            ],
        ),
        (
            "tpu_vm.sh",
            ["--print", "create", *SLICE, "--type=v5litepod-64", "--spot"],
            [
                "# tear down with: launch/tpu_vm.sh delete --name=faces --zone=europe-west4-b",
                "gcloud compute tpus queued-resources create faces --node-id=faces"
                " --accelerator-type=v5litepod-64 --runtime-version=v2-alpha-tpuv5-lite --spot"
                " --zone=europe-west4-b --quiet",
            ],
        ),
        (
            "tpu_vm.sh",
            ["--print", "setup", *SLICE],
            [
                "git archive --format=tar.gz --output=/tmp/fsvfm_jax.tar.gz HEAD",
                "tpu-vm scp /tmp/fsvfm_jax.tar.gz faces:fsvfm_jax.tar.gz --worker=all",
                "tpu-vm ssh faces --worker=all '--command=curl -LsSf https://astral.sh/uv/",
                "uv venv --clear --python=3.12",
            ],
        ),
        (
            "tpu_vm.sh",
            ["--print", "stage", *SLICE, "--data=gs://bucket/faces"],
            ["gcloud storage rsync --recursive gs://bucket/faces /mnt/data'"],
        ),
        (
            "tpu_vm.sh",
            ["--print", "stage", *SLICE, "--data=gs://bucket/faces", "--mount"],
            ["gcsfuse --implicit-dirs -o ro --only-dir=faces", " bucket /mnt/data"],
        ),
        (
            "tpu_vm.sh",
            ["--print", "run", *SLICE, "--", *JOB, "--workdir=gs://bucket/l"],
            [
                "sudo systemd-run --unit=fsvfm",
                "launch/restart.sh .venv/bin/python -m fsvfm_jax.main",
            ],
        ),
        (
            "tpu_vm.sh",
            ["--print", "logs", *SLICE, "--worker=3"],
            ["tpu-vm ssh faces --worker=3 '--command=sudo journalctl --unit=fsvfm"],
        ),
        (
            "tpu_vm.sh",
            ["--print", "status", *SLICE],
            ["gcloud compute tpus queued-resources list '--filter=name~/faces$'"],
        ),
        (
            "tpu_vm.sh",
            ["--print", "delete", *SLICE],
            ["gcloud compute tpus queued-resources delete faces --force --zone=europe-west4-b"],
        ),
    ],
)
def test_print_shows_the_commands_and_runs_nothing(desk, script, arguments, expected):
    result = desk.run(script, *arguments)
    assert result.returncode == 0, result.stderr
    for text in expected:
        assert text in result.stdout
    assert desk.calls() == []


def test_without_spot_the_slice_is_on_demand(desk):
    result = desk.run("tpu_vm.sh", "--print", "create", *SLICE, "--type=v6e-8")
    assert "--runtime-version=v2-alpha-tpuv6e" in result.stdout
    assert "--spot" not in result.stdout


def test_slurm_never_hides_gpus_from_a_process():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    assert not [line for line in lines if "--gpus-per-task" in line and line.startswith("#SBATCH")]


# ── The loop ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("codes", "runs", "code"),
    [
        ([75, 75, 0], 3, 0),
        ([72], 1, 72),
        ([76], 1, 76),
        ([65], 1, 65),
        ([1], 1, 1),
        ([70, 71, 0], 3, 0),
        ([134, 137, 0], 3, 0),
        ([70, 72], 2, 72),
        ([70] * 9, 6, 70),
        ([71, 70, 71, 70, 71, 71, 0], 6, 71),
    ],
)
def test_the_exit_code_decides(desk, codes, runs, code):
    desk.will("python3", *(f"|{code}" for code in codes))
    result = desk.run("local.sh", *JOB, "--workdir=runs/l")
    assert result.returncode == code, result.stderr
    assert len(desk.calls("python3")) == runs
    assert set(desk.calls("python3")) == {
        "python3 -m fsvfm_jax.main --config=configs/vit_l.py"
        " --config.data.paths=('/mnt/data',) --workdir=runs/l"
    }


def test_the_limit_can_be_set(desk):
    desk.environment["RESTART_LIMIT"] = "1"
    desk.will("python3", *["|70"] * 9)
    result = desk.run("local.sh", "--workdir=runs/l")
    assert result.returncode == 70
    assert len(desk.calls("python3")) == 2
    assert "giving up after 1 restarts without a checkpoint newer than none" in result.stderr


@pytest.mark.parametrize(
    ("suffix", "runs", "code"), [("", 5, 72), (".orbax-checkpoint-tmp", 2, 70)]
)
def test_only_a_finished_newer_checkpoint_is_progress(desk, suffix, runs, code):
    desk.environment["RESTART_LIMIT"] = "1"
    # It fails after steps 9, 10, 11, ...; the fifth failure is final.
    program = (
        "echo >>runs; n=$(wc -l <runs); c=w/checkpoints/$((n + 8))$0; mkdir -p $c;"
        " touch $c/manifest.json;"
        " [[ $n -lt 5 ]] || exit 72; exit 70"
    )
    result = desk.run("restart.sh", "bash", "-c", program, suffix, "--workdir=w")
    assert result.returncode == code, result.stderr
    assert len((desk.repository / "runs").read_text()) == runs


def test_checkpoints_are_found_in_a_bucket(desk):
    desk.environment["RESTART_LIMIT"] = "0"
    desk.will("python3", "|70", "|70", "|70")
    markers = [f"gs://bucket/l/checkpoints/{step}/manifest.json|0" for step in (900, 1000)]
    desk.will("gcloud", *markers)
    result = desk.run("local.sh", "--workdir=gs://bucket/l")
    listing = "gcloud storage ls gs://bucket/l/checkpoints/*/manifest.json"
    assert desk.calls("gcloud") == [listing] * 2
    assert "newer than 1000 in gs://bucket/l" in result.stderr


def test_without_a_workdir_nothing_is_run(desk):
    result = desk.run("local.sh", *JOB)
    assert result.returncode == 78
    assert "--workdir=DIR is missing" in result.stderr
    assert desk.calls() == []


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_ends_the_loop(desk, stop):
    program = (
        "trap 'sleep 0.3; echo saved >>notes; exit 75' TERM;"
        " touch ready; while true; do sleep 0.05; done"
    )
    command = ["bash", "launch/restart.sh", "bash", "-c", program, "train", "--workdir=w"]
    # A suite in the background ignores SIGINT, and its child processes would inherit that.
    heard = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
        " signal.signal(signal.SIGHUP, signal.SIG_DFL);"
        " os.execvp(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", heard, *command], cwd=desk.repository, env=desk.environment
    )
    while not (desk.repository / "ready").exists():
        time.sleep(0.02)
    process.send_signal(stop)
    assert process.wait(timeout=PATIENCE) == 75
    assert (desk.repository / "notes").read_text() == "saved\n"


def test_a_reader_that_has_gone_does_not_end_the_loop(desk):
    desk.will("python3", "|70", "|0")
    command = ["bash", "launch/local.sh", *JOB, "--workdir=runs/l"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, cwd=desk.repository, env=desk.environment, stdout=write, stderr=write
    )
    os.close(write)
    assert done.returncode == 0
    assert len(desk.calls("python3")) == 2


# ── Slurm ─────────────────────────────────────────────────────────────────────────────────────────


def see_gpus(desk: Desk, number: int) -> None:
    """Makes a fake nvidia-smi that lists this number of GPUs, as often as it is called."""
    lines = "".join(f"GPU {i}: NVIDIA H100\n" for i in range(number))
    program = desk.repository.parent / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/bash\ncat <<'END'\n{lines}END\n")


def test_slurm_shows_the_devices_then_trains_then_goes_back_to_the_queue(desk):
    see_gpus(desk, 8)
    desk.will("python3", "|70", "|75")
    result = desk.run("slurm.sbatch", *JOB, "--workdir=runs/l")
    assert result.returncode == 75, result.stderr
    assert "tear down with: scancel 42" in result.stdout
    assert re.search(r"process 0 of 16, .*: sees 8 GPUs, takes GPU 0: NVIDIA H100", result.stdout)
    assert len(desk.calls("srun")) == 3
    assert len(desk.calls("python3")) == 2
    assert desk.calls("scontrol") == ["scontrol requeue 42"]


@pytest.mark.parametrize("visible", [None, "3"])
def test_slurm_ends_where_a_process_does_not_see_all_gpus(desk, visible):
    see_gpus(desk, 7 if visible is None else 8)
    if visible is not None:
        desk.environment["CUDA_VISIBLE_DEVICES"] = visible
    result = desk.run("slurm.sbatch", *JOB, "--workdir=runs/l")
    assert result.returncode == 78
    assert "without --gpus-per-task" in result.stderr
    assert desk.calls("python3") == desk.calls("scontrol") == []


def test_slurm_puts_no_other_end_back_in_the_queue(desk):
    see_gpus(desk, 8)
    desk.will("python3", "|72")
    assert desk.run("slurm.sbatch", *JOB, "--workdir=runs/l").returncode == 72
    assert desk.calls("scontrol") == []


# ── Output ────────────────────────────────────────────────────────────────────────────────────────


def test_dockerfile_names_what_there_is():
    text = (LAUNCH / "Dockerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()]
    assert sources
    assert all((ROOT / source).exists() for source in sources)
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert {"cuda", "tpu", "gcs"} <= extras.keys()


def test_the_jobset_gives_each_pod_its_address_and_knows_the_exit_codes():
    text = (LAUNCH / "jobset.yaml").read_text()
    (jobset,) = yaml.safe_load_all(text)
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    variables = {one["name"]: one for one in container["env"]}
    assert tuple(variables) == peers.VARIABLES
    found = {name: one["value"] for name, one in variables.items() if "value" in one}
    index = variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    address = peers.find_peers(
        peers.Address(None, None, None), found | {"JAX_PROCESS_ID": "1"}
    ).address
    assert address.num_processes == spec["parallelism"] == spec["completions"]
    name = jobset["metadata"]["name"]
    host, port = address.coordinator.split(":")
    assert host == f"{name}-{job['name']}-0-0.{name}"
    assert [one["containerPort"] for one in container["ports"]] == [int(port)]
    # A policy for failures works only with pods that are not restarted in place.
    assert pod["restartPolicy"] == "Never" and spec["completionMode"] == "Indexed"
    ignore, fail = spec["podFailurePolicy"]["rules"]
    assert ignore["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    # 70 and 75 are to be started again, and training never ends with 66.
    kinds = errors.UserError.__subclasses__()
    final = {kind.exit_code for kind in kinds if kind.__module__ == errors.__name__} - {66, 70, 75}
    assert set(fail["onExitCodes"]["values"]) == final
    assert fail["onExitCodes"]["containerName"] == container["name"]
    assert {one["name"] for one in container["volumeMounts"]} == {
        one["name"] for one in pod["volumes"]
    }


def test_readme_shows_each_example_on_one_screen_and_its_commands_are_accepted(desk):
    sections = (LAUNCH / "README.md").read_text().split("\n## ")
    examples = [section for section in sections if "```bash" in section]
    assert len(examples) == 2
    for section in examples:
        assert len(section.splitlines()) <= 45
        job = re.search(r"^job=\(.*?\)$", section, re.M | re.S)[0]
        commands = re.findall(r"^(?:launch/tpu_vm.sh|bash launch/slurm.sbatch) .*$", section, re.M)
        assert commands
        for command in commands:
            shown = re.sub(r"(\.sh|\.sbatch) (--print )?", r"\1 --print ", command)
            script = f"set -e\n{job}\n{shown}"
            result = subprocess.run(
                ["bash", "-c", script],
                cwd=desk.repository,
                env=desk.environment,
                capture_output=True,
                text=True,
            )
            assert result.returncode == 0, f"{command}: {result.stderr}"
            assert result.stdout
    assert desk.calls() == []
