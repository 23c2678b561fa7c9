"""Tests where a network is found in a file: entries, prefixes, choices, ignored arrays."""

from pathlib import Path

import numpy as np
import pytest
from golden_files import detector
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_weights import TINY, encoder_params

from fsvfm_jax.convert import huggingface
from fsvfm_jax.convert.entries import AVERAGES, WORDS, WRAPPERS, find_network, networks_in
from fsvfm_jax.convert.folder import timm_names
from fsvfm_jax.errors import ConfigError, DataError

PARAMS = encoder_params(TINY)
TIMM = timm_names(PARAMS)
HUGGINGFACE = huggingface.to_state_dict(PARAMS)
BARE = {key.removeprefix("vit."): array for key, array in HUGGINGFACE.items()}
FAS = detector("fas")
PATH = Path("x.pth")


def find(content, **options):
    return find_network(content, path=PATH, **options)


def under(prefix, arrays):
    return {f"{prefix}{key}": array for key, array in arrays.items()}


def filled(arrays, value):
    return {key: np.full_like(array, value) for key, array in arrays.items()}


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from((*WORDS, *AVERAGES)), max_size=2),
    st.lists(st.sampled_from((*WORDS, *WRAPPERS)), max_size=4),
    st.sampled_from(["timm", "huggingface", "bare", "fas"]),
)
@example([], ["backbone", "vit"], "timm")  # the prefix of an anti-spoofing network's encoder
def test_a_network_is_found_under_any_known_names(entries, prefix, library):
    network = {"timm": TIMM, "huggingface": HUGGINGFACE, "bare": BARE, "fas": FAS}[library]
    content = under("".join(f"{word}." for word in prefix), network)
    for entry in entries:
        content = {entry: content, "epoch": 3}
    found = find(content)
    known = [word for word in prefix if word not in WRAPPERS]
    if library in ("huggingface", "bare") and known[-1:] == ["vit"]:
        return  # The prefix "vit." is a part of Hugging Face's names.
    assert found.state_dict.keys() == network.keys()
    assert all(found.state_dict[key] is network[key] for key in network)
    assert found.entry == ".".join(reversed(entries)) and not found.others and not found.left_out
    assert found.prefix == "".join(f"{word}." for word in known)
    assert set(found.wrappers) == set(prefix) & set(WRAPPERS)


def test_torch_compile_may_put_its_name_in_the_middle():
    content = {
        f"module._orig_mod.{key.replace('blocks.0', 'blocks.0._orig_mod')}": array
        for key, array in TIMM.items()
    }
    found = find(content)
    assert found.state_dict.keys() == TIMM.keys()
    assert (found.prefix, found.wrappers) == ("module.", ("_orig_mod",))
    with pytest.raises(DataError, match="keys that differ only in '_orig_mod'"):
        find(TIMM | under("_orig_mod.", TIMM))


@pytest.mark.parametrize(
    ("raw", "average"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("net", "ema_model"),
        ("model_state_dict", "ema_state_dict"),
    ],
)
@pytest.mark.parametrize("average_first", [False, True])
def test_of_raw_weights_and_their_average_one_is_read_and_the_other_named(
    raw, average, average_first, caplog
):
    content = {raw: filled(TIMM, 1), average: filled(TIMM, 2), "epoch": 1}
    if average_first:
        content = dict(reversed(content.items()))
    for entry, value in (None, 1), ("", 1), (average, 2), (raw, 1):
        caplog.clear()
        found = find(content, entry=entry)
        assert np.all(found.state_dict["cls_token"] == value)
        chosen, other = (raw, average) if value == 1 else (average, raw)
        assert found.entry == chosen and found.others == (other,)
        assert f"x.pth holds several networks: '{chosen}' is read, not '{other}'" in caplog.text
        assert "--entry" in caplog.text and "config.init.entry" in caplog.text


@pytest.mark.parametrize("branch", ["student", "teacher"])
def test_of_student_and_teacher_the_branch_is_read(branch):
    content = {
        "student": under("module.backbone.", filled(TIMM, 1)),
        "teacher": under("backbone.", filled(TIMM, 2)),
    }
    for nested in content, {"model": content}, under_flat(content):
        found = find(nested, branch=branch)
        assert np.all(found.state_dict["cls_token"] == (1 if branch == "student" else 2))
        assert len(found.others) == 1 and not found.left_out
    assert find({"teacher": content["teacher"]}, branch="student").entry == "teacher"
    assert find(content, branch=branch, entry="teacher.backbone").entry == "teacher"


def under_flat(content):
    """Returns one dictionary with the arrays of both networks, as Lightning writes it."""
    return {f"{name}.{key}": x for name, arrays in content.items() for key, x in arrays.items()}


def test_a_network_at_the_top_does_not_take_in_the_others():
    content = TIMM | under("model_ema.module.", filled(TIMM, 2))
    found = find(content)
    assert found.state_dict.keys() == TIMM.keys() and found.others == ("model_ema.module",)
    average = find(content, entry="model_ema")
    assert average.others == ("the file itself",)
    assert np.all(average.state_dict["norm.bias"] == 2)


def test_what_lies_beside_a_network_is_left_out_and_named(caplog):
    heads = {f"head.{number}": np.zeros(1) for number in range(30)}
    found = find(under("module.", under("backbone.", TIMM) | heads))
    assert found.state_dict.keys() == TIMM.keys()
    assert len(found.left_out) == 30
    assert "30 arrays that are not in its network are skipped: 'module.head.0'" in caplog.text
    assert "'module.head.19' and 10 more" in caplog.text


def test_an_entry_or_prefix_that_is_not_known_is_named():
    with pytest.raises(DataError, match=r"under 'module\.odd_encoder', which is no entry or pr"):
        find(under("module.odd_encoder.", TIMM))
    found = find(under("module.odd_encoder.", TIMM), entry="module.odd_encoder")
    assert found.state_dict.keys() == TIMM.keys()
    with pytest.raises(DataError, match="under 'generator'"):
        find({"generator": TIMM})
    with pytest.raises(ConfigError, match="no network under the entry 'ema'; it has 'model'"):
        find({"model": TIMM, "net": TIMM | {}}, entry="ema")


def test_an_optimizers_arrays_are_no_network():
    moments = {"exp_avg": TIMM, "exp_avg_sq": TIMM}
    found = find({"model": TIMM | {}, "optimizer": moments, "optimizer_states": {"a": TIMM}})
    assert found.entry == "model" and not found.others


def test_dictionaries_of_dictionaries_take_no_time():
    content = TIMM
    for _ in range(30):
        content = dict.fromkeys(map(str, range(200)), content)
    with pytest.raises(DataError, match="holds no network"):
        find(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1], "holds no network but a list"),
        ({}, "holds no network"),
        ({"model": {"a": 1}}, r"'a' of it is a int, not an array; its keys are 'model'"),
        ({"model": {1: np.ones(1)}}, "'1' of it is a ndarray"),
        ({"x" * 1000: np.ones(1)}, "a key of 1000 characters, 'x{40}'"),
        ({f"{number}.cls_token": np.ones(1) for number in range(51)}, "51 networks, more than any"),
    ],
)
def test_a_file_without_a_network_is_refused(content, reason):
    with pytest.raises(DataError, match=rf"^x\.pth .*{reason}"):
        find(content)


def test_the_prefixes_of_keys_are_listed():
    keys = [*under("module._orig_mod.", TIMM), *under("ema.", HUGGINGFACE)]
    assert networks_in(keys) == ["module.", "ema."]
    assert networks_in(["a.weight"]) == [""]
