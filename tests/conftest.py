"""Eight virtual CPU devices for every test, set before JAX starts."""

import os
from pathlib import Path

import jax
from absl import flags

# Tests compile much and compute little. What the environment asks for comes last and wins.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}"
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Several tests compile the same step; the cache is of this machine and this checkout.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))

# Grain's workers read absl flags, which nobody parses under pytest.
flags.FLAGS.mark_as_parsed()
