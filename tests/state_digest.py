"""Saves or restores a state in one of several processes, and prints the hash of the state.

python tests/state_digest.py FOLDER FSDP COORDINATOR NUM_PROCESSES PROCESS_ID
"""

import hashlib
import sys

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from configs import vit_s
from fsvfm_jax import pretrain
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import compilation, distributed, sharding
from fsvfm_jax.run.checkpoint import Checkpoints


def main(folder: str, fsdp: str, coordinator: str, num_processes: str, process_id: str) -> None:
    if int(num_processes) > 1:
        distributed.start(
            coordinator=coordinator, num_processes=int(num_processes), process_id=int(process_id)
        )
    config = vit_s.get_config("smoke")
    config.update_from_flattened_dict({"mesh.data": -1, "mesh.fsdp": int(fsdp)})
    config = resolve(config)
    task = pretrain.make_learner(config, stats=Stats((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    mesh = sharding.make_mesh(config.mesh)
    template = compilation.state_template(task, mesh)
    with Checkpoints(epath.Path(folder), keep=3) as checkpoints:
        restored = checkpoints.restore_newest_valid(template)
        if restored is None:
            state = compilation.fresh_state(task, template, seed=0)
            checkpoints.save(state, step=1, samples_seen=32)
        else:
            state = restored.state
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(multihost_utils.process_allgather(leaf, tiled=True)).tobytes())
    print("restored" if restored else "saved", len(jax.devices()), digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
