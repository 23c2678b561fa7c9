"""Tests the other objects in checkpoints: plain values, placeholders, or a refusal."""

import argparse
import collections
import datetime
import pathlib

import numpy as np
import pytest
from golden_files import need

from fsvfm_jax.convert import pth
from fsvfm_jax.convert.pickle_calls import Placeholder
from fsvfm_jax.errors import DataError

torch = need("torch")

RANDOM = np.random.default_rng(0)
GENERATOR = Placeholder("numpy.random._pickle.__generator_ctor")
HARMLESS = {
    "PosixPath": (pathlib.PosixPath("/a/b"), "/a/b"),
    "relative path": (pathlib.PosixPath("a/b"), "a/b"),
    "WindowsPath": (pathlib.PureWindowsPath("C:\\a\\b"), "C:\\a\\b"),
    "torch.device": ([torch.device("cuda", 1), torch.device("cpu")], ["cuda:1", "cpu"]),
    "torch.Size": (torch.Size([2, 3]), (2, 3)),
    "torch.dtype": (torch.bfloat16, "torch.bfloat16"),
    "defaultdict": (collections.defaultdict(list, a=[1]), {"a": [1]}),
    "Counter": (collections.Counter({30: 2, 60: 1}), {30: 2, 60: 1}),
    "set": ([{1}, frozenset({2})], [[1], [2]]),
    "bytes": (b"\x00\xff", b"\x00\xff"),
    "Namespace": (argparse.Namespace(out=pathlib.PosixPath("x")), {"out": "x"}),
    "whole numbers": (RANDOM.bit_generator.state, RANDOM.bit_generator.state),
    "Generator": (RANDOM, GENERATOR),
    "datetime": (datetime.datetime(2024, 1, 1), Placeholder("datetime.datetime")),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pth"


def read(path, value, protocol):
    torch.save({"model": {"x": torch.ones(1)}, "more": value}, path, pickle_protocol=protocol)
    return pth.read(path).extra["more"]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_objects_are_read(path, name, protocol):
    value, wanted = HARMLESS[name]
    found = read(path, value, protocol)
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numpy_are_read(path, order, protocol):
    array = np.arange(6, dtype=np.float32).reshape(2, 3, order=order)
    found = read(path, {"a": array, "again": array}, protocol)
    np.testing.assert_array_equal(found["a"], array)
    np.testing.assert_array_equal(found["again"], array)
    name, state, *_ = read(path, np.random.RandomState(0).get_state(), protocol)
    assert name == "MT19937" and state.dtype == np.uint32 and state.shape == (624,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_parameters_are_arrays(path, protocol):
    network = torch.nn.Linear(3, 2)
    torch.save({"model": dict(network.named_parameters())}, path, pickle_protocol=protocol)
    found = pth.read(path).state_dict
    np.testing.assert_array_equal(found["weight"], network.weight.detach().numpy())


REFUSED = {
    "float8": (torch.ones(2).to(torch.float8_e4m3fn), "an array of torch.float8_e4m3fn, which is"),
    "uint16": (torch.ones(2, dtype=torch.uint16), "an array of torch.uint16, which is not read"),
    "complex": (torch.ones(2, dtype=torch.complex64), "makes an array of complex numbers"),
    "sparse": (torch.eye(2).to_sparse(), "makes a sparse array"),
    "meta": (torch.ones(2, device="meta"), "makes an array without its values"),
    "objects": (np.array(["a", 1], dtype=object), "holds a NumPy array of objects"),
    "network": (torch.nn.Linear(1, 1), "class of a whole network that was pickled"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_for_what_it_is(path, name):
    value, reason = REFUSED[name]
    with pytest.raises(DataError, match=reason):
        read(path, value, 2)


def test_a_quantised_array_is_named(path):
    with pytest.warns(UserWarning, match="deprecated"):
        value = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    with pytest.raises(DataError, match="makes a quantised array"):
        read(path, value, 2)
