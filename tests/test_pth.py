"""Tests files of the reference: what is read, written, and refused without being run."""

import argparse
import collections
import copy
import hashlib
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from golden_files import need

from fsvfm_jax.convert import pth
from fsvfm_jax.errors import ConfigError, DataError, StorageError

torch = need("torch")

WEIGHTS = {
    "norm.weight": np.linspace(0, 1, 6, dtype=np.float32),
    "head.weight": np.arange(12, dtype=np.float32).reshape(2, 6),
}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "checkpoint-7.pth"


@pytest.fixture
def good(path) -> Path:
    """Returns a checkpoint like the reference's: ordered dict, pickled options, other entries."""
    tensors = collections.OrderedDict((k, torch.from_numpy(v)) for k, v in WEIGHTS.items())
    options = argparse.Namespace(model="fsfm_vit_tiny", data_path=["x"], betas=(0.9, 0.95))
    torch.save({"model": tensors, "epoch": 7, "args": options, "scaler": {}}, path)
    return path


def test_reading_gives_arrays_and_plain_values(good):
    content = pth.read(good)
    assert content.state_dict.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(content.state_dict[name], array)
        assert content.state_dict[name].dtype == np.float32
    options = {"model": "fsfm_vit_tiny", "data_path": ["x"], "betas": (0.9, 0.95)}
    assert content.extra == {"epoch": 7, "args": options, "scaler": {}}
    assert content.sha256 == hashlib.sha256(good.read_bytes()).hexdigest()


def test_a_bare_state_dict_is_read_too(path):
    torch.save({name: torch.from_numpy(array) for name, array in WEIGHTS.items()}, path)
    assert pth.read(path).state_dict.keys() == WEIGHTS.keys()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_read_exactly(path, dtype):
    tensor = torch.arange(8, dtype=getattr(torch, dtype)) / 4
    torch.save({"model": {"x": tensor}}, path)
    np.testing.assert_array_equal(pth.read(path).state_dict["x"], np.arange(8) / 4)


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_what_is_written_pytorch_loads_strict(path, key):
    extra = {"epoch": 3, "optimizer": {"state": {0: {"step": np.float32(2)}}, "lr": 0.1}}
    transposed = WEIGHTS | {"head.weight": np.asfortranarray(WEIGHTS["head.weight"])}
    pth.write(path, transposed, key=key, extra=extra)
    content = torch.load(path, weights_only=True)
    network = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(6, bias=False)})
    network["head"] = torch.nn.Linear(6, 2, bias=False)
    network.load_state_dict(content[key], strict=True)
    assert content["optimizer"]["state"][0]["step"] == torch.tensor(2.0)
    assert [path] == list(path.parent.iterdir())
    again = pth.read(path)
    assert again.extra["epoch"] == 3
    np.testing.assert_array_equal(again.state_dict["head.weight"], WEIGHTS["head.weight"])


def test_numbers_of_numpy_become_pythons(path):
    numbers = [np.float32(0.5), np.int64(7), np.bool_(True)]
    torch.save({"model": {}, "threshold": np.float64(0.37), "more": numbers}, path)
    extra = pth.read(path).extra
    assert extra == {"threshold": 0.37, "more": [0.5, 7, True]}
    assert [type(number) for number in extra["more"]] == [float, int, bool]


def test_arrays_of_many_megabytes_are_read(path):
    tensor = torch.arange(2**23, dtype=torch.float32)
    torch.save({"model": {"x": tensor}}, path)
    np.testing.assert_array_equal(pth.read(path).state_dict["x"], tensor.numpy())


def refused(path, match):
    """Returns the error, which must name the file, within 5 s of work and 1 GB."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=match) as caught:
        pth.read(path)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**6  # kB
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(path):
    refused(path, "No such file")
    refused(path.parent, "it is a folder, not a plain file")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_off_is_refused(good, share):
    good.write_bytes(good.read_bytes()[: int(share * good.stat().st_size)])
    refused(good, "damaged|no zip archive")


def test_a_flipped_bit_is_refused_or_changes_nothing(good):
    original = good.read_bytes()
    expected = pth.read(good)
    rng = np.random.default_rng(0)
    refusals = 0
    for position in rng.integers(0, 8 * len(original), 150):
        damaged = bytearray(original)
        damaged[position // 8] ^= 1 << (position % 8)
        good.write_bytes(damaged)
        try:
            content = pth.read(good)
        except DataError:
            refusals += 1
            continue
        # Arrays start at multiples of 64, and no reader reads the padding between them.
        assert content.extra == expected.extra
        for name, array in expected.state_dict.items():
            np.testing.assert_array_equal(content.state_dict[name], array)
    assert refusals > 30


def test_a_flipped_bit_in_an_array_is_found_by_its_checksum(good):
    content = good.read_bytes()
    needle = WEIGHTS["head.weight"].tobytes()
    assert content.count(needle) == 1
    at = content.index(needle)
    good.write_bytes(content[:at] + b"\x01" + content[at + 1 :])
    refused(good, "checksum of .*data/1")


class Call:
    """An object that pickles as a call, which a trusting reader would make."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PROOF = "executed"
