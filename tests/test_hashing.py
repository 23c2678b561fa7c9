"""Tests that SHA-256 is the same for files of every kind."""

import hashlib

from fsvfm_jax.host.hashing import BLOCK_BYTES, sha256_of


def test_a_file_of_several_blocks_has_the_hash_of_its_bytes(tmp_path):
    content = bytes(range(256)) * (BLOCK_BYTES // 128) + b"end"
    (tmp_path / "a").write_bytes(content)
    calls = []
    with open(tmp_path / "a", "rb") as opened:
        found = sha256_of(opened, after_block=lambda: calls.append(1))
    assert found == hashlib.sha256(content).hexdigest()
    assert len(calls) == 3


def test_what_was_read_before_does_not_count(tmp_path):
    (tmp_path / "a").write_bytes(b"ab")
    with open(tmp_path / "a", "rb") as opened:
        opened.read(1)
        assert sha256_of(opened) == hashlib.sha256(b"b").hexdigest()
