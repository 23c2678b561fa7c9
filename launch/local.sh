#!/usr/bin/env bash
# Trains on this machine: one process on all its GPUs, or on the CPU where it has none.
#
#     launch/local.sh [--print] [--cpu] --config=configs/vit_s.py:smoke --workdir=runs/s [...]
#
# --cpu leaves the GPUs alone; --print shows the command and runs nothing; everything else goes to
# `python -m fsvfm_jax.main`. Paths are taken from the repository's root. Python is .venv/bin/python
# where that exists, else python3. When it starts again: see restart.sh.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

options=()
command=(env)
while [[ ${1-} == --print || ${1-} == --cpu ]]; do
    if [[ $1 == --print ]]; then options+=(--print); else command+=(JAX_PLATFORMS=cpu); fi
    shift
done
python=python3
if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
command+=("$python" -m fsvfm_jax.main "$@")

exec launch/restart.sh ${options[@]+"${options[@]}"} "${command[@]}"
