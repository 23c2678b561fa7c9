"""Tests the comparison of attention kernels with a stand-in for cuDNN's, but no GPU."""

import json
import math
from argparse import Namespace

import jax
import jax.numpy as jnp
import pytest

from configs import vit_b
from fsvfm_jax import cli
from fsvfm_jax.benchmark import attention_errors
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.errors import ConfigError, NotFiniteError


def test_the_shapes_are_those_of_the_network():
    # Tokens, heads, width: kept patches and the class token in the encoder, all in the decoders.
    shapes = attention_errors.shapes(resolve(vit_b.get_config()))
    assert shapes == [(50, 12, 64), (197, 16, 32), (197, 16, 48)]


def test_errors_are_small_and_a_wrong_kernel_shows(monkeypatch):
    attend, wrong = attention_errors.attend, [0.0]

    def stand_in(q, k, v, *, lengths, implementation):
        # As in training: only cuDNN's number of tokens is even.
        assert q.shape[1] == {"cudnn": 6, "xla": 5}[implementation]
        assert (lengths is None) == (implementation == "xla")
        out = attend(q, k, v, lengths=lengths, implementation="xla")
        return out + (wrong[0] * q if implementation == "cudnn" else 0)

    monkeypatch.setattr(attention_errors, "attend", stand_in)
    found = attention_errors.errors(5, 2, 8)
    assert (found["tokens"], found["heads"], found["width"]) == (5, 2, 8)
    for name in ("cudnn", "xla"):
        assert 0 < found[name]["output"] < 0.02
        assert all(0 < error < 0.05 for error in found[name]["gradients"])
    wrong[0] = 1.0
    assert attention_errors.errors(5, 2, 8)["cudnn"]["output"] > 0.5
    wrong[0] = math.nan
    with pytest.raises(NotFiniteError, match="attention by cudnn with 5 tokens and 2 heads of 8"):
        attention_errors.errors(5, 2, 8)


def test_one_line_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(attention_errors, "has_cudnn_attention", lambda device: True)
    monkeypatch.setattr(attention_errors, "errors", lambda *shape: {"tokens": shape[0]})
    monkeypatch.setattr(cli, "config_filename", lambda: "configs/vit_b.py")
    args = Namespace(output=None)
    attention_errors.benchmark_attention(args, vit_b.get_config(), command="the command")
    record = json.loads(capsys.readouterr().out)
    assert record["errors"] == [{"tokens": 50}, {"tokens": 197}, {"tokens": 197}]
    assert (record["device_kind"], record["jax"]) == ("cpu", jax.__version__)


def test_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="needs NVIDIA GPUs, A100 or newer, and this is cpu"):
        attention_errors.benchmark_attention(Namespace(output=None), vit_b.get_config(), command="")


def test_the_error_is_relative():
    expected = jnp.array([3.0, 4.0])
    assert attention_errors.relative_error(
        expected + jnp.array([0.0, 0.5]), expected
    ) == pytest.approx(0.1)
