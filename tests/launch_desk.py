"""Copies launch/ and replaces every program that it calls by one that records its arguments."""

import os
import shutil
import subprocess
from pathlib import Path

from patience import PATIENCE

LAUNCH = Path(__file__).parent.parent / "launch"
JOB = ["--config=configs/vit_l.py", "--config.data.paths=('/mnt/data',)"]
SLICE = ["--name=faces", "--zone=europe-west4-b"]

# Writes its arguments to $NOTES and ends as the next line of $NOTES.<name>, "OUTPUT|CODE", sets.
FAKE = """#!/bin/bash
name=$(basename "$0")
echo "$name $*" >>"$NOTES"
[[ -s $NOTES.$name ]] || exit 0
line=$(head -n 1 "$NOTES.$name")
sed -i 1d "$NOTES.$name"
[[ -z ${line%|*} ]] || echo "${line%|*}"
exit "${line##*|}"
"""
# Runs the given command as the first process of a node.
FAKE_SRUN = """#!/bin/bash
echo "srun $*" >>"$NOTES"
while [[ $1 == --* ]]; do shift; done
SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=16 SLURM_NTASKS_PER_NODE=8 exec "$@"
"""


class Desk:
    """Holds a copy of launch/ in a folder of its own, with fake programs first on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "repository"
        self.notes = folder / "notes"
        shutil.copytree(LAUNCH, self.repository / "launch")
        programs = folder / "bin"
        programs.mkdir()
        for name in ("curl", "docker", "gcloud", "git", "nvidia-smi", "python3", "scontrol"):
            (programs / name).write_text(FAKE)
        (programs / "srun").write_text(FAKE_SRUN)
        for program in programs.iterdir():
            program.chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "NOTES": str(self.notes),
            "RESTART_PAUSE": "0",
            "TPU_POLL": "0",
            "SLURM_JOB_ID": "42",
        }

    def will(self, program: str, *answers: str) -> None:
        """Sets the outcomes of the next calls of a fake program: "OUTPUT|EXIT CODE"."""
        Path(f"{self.notes}.{program}").write_text("".join(f"{answer}\n" for answer in answers))

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", f"launch/{script}", *arguments],
            cwd=self.repository,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def calls(self, program: str = "") -> list[str]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line for line in lines if line.startswith(program)]
