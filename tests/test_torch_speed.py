"""Tests the measurement of PyTorch's step from config to record, but not any speed."""

import json

import jax
import pytest

from configs import vit_s
from fsvfm_jax.errors import ConfigError

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # On a busy machine, several threads wait for each other.
TINY = {
    "batch_size": 4,
    "model.image_size": 32,
    "model.width": 32,
    "model.depth": 1,
    "model.decoder_width": 32,
    "model.decoder_depth": 1,
    "model.dtype": "bfloat16",
}


def tiny_config(changes: dict | None = None):
    config = vit_s.get_config("smoke")
    config.update_from_flattened_dict(TINY | (changes or {}))
    return config


@pytest.mark.e2e
def test_the_record_is_like_ours():
    from fsvfm_jax.benchmark import step_times
    from fsvfm_jax.benchmark.torch_speed import measure_torch_step

    record = measure_torch_step(tiny_config(), steps=2, warmup=0, peak_tflops=0.5)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["framework"], record["torch"]) == ("torch", torch.__version__)
    assert (record["jax"], record["device_kind"]) == (jax.__version__, "cpu")
    assert record["device_count"] == 1 and record["loss"] > 0 and record["mfu"] > 0
    assert record["peak_memory_source"] == "process" and record["peak_memory_bytes"] > 1e7
    assert "not compiled" in step_times.summary(record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accum_steps": 2}, "accum_steps is 2, and the PyTorch step has 1 only"),
        ({"mesh.fsdp": 2}, "set --config.mesh.fsdp=1"),
        ({"model.remat": "full"}, "'full', and the PyTorch step has 'none' only"),
        (
            {"model.activation": "quick_gelu"},
            "'quick_gelu', and the PyTorch step has 'gelu' only",
        ),
        ({"model.layer_norm_epsilon": 1e-5}, "1e-05, and the PyTorch step has 1e-06 only: leave"),
        ({"loss.similarity": "byol"}, "set --config.loss.similarity=simsiam"),
    ],
)
def test_what_the_yardstick_lacks_is_named(changes, message):
    from fsvfm_jax.benchmark.torch_speed import measure_torch_step

    with pytest.raises(ConfigError, match=message):
        measure_torch_step(tiny_config(changes), steps=1, warmup=0)


def test_it_pretrains_only():
    from configs.finetune import dfd
    from fsvfm_jax.benchmark.torch_speed import check_config

    with pytest.raises(ConfigError, match="'finetune', and the PyTorch step has 'pretrain' only"):
        check_config(dfd.get_config("smoke"))
