"""Tests the detection of file formats by the first bytes."""

import io
import pickle
import tarfile

import pytest
from golden_files import need

from fsvfm_jax.convert import pth
from fsvfm_jax.convert.formats import name_format
from fsvfm_jax.convert.safetensors import save_safetensors
from fsvfm_jax.errors import DataError


def legacy(path):
    torch = need("torch")
    torch.save({"x": torch.ones(1)}, path, _use_new_zipfile_serialization=False)


def tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())


FILES = {
    "the format of PyTorch before version 1.6": legacy,
    "a bare pickle": lambda path: path.write_bytes(pickle.dumps({"x": 1})),
    "a tar archive": tar,
    "a safetensors file by another name": lambda path: save_safetensors(path, {}, metadata={}),
    "a pointer of Git LFS": lambda path: path.write_text("version https://git-lfs.github.com/s"),
    "a web page": lambda path: path.write_text("<!doctype html><title>404</title>"),
    "an HDF5 file": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"),
    "a GGUF file": lambda path: path.write_bytes(b"GGUF\x03\0\0\0"),
    "compressed with gzip": lambda path: path.write_bytes(b"\x1f\x8b\x08"),
    "a 7z archive": lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c"),
    "empty": lambda path: path.write_bytes(b""),
    "of no format known here": lambda path: path.write_bytes(bytes(1000)),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_for_what_it_is(tmp_path, name):
    path = tmp_path / "pytorch_model.bin"
    FILES[name](path)
    assert name in name_format(path.read_bytes()[:512])
    with pytest.raises(DataError, match=f"is .*{name}.*, and no zip archive"):
        pth.read(path)