TOUCH = f"touch {PROOF}"
HOSTILE = {
    "os.system": Call(os.system, TOUCH),
    "eval": Call(eval, f"__import__('os').system({TOUCH!r})"),
    "exec": Call(exec, f"open({PROOF!r}, 'w')"),
    "subprocess.check_output": Call(subprocess.check_output, ["touch", PROOF]),
    "open": Call(open, PROOF, "w"),
    "getattr": {"epoch": [({"a": Call(getattr, Call(__import__, "os"), "system")},)]},
    "bytearray": Call(bytearray, 10**12),
    "numpy": np.array([Call(os.system, TOUCH)], dtype=object),
    # The call is harmless, but it shows that the file must not be loaded unsafely.
    "types.SimpleNamespace": types.SimpleNamespace(epoch=1),
    "argparse.ArgumentParser": Call(argparse.ArgumentParser),
}


def as_zip(content, path):
    torch.save(content, path)


def as_zip_of_newer_pickle(content, path):
    torch.save(content, path, pickle_protocol=4)


def as_legacy_pickle(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_bare_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


def as_legacy_tar(content, path):
    with tarfile.open(path, "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            program = pickle.dumps(content)
            info = tarfile.TarInfo(name)
            info.size = len(program)
            tar.addfile(info, io.BytesIO(program))


FORMATS = (as_zip, as_zip_of_newer_pickle, as_legacy_pickle, as_bare_pickle, as_legacy_tar)


@pytest.mark.parametrize("save", FORMATS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_not_run(path, name, save, monkeypatch):
    monkeypatch.chdir(path.parent)
    save({"model": {"norm.weight": torch.ones(3)}, "more": HOSTILE[name]}, path)
    in_a_zip = save in (as_zip, as_zip_of_newer_pickle)
    refused(path, "nothing in it was run" if in_a_zip else "no zip archive")
    assert not Path(PROOF).exists()


def test_a_refusal_names_what_the_file_wanted(path):
    as_zip({"model": HOSTILE["os.system"]}, path)
    refused(path, "'posix.system'")


@pytest.mark.parametrize("opcode", [b"cos\nsystem\n", b"ios\nsystem\n", b"\x82\x01"])
def test_every_way_of_naming_is_refused(good, opcode):
    rewrite(good, lambda program: b"\x80\x02(X\x04\x00\x00\x00true" + opcode + b"R.")
    refused(good, "nothing in it was run")


def rewrite(path, edit):
    """Writes the archive again with an edited pickle and correct checksums."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            archive.writestr(name, edit(data) if name.endswith("/data.pkl") else data)


@pytest.mark.parametrize(
    "edit",
    [
        lambda program: b"",
        lambda program: program[: len(program) // 2],
        lambda program: b"\x80\x02N.",
        lambda program: b"\x80\x02]q\x00h\x00a.",
        lambda program: b"\xff" + program,
        # An array has more numbers than its entry contains.
        lambda program: program.replace(b"K\x0ctq", b"J\xff\xff\xff\x7ftq"),
        lambda program: b"\x80\x02" + b"N" * 2_000_000 + b"N.",
    ],
)
def test_nonsense_is_refused(good, edit):
    before = good.read_bytes()
    rewrite(good, edit)
    assert good.read_bytes() != before
    refused(good, "makes no sense|no network|its storage at|500000 at most")


def test_a_directory_larger_than_any_checkpoints_is_not_taken_in(path):
    entry = b"PK\x01\x02" + bytes(42)
    count = 2**24 // len(entry) + 1
    directory = entry * count
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), 4, 0)
    path.write_bytes(b"PK\x03\x04" + directory + end)
    refused(path, "directory of 167")


def test_the_longest_pickle_let_in_is_read_in_time(good):
    rewrite(good, lambda program: b"\x80\x02(" + b"N" * 499_000 + b"t.")
    # The new process has no type checks, which would take longer than the reading.
    program = (
        "import resource, sys, time; from fsvfm_jax.convert import pth\n"
        "def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "started, before = time.process_time(), used()\n"
        "try: pth.read(sys.argv[1])\n"
        "except Exception as error: print(error)\n"
        "print(time.process_time() - started, used() - before)"
    )
    command = [sys.executable, "-c", program, str(good)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refusal, figures = done.stdout.splitlines()
    seconds, kilobytes = map(float, figures.split())
    assert "no network" in refusal and seconds < 5 and kilobytes < 10**6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 1000])
def test_arrays_larger_than_the_file_are_refused(path, dtype, count):
    """Tests one such array, and several that are too large together."""
    one = torch.zeros(1, dtype=getattr(torch, dtype))
    torch.save({"model": {str(i): one.expand(10**10 // count**2) for i in range(count)}}, path)
    refused(path, "larger than the file")


def test_of_two_archives_in_one_file_the_checked_one_is_read(path):
    """zipfile reads the directory at the end, others another one: the checked one must be read."""
    torch.save({"model": {"x": torch.full((4,), 1.0)}}, path)
    first = path.read_bytes()
    torch.save({"model": {"x": torch.full((4,), 2.0)}}, path)
    path.write_bytes(first + path.read_bytes())
    np.testing.assert_array_equal(pth.read(path).state_dict["x"], np.full(4, 2.0))


def test_lists_of_lists_of_the_same_list_take_no_time(path):
    nested = ["x"]
    for _ in range(30):
        nested = [nested] * 10
    torch.save({"model": {"norm.weight": torch.zeros(1)}, "more": nested}, path)
    start = time.process_time()
    refused(path, "repeats its containers")
    assert time.process_time() - start < 5


def test_archives_that_unpack_to_more_than_they_are_are_refused(good):
    with zipfile.ZipFile(good, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("checkpoint-7/data/9", bytes(10**7))
    refused(good, "compressed")


def test_archives_with_overlapping_entries_are_refused(good):
    with zipfile.ZipFile(good, "a") as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        for number in range(100):
            twin = copy.copy(entry)
            twin.filename = f"checkpoint-7/data/1{number}"
            archive.filelist.append(twin)
        archive.comment = b"so that the directory is written again"
    refused(good, "overlapping")


@pytest.mark.parametrize("names", [["a/data.pkl", "b/data.pkl"], ["a/weights"], []])
def test_other_archives_are_refused(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "text/plain")
        for name in names:
            archive.writestr(name, b"N.")
    refused(path, "no checkpoint of PyTorch")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no zip archive"),
        (b"\x89PNG\r\n", "no zip archive"),
        (b"PK\x03\x04" + bytes(1000), "damaged"),
    ],
)
def test_other_files_are_refused(path, content, match):
    path.write_bytes(content)
    refused(path, match)


@pytest.mark.parametrize(
    "content",
    [{"model": {"a": 1}}, {"model": {1: torch.ones(1)}}, {"epoch": 1}, [torch.ones(1)]],
)
def test_a_file_without_a_network_is_refused(path, content):
    torch.save(content, path)
    refused(path, "no network")


def test_reading_needs_no_pytorch_and_writing_says_how_to_get_it(good, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        assert pth.read(good).state_dict.keys() == WEIGHTS.keys()
        with pytest.raises(ConfigError, match=r"pip install '\.\[convert\]'"):
            pth.write(good, WEIGHTS)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"missing/x\.pth cannot be written"):
        pth.write(tmp_path / "missing" / "x.pth", WEIGHTS)


def test_no_refusal_advises_to_load_unsafely(path):
    torch.save({"model": HOSTILE["types.SimpleNamespace"]}, path)
    with pytest.raises(DataError) as caught:
        pth.read(path)
    assert "weights_only" not in str(caught.value)


def test_what_is_no_plain_file_is_refused_at_once(path):
    os.mkfifo(path)
    refused(path, "a named pipe, not a plain file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(path, "a device, not a plain file")
    path.unlink()
    path.mkdir()
    refused(path, "a folder, not a plain file")


def test_a_sparse_file_is_refused_before_it_is_hashed(path):
    with path.open("wb") as file:
        file.truncate(50 * 10**9)
    refused(path, "50,000,000,000 bytes")
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(16 * 10**9)
    refused(path, "damaged")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"a/code/x.py": b"", "a/data.pkl": b"N."}, "is a TorchScript program"),
        ({"a.npy": b""}, r"an archive of NumPy: call it \.npz"),
        ({"a/data.pkl": b"N.", "a/byteorder": b"big"}, "saved on a big-endian machine"),
        ({"a/data.pkl": b"N.", "a/\x1b[2J\n": b""}, "no network but a NoneType"),
        ({str(number): b"" for number in range(20_001)}, "20001 entries"),
    ],
)
def test_archives_are_named_for_what_they_are(path, entries, reason):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    refused(path, reason)


def test_entries_of_the_same_name_are_refused(good):
    with zipfile.ZipFile(good, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("checkpoint-7/data.pkl", b"N.")
    refused(good, "entries of the same name")


@pytest.mark.parametrize("entry", ["model", "model_ema"])
def test_the_rest_of_a_file_is_all_but_the_network_that_is_read(path, entry):
    torch.save(
        {"model": {"x": torch.ones(1)}, "model_ema": {"x": torch.zeros(1)}, "epoch": 3}, path
    )
    content = pth.read(path, entry=entry)
    assert content.extra.keys() == {"model", "model_ema", "epoch"} - {entry}
    assert content.network.entry == entry
    assert content.state_dict["x"] == (entry == "model")


def test_bfloat16_arrays_that_share_memory_are_read(path):
    one = torch.ones(1000, dtype=torch.bfloat16)
    torch.save({"model": {"x": one}, "model_ema": {"x": one}}, path)
    assert pth.read(path).state_dict["x"].sum() == 1000
