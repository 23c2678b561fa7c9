#!/usr/bin/env bash
# Trains on this machine: one process on all GPUs, or on the CPU if there is no GPU.
#
#     launch/local.sh [--print] [--cpu] --config=configs/vit_s.py:smoke --workdir=runs/s [...]
#
# --cpu does not use the GPUs; --print prints the command and runs nothing; all other arguments are
# passed to `python -m fsvfm_jax.main`. Paths are relative to the repository's root. Python is
# .venv/bin/python if that exists, else python3. restart.sh describes when the command is started
# again.
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
